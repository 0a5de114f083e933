"""The default trace estimator for several tasks: one deflation basis for all, and forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.kept import Keep, Long, Resumable, never
from hessspec._base.probes import rademacher_on
from hessspec._base.progress import ProgressBar
from hessspec._krylov.block_basis import PILOT, WIDTH, KrylovBasis, rows_in
from hessspec._krylov.blocks import without
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.parts import skips_zeros
from hessspec._operators.symmetry import Symmetry
from hessspec._trace.choice import LEAST, Choice, Goal, geometric_mean, next_rank
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.guards import LOOKS, disagreement, tasks_counted
from hessspec._trace.hutchpp import SKETCH_STREAM
from hessspec._trace.strata import Strata, first_rows


class SharedDeflation(Resumable):
    """One basis Q for all T tasks: tr H_t = Σᵢ qᵢᵀH_t qᵢ + E vᵀH_t v, v = Πs orthogonal to Q.

    The probes s are random signs, Π = I - QᵀQ: E[v vᵀ] = Π, and what is diagonal in ΠH_tΠ costs no
    variance (with directions uniform on a sphere it does, and they take longer to draw).

    Q is a Krylov basis of one weighted sum of the task Hessians, each divided by its own spread,
    at one scalar product a direction; all the rest is quadratic forms, all tasks in each pass.
    Directions that are given (orthonormal rows) stand first in Q, at a form of all tasks each.
    How large Q gets is a matter of expected cost to the error wanted (`next_rank`): that of a
    `goal`, or the one that the products allowed would reach as things stand.
    What Q leaves is sampled with common probes or, where the pilot finds that this pays, with
    probes of their own for groups of batches (`Strata`).
    """

    method = "auto"
    changing = (
        *("symmetry", "strata", "exact", "systematic", "cost", "price", "num_matvecs", "drawn"),
        *("variances", "weights", "krylov", "entered", "wanted", "grown_for"),
    )

    def __init__(
        self,
        operator: AbstractOperator,
        key: PRNGKeyArray,
        room: int,
        directions: Float[Array, "r dim"] | None = None,
        goal: Goal | None = None,
    ) -> None:
        self.operator, self.key, self.room, self.goal = operator, key, room, goal
        self.directions = directions
        self.given = 0 if directions is None else directions.shape[0]
        self.max_rank = 0
        self.tasks = operator.num_tasks or 1
        self.krylov: KrylovBasis | None = None
        self.pilot = self._signs(0, PILOT)
        self.symmetry = Symmetry(operator)
        self.strata = Strata(operator, key)
        self.costs = self.strata.costs
        self.exact = np.zeros((len(self.strata.parts), self.tasks))  # of each group of batches
        self.systematic = np.zeros(self.tasks)
        self.cost = 0.0
        self.price = 0.0  # of all so far, by the model of costs
        self.num_matvecs = 0
        self.drawn = PILOT
        self.variances: list[tuple[int, np.ndarray]] = []
        self.weights = np.zeros(0)  # of the tasks, in the sum whose Krylov basis it is
        self.entered = 0  # rows of the basis whose forms are known
        self.wanted = 0  # rows that it is growing to have
        self.grown_for = 0  # the budget for which the basis has been let grow

    def state(self) -> dict[str, Any]:
        """With the pilot, what the present basis has left of it."""
        return {**super().state(), "pilot": Long(lambda: self.pilot, f"{self.entered:06d}")}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up where all that was multiplied stands."""
        self.weights, self.pilot = state["weights"], state["pilot"].rows()
        self.krylov, self.symmetry = self._basis()
        super().resume(state)

    def advance(self, budget: int, bar: ProgressBar, keep: Keep = never) -> TraceEstimate:
        """The estimate at no more than the cost of `budget` forms of all tasks."""
        allowed = budget * self.operator.form_cost
        if self.krylov is None:
            self._begin(bar)
            keep()
        while self.grown_for != budget and self._wanted_rank(allowed) > self.entered:
            self._grow(bar, keep)
        self.grown_for = budget
        if not self.strata.is_decided:
            self.strata.decide(self._left(allowed), self._rank())
        while (more := self._left(allowed)) > 0:
            self._sample(min(PILOT, more), bar)
            keep()
        return self._estimate()

    def _left(self, allowed: float) -> int:
        """How many samples can still be paid for."""
        return int((allowed - self.cost) / self.operator.form_cost + 1e-9)

    @property
    def samples(self) -> Float[np.ndarray, "T k"]:
        """The samples beside the present basis."""
        return np.concatenate(self.strata.samples, axis=-1).sum(axis=0)

    def _begin(self, bar: ProgressBar) -> None:
        """The pilot, beside the directions that were given; its first rows tell how sure forms are.

        Those are taken as they are drawn, so that rounding is seen along the directions too. They
        stand in the last block of the directions where that has room.
        """
        looked = self.pilot[:LOOKS]
        if self.given:
            assert self.directions is not None
            forms = self._take(jnp.concatenate([self.directions, looked]), bar)
            self.exact = self.exact + forms[..., : self.given].sum(axis=-1)
            self.pilot = without(self.directions, self.pilot)
            self._measure_pilot(bar)
            forms = forms[..., self.given :].sum(axis=0)
        else:
            self._measure_pilot(bar)
            forms = self.samples[:, :LOOKS]
        self.weights = self._weights()
        self.krylov, self.symmetry = self._basis()
        self._compare(looked, forms)
        if self.directions is not None and self.given:
            self.krylov.begin_with(self.directions)
        self.entered = self.wanted = self.given

    def _take(self, rows: Float[Array, "r dim"], bar: ProgressBar) -> Float[np.ndarray, "B T r"]:
        """Forms of rows in blocks of one size, so that they share their program."""
        found = []
        for first in range(0, rows.shape[0], PILOT):
            block = rows[first : first + PILOT]
            count = block.shape[0]
            block = jnp.pad(block, ((0, PILOT - count), (0, 0)))
            found.append(self._forms(block, bar, count))
        return np.concatenate(found, axis=-1)

    def _weights(self) -> Float[np.ndarray, " T"]:
        """Of the tasks in the sum: 1 over the spread of each, times a random share."""
        key = jax.random.fold_in(self.key, SKETCH_STREAM)
        spread = np.sqrt(self.variances[0][1])
        # Forms that differ by rounding alone, as those of c times the identity, need no basis.
        rounding = 8 * np.finfo(self.operator.dtype).eps * np.abs(self.samples).max(axis=-1)
        spread = np.where(spread > rounding, spread, 0.0)
        # Positive and unequal: tasks that share a direction add up, and no two cancel for sure.
        weights = np.asarray(jax.random.uniform(key, (self.tasks,)), np.float64) + 0.5
        weights = weights * np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        largest = weights.max() if weights.max() > 0 else 1.0
        return weights / largest

    def _basis(self) -> tuple[KrylovBasis, Symmetry]:
        scalar = self.operator.weighted(jnp.asarray(self.weights))
        scalar = scalar.linearised(WIDTH, self.room // 2)
        self.max_rank = rows_in(self.room, scalar)
        symmetry = Symmetry(scalar)
        key = jax.random.fold_in(self.key, SKETCH_STREAM)
        return KrylovBasis(scalar, key, symmetry), symmetry

    def _compare(self, looked: Float[Array, "k dim"], forms: Float[np.ndarray, "T k"]) -> None:
        """Forms of the tasks beside products with their sum, by the program that grows the basis.

        What is found of the sum is put to the account of each task in turn.
        """
        if not self.operator.has_products:
            return
        assert self.krylov is not None
        assert isinstance(self.krylov.operator, AbstractOperator)  # the sum of tasks as a whole
        scalar, weights = self.krylov.operator, self.weights
        found = disagreement(scalar, looked, weights @ forms, self.symmetry)
        self.systematic = np.divide(found, weights, out=self.systematic, where=weights > 0)
        self.cost += LOOKS
        self.price += LOOKS
        self.num_matvecs += LOOKS

    def _wanted_rank(self, allowed: float) -> int:
        """Where the basis should go from here; the pilot that is asked counts half from then on."""
        assert self.krylov is not None
        rank, left = self._rank(), self._left(allowed)
        if self.entered < self.wanted:  # it has begun to
            return self.wanted
        tax = (1.0 + self.operator.form_cost) / self.operator.form_cost
        # What is within these products: directions and their pilot, and samples beside them.
        within = rank + PILOT * int((left - PILOT - LEAST) / tax / PILOT)
        most = min(self.max_rank, self.operator.dim - 2 * WIDTH)
        if self.krylov.full or rank + PILOT > min(most, within):
            return rank
        means = [(known, geometric_mean(values)) for known, values in self.variances]
        self.strata.look()
        held = self.samples.shape[-1]
        room = wanted = left
        if self.goal is not None:
            room = self._left(self.goal.cap * self.operator.form_cost)
            value = self.exact.sum(axis=0) + self.samples.mean(axis=-1)
            total = self.goal.samples(value, self.variances[-1][1])
            wanted = int(min(max(total - held, 0), room))
        found = next_rank(
            means, self.costs, held=held, wanted=wanted, room=room, tax=tax, most=most
        )
        self.wanted = min(found, within)
        return self.wanted

    def _grow(self, bar: ProgressBar, keep: Keep) -> None:
        assert self.krylov is not None
        while self.krylov.rank < self.wanted and not self.krylov.full:
            products = self.krylov.grow()
            self.cost += products
            self.price += products * (self.costs.direction(self._rank()) - self.costs.extra)
            self.num_matvecs += products
            keep()
        self._enter(bar)
        keep()

    def _enter(self, bar: ProgressBar) -> None:
        """The new rows of Q: their forms are exact, and the pilot loses them."""
        assert self.krylov is not None
        for first in range(self.entered, self.krylov.rank, PILOT):
            new = self.krylov.basis.rows(first, PILOT)
            count = min(PILOT, self.krylov.rank - first)
            self.exact = self.exact + self._forms(new, bar, count).sum(axis=-1)
            # The same probes as before, so that what is compared is the basis and not the probes.
            self.pilot = without(new, self.pilot)
        self.entered = self.wanted = self.krylov.rank
        self._measure_pilot(bar)

    def _measure_pilot(self, bar: ProgressBar) -> None:
        """The variance at this rank. The forms are samples too, until the basis grows again."""
        self.strata.begin_again()
        self.strata.samples = [self._residual_forms(self.pilot, bar, PILOT)]
        self.variances.append((self._rank(), self.samples.var(axis=-1, ddof=1)))

    def _sample(self, count: int, bar: ProgressBar) -> None:
        assert self.krylov is not None
        basis = self.krylov.basis
        if self.strata.own:
            found = self.strata.draw(count, lambda rows: basis.split(rows)[0])
            self.strata.samples.append(found)
            self._pay(count, bar, self.costs.own_sample(self._rank(), self.strata.groups))
            return
        # Filled up with zeros where these cost nothing: a last, smaller block is no new program.
        room = PILOT if all(map(skips_zeros, self.strata.parts)) else 0
        probes = self._signs(self.drawn, count, room)
        self.drawn += count
        # One pass: what it leaves is rounding, squared in the form.
        self.strata.samples.append(self._residual_forms(basis.split(probes)[0], bar, count))

    def _signs(self, start: int, count: int, room: int = 0) -> Float[Array, "rows dim"]:
        """Probes start, ..., start + count - 1; with `room` for more, rows of zeros follow."""
        indices = np.arange(start, start + max(count, room))
        dim, dtype = self.operator.dim, jnp.dtype(self.operator.dtype)
        rows = rademacher_on(self.key, indices, dim, dtype, self.operator.mesh)
        return rows if count == len(indices) else first_rows(rows, count)

    def _residual_forms(
        self, rows: Float[Array, "k dim"], bar: ProgressBar, count: int
    ) -> Float[np.ndarray, "B T k"]:
        """Forms of the first `count` rows, orthogonal to the basis. None but those are paid for."""
        forms = self.strata.common(rows)
        self._pay(count, bar, self.costs.sample(self._rank()))
        return forms[..., :count]

    def _rank(self) -> int:
        return self.given if self.krylov is None else self.krylov.rank

    def _forms(
        self, rows: Float[Array, "k dim"], bar: ProgressBar, count: int
    ) -> Float[np.ndarray, "B T k"]:
        """Forms of the first `count` rows; the others are zero and cost no further program."""
        forms = self.strata.common(rows)
        self._pay(rows.shape[0], bar, self.costs.sample(self._rank()))
        return forms[..., :count]

    def _pay(self, count: int, bar: ProgressBar, price: float) -> None:
        self.price += count * price
        self.cost += count * self.operator.form_cost
        self.num_matvecs += count * tasks_counted(self.operator)
        bar.update(count)

    def _estimate(self) -> TraceEstimate:
        return TraceEstimate.from_samples(
            self.samples,
            exact=self.exact.sum(axis=0),
            probes=self.strata.words,
            choice=Choice.of(self.costs, self._rank(), self.given, self.strata.groups, self.price),
            **self.strata.record(self.exact),
            systematic=self.systematic,
            method=self.method,
            dim=self.operator.dim,
            num_matvecs=self.num_matvecs + self.symmetry.num_matvecs,
            matvecs_per_sample=float(tasks_counted(self.operator)),
        )
