"""Sharpness and trace of every task at fine grain, followed while the network trains.

Every so many steps of training the largest eigenvalue of each task's Hessian is followed from the
look before (`hessspec.track`), and its trace is estimated with the same probes at all steps. All of
it is one compiled program on one batch of graphs, the same at all steps. Nothing of the training
depends on it: it has random numbers of its own, and parameters are read.

    <folder>/tracking.csv       a row for each look and task
    <folder>/step_....npz       what the next look starts from; of the last two states saved

Units: loss / parameter², the loss standardised.
"""

from __future__ import annotations

import io
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

import hessspec
from hessspec import TraceEstimate, TrackedPairs, TrackerState
from hessspec._base.later import Later
from hessspec_mtl.datasets.base import Examples
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import GraphBatch, balanced_batches
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.network.tasks import partial_losses
from hessspec_mtl.network.ways import for_device

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")  # half a second, and only tables need it

TABLE = "tracking.csv"
CONFIDENCE = 0.95
# Residual of an eigenvector, relative to the norm of H. A Rayleigh quotient is off by its square
# over the gap: by two per cent of the norm where the next eigenvalue is half as large.
TOLERANCE = 0.1
# Of each task in one round: the old vector, and two that follow it, of which every other time one
# looks around instead. The first look, which knows nothing, has several rounds, until no eigenvalue
# changes by more than so much of itself.
MOST_PRODUCTS = 3
MOST_ROUNDS = 8
SETTLED = 0.01
# Other vectors that are kept from look to look. Hundreds of steps later more of them help little,
# and passes over them would cost as much as a product.
NUM_KEPT = 4
# Apart from all streams of `curvature.follow`.
_TRACKING = 16
_PROBES, _STATES = range(2)
_COLUMNS = (
    *("step", "task", "sharpness", "residual", "converged"),
    *("trace", "trace_standard_error", "trace_low_95", "trace_high_95"),
    *("products", "forms", "look_seconds"),
)
_ARRAYS = ("rows", "known", "known_values", "explorer", "count", "turn", "effort")


Forms = tuple[
    Float[Array, "tasks n"] | np.ndarray,
    Float[Array, "tasks n"] | np.ndarray,
    Float[Array, "tasks n"] | np.ndarray,
]


class TaskTracker:
    """Follows all tasks' sharpness and trace along a training run (`training.along.Along`).

    What it needs to go on is kept in `folder` when the run saves a state, so that a run that was
    killed ends with the table of one that was not, but for the seconds.

    Args:
        network: what is trained.
        examples: the graphs over which the losses are averaged, one batch.
        folder: of the table, and of what the next look starts from.
        every: steps of training from one look to the next; the first is before training.
        num_probes: of the traces; each is one form of all tasks a look.
        seed: of starts and probes.

    Cost of a look: for each task, one linearised gradient, a product to check the eigenvector of
    the look before and one or more to follow it and to look around, at most `MOST_PRODUCTS`; and
    `num_probes` forms of all. The first has several such rounds.
    """

    def __init__(
        self,
        network: NetworkConfig,
        examples: Examples,
        folder: str | os.PathLike[str],
        *,
        every: int,
        num_probes: int,
        seed: int,
    ) -> None:
        self.every, self.num_probes = every, num_probes
        self._network, self._folder = network, Path(folder)
        batches = balanced_batches(examples.graphs, examples.targets, len(examples.graphs))
        (self._batch,) = for_device(batches)
        self._key = jax.random.fold_in(jax.random.key(seed), _TRACKING)
        self._probes: Array | None = None
        self._states: TrackerState | None = None
        self._rows: list[dict[str, Any]] = []
        self._last = -1

    def look(self, step: int, params: Params) -> None:
        """Add the rows of `step`; nothing is written yet."""
        start = time.perf_counter()
        with jax.default_matmul_precision("highest"):
            states, found, samples, rounds = self._looked(params)
        self._states, self._last = states, step
        seconds = time.perf_counter() - start
        estimate = TraceEstimate.from_samples(
            samples, method="tracked", dim=states.rows.shape[-1], num_matvecs=samples.size
        )
        low, high = estimate.confidence_interval(CONFIDENCE)
        for t, task in enumerate(self._network.tasks):
            columns: tuple[Any, ...] = (
                *(step, task, float(found.values[t, 0]), float(found.residuals[t, 0])),
                *(bool(found.converged[t, 0]), float(estimate.value[t])),
                *(float(estimate.standard_error[t]), float(low[t]), float(high[t])),
                *(int(found.num_matvecs[t]), rounds * self.num_probes, round(seconds, 4)),
            )
            self._rows.append(dict(zip(_COLUMNS, columns, strict=True)))

    def save(self, step: int) -> None:
        """Keep the rows so far, and what the next look starts from.

        The file that belongs to the state before stays: the process may be killed before the state
        of `step` is there.
        """
        path = self._file(self._last)
        if self._states is not None and not path.exists():
            for old in self._files()[:-1]:
                old.unlink()
            write_whole(path, _packed(self._states, self._rows))
        if self._rows:
            write_whole(self._folder / TABLE, _table(self._rows).to_csv(index=False))

    def resume(self, step: int) -> None:
        """Be as after the last look up to `step`, if that is not so already."""
        last = step - step % self.every if step >= 0 else -1
        if last == self._last >= 0:
            return
        for file in self._files():
            if file > self._file(last):
                file.unlink()
        self._last, self._states, self._rows = last, None, []
        if last < 0:
            return
        try:
            arrays, self._rows = _unpacked(self._file(last).read_bytes())
            keys = self._state_keys()
            self._states = TrackerState(**jax.tree.map(jnp.asarray, arrays), key=keys)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            table = load_tracking(self._folder)
            self._rows = [] if table is None else table[table["step"] <= last].to_dict("records")
            warnings.warn(
                f"what the tracking of step {last} left is not to be read in {self._folder} "
                f"({error}); the next look starts from nothing, and its eigenvalues are others "
                "within their residuals.",
                stacklevel=2,
            )
        self.save(step)

    def _looked(self, params: Params) -> tuple[TrackerState, TrackedPairs, np.ndarray, int]:
        """The new states, what was found of each task, samples of the traces, and the rounds."""
        probes = self._probes = self._drawn(params) if self._probes is None else self._probes
        states, found, forms, rounds = self._followed(params, probes)
        small, forms = jax.device_get((found._replace(images=found.norm), forms))
        return states, small, _samples(forms, small.values, probes.shape[1]), rounds

    def _drawn(self, params: Params) -> Float[Array, "n dim"]:
        """Probes of length √P, one a row."""
        leaves = jax.tree.leaves(params["shared"])
        dim, dtype = sum(leaf.size for leaf in leaves), leaves[0].dtype
        key = jax.random.fold_in(self._key, _PROBES)
        drawn = jax.random.normal(key, (self.num_probes, dim), dtype)
        lengths = jnp.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn * (dim**0.5 / lengths)

    def _followed(
        self, params: Params, probes: Float[Array, "n dim"]
    ) -> tuple[TrackerState, TrackedPairs, Forms, int]:
        """What the program says after one round, or, from nothing, after as many as it takes."""
        update = _program(self._network)
        if self._states is not None:
            return *update(params, self._batch, self._states, probes), 1
        states, found, forms = update(params, self._batch, self._start(probes), probes)
        rounds, spent, changed = 1, found.num_matvecs, True
        while changed and rounds < MOST_ROUNDS:
            values = found.values
            states, found, forms = update(params, self._batch, states, probes)
            changes = jnp.abs(found.values - values) > SETTLED * jnp.abs(found.values)
            rounds, spent, changed = rounds + 1, spent + found.num_matvecs, bool(changes.any())
        return states, found._replace(num_matvecs=spent), forms, rounds

    def _start(self, like: Float[Array, "n dim"]) -> TrackerState:
        dim, dtype = like.shape[1], like.dtype
        started = [TrackerState.start(key, dim, dtype=dtype) for key in self._state_keys()]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *started)
        few = {
            "known": states.known[:, :NUM_KEPT],
            "known_values": states.known_values[:, :NUM_KEPT],
        }
        return replace(states, **few)

    def _state_keys(self) -> PRNGKeyArray:
        key = jax.random.fold_in(self._key, _STATES)
        return jax.random.split(key, len(self._network.tasks))

    def _file(self, step: int) -> Path:
        return self._folder / f"step_{step:09d}.npz"

    def _files(self) -> list[Path]:
        return state_files(self._folder)


def state_files(folder: Path) -> list[Path]:
    """What looks in `folder` may start from, in the order of their steps."""
    return sorted(folder.glob("step_*.npz"))


def load_tracking(folder: str | os.PathLike[str]) -> pd.DataFrame | None:
    """The table that a `TaskTracker` wrote in `folder`, a row for each look and task; or None.

    Columns: step; task; sharpness, the largest eigenvalue of the task's Hessian, and its residual
    (an eigenvalue lies within it), whether that is within the tolerance; trace with its standard
    error and the ends of its interval; products of this task, forms and seconds of all tasks.
    """
    path = Path(folder) / TABLE
    if not path.exists():
        return None
    # Through strings: pandas' own parser of numbers is off by a bit in some versions.
    # A task may be called "NA".
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    whole = dict.fromkeys(("step", "products", "forms"), int)
    numbers = [n for n in _COLUMNS if n not in (*whole, "task", "converged")]
    table["converged"] = table["converged"] == "True"
    return table.astype({**whole, **dict.fromkeys(numbers, float)})


def tracking_seconds(table: pd.DataFrame | None) -> float:
    """Seconds of all looks."""
    if table is None:
        return 0.0
    return float(table.drop_duplicates("step")["look_seconds"].sum())


def _samples(
    forms: Forms, values: Float[np.ndarray, "tasks 1"], dim: int
) -> Float[np.ndarray, "tasks n"]:
    """θ + (P - 1) / |r|² · rᵀHr with r = v - q qᵀv: unbiased samples of tr H with q deflated."""
    form, along, across = (np.asarray(part, np.float64) for part in forms)
    theta = np.asarray(values, np.float64)
    rest = form - 2 * along * across + theta * along**2
    return theta + rest * (dim - 1) / (dim - along**2)


@cache
def _program(network: NetworkConfig) -> Callable[..., Any]:
    """(params, batch, states, probes) -> (states, pairs of each task, forms of each task).

    The forms are vᵀHv, qᵀv and (Hq)ᵀv for each probe v, with q the task's eigenvector.

    Tasks come one after the other, since each needs as many products as it needs.
    """
    losses = partial_losses(network)
    count = len(network.tasks)

    @partial(jax.jit, donate_argnums=2)
    def update(
        params: Params, batch: GraphBatch, states: TrackerState, probes: Float[Array, "n dim"]
    ) -> tuple[TrackerState, TrackedPairs, Forms]:
        flat, as_tree = ravel_pytree(params["shared"])

        def of(shared: Float[Array, " dim"]) -> Float[Array, " tasks"]:
            return losses({"shared": as_tree(shared), "heads": params["heads"]}, batch)

        def followed(
            task: tuple[TrackerState, Float[Array, " tasks"]],
        ) -> tuple[TrackerState, TrackedPairs]:
            state, weights = task
            # Hundreds of steps apart the spectrum counts as moving, however little was spent on it.
            state = replace(state, effort=jnp.full_like(state.effort, MOST_PRODUCTS))
            _, product = jax.linearize(jax.grad(lambda shared: weights @ of(shared)), flat)
            products = lambda rows: product(rows[0])[None]  # noqa: E731
            return hessspec.track(products, state, tol=TOLERANCE, max_matvecs=MOST_PRODUCTS)

        def form(probe: Float[Array, " dim"]) -> Float[Array, " tasks"]:
            along = lambda x: jax.jvp(of, (x,), (probe,))[1]  # noqa: E731
            return jax.jvp(along, (flat,), (probe,))[1]

        states, found = jax.lax.map(followed, (states, jnp.eye(count, dtype=flat.dtype)))
        along, across = (
            jnp.einsum("tkp,np->tn", block, probes, precision="highest")
            for block in (states.rows, found.images)
        )
        return states, found, (jax.lax.map(form, probes).T, along, across)

    return update


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _packed(states: TrackerState, rows: Sequence[dict[str, Any]]) -> bytes:
    """An npz file of the states and of the table so far; its entries have checksums."""
    arrays: dict[str, Any] = {f"state.{n}": np.asarray(getattr(states, n)) for n in _ARRAYS}
    arrays |= {f"table.{name}": np.array([row[name] for row in rows]) for name in _COLUMNS}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _unpacked(content: bytes) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[f"state.{name}"] for name in _ARRAYS}
        columns = {name: file[f"table.{name}"].tolist() for name in _COLUMNS}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return arrays, rows
