"""Curvatures of the tasks' losses that cannot change their sign, measured inside a training step.

Each is of the loss L_t over one fixed batch of training graphs with respect to the shared
parameters, and comes with a relative error: that of the probes for a mean over probes, residual
over value for an eigenvalue.

    gauss-newton     tr G_t, G_t the Gauss-Newton part of H_t: for random signs s_i over the graphs,
                     |∇ Σ_i s_i √(2 m_it / B) f_it|² has the mean (2/B) Σ_i m_it |∇f_it|²
    frobenius        |H_t|_F, the root of the mean of |H_t v|² over random signs v
    sharpness        the eigenvalue of H_t of the largest |λ|, followed by `hessspec.track`
    preconditioned   the same of D H_t D, D² the diagonal by which Adam scales its step

The first eigenvalue that is found may be the second largest if the two are close; later calls of
`track` look for what it missed.

Everything is a pure function of arrays; what an eigenvector was is a state that goes along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

import hessspec
from hessspec import TrackedPairs, TrackerState
from hessspec_mtl.graphs import GraphBatch
from hessspec_mtl.network.model import NetworkConfig, Params, predict
from hessspec_mtl.network.tasks import partial_losses
from hessspec_mtl.weighting import task_gradients
from hessspec_mtl.weighting.transformation import kept_unless

NUM_PROBES = 8
# Of an eigenvalue's residual, relative to the norm of H: the error of its logarithm that is left is
# below what a step of training changes.
_TOLERANCE = 0.03
_MOST_PRODUCTS = 24
_B2, _EPS = 0.999, 1e-8  # optax's defaults, with which `OPTIMIZERS` are made

Measured = tuple[Float[Array, " T"], Float[Array, " T"], Any]


@dataclass(frozen=True)
class Measuring:
    """How a curvature is measured.

    Attributes:
        start: parameters -> state.
        measure: (parameters, optimizer's state, batch, key, state) -> (curvature and relative error
            of each task, state).
    """

    start: Callable[[Params], Any]
    measure: Callable[[Params, Any, GraphBatch, PRNGKeyArray, Any], Measured]


def measuring(kind: str, network: NetworkConfig) -> Measuring:
    """The measuring of a kind named above."""
    losses = partial_losses(network)
    if kind == "gauss-newton":
        outputs = partial(predict, config=network)
        return Measuring(lambda params: (), _gauss_newton_of(outputs))
    if kind == "frobenius":
        return Measuring(lambda params: (), _frobenius_of(losses))
    tracks = _largest_of(losses, preconditioned=kind == "preconditioned")
    return Measuring(lambda params: _trackers(params, len(network.tasks)), tracks)


def _gauss_newton_of(outputs: Callable[..., Array]) -> Callable[..., Measured]:
    def measure(
        params: Params, opt_state: Any, batch: GraphBatch, key: PRNGKeyArray, state: Any
    ) -> Measured:
        del opt_state

        def of_shared(shared: Any) -> Float[Array, "graphs tasks"]:
            return outputs({"shared": shared, "heads": params["heads"]}, batch)

        f, back = jax.vjp(of_shared, params["shared"])
        tasks = f.shape[1]
        counts = jnp.asarray(batch.mask, f.dtype)[:, None]
        counts = jnp.broadcast_to(counts / counts.sum(), f.shape)
        if batch.weights is not None:
            counts = counts * jnp.asarray(batch.weights, f.dtype)

        def square(which: Array) -> Float[Array, ""]:
            probe, task = which // tasks, which % tasks
            signs = jax.random.rademacher(jax.random.fold_in(key, probe), (len(f), 1), f.dtype)
            chosen = jax.nn.one_hot(task, tasks, dtype=f.dtype)[None, :]
            (gradient,) = back(signs * chosen * jnp.sqrt(2 * counts))
            leaves = jax.tree.leaves(gradient)
            return sum((jnp.sum(leaf**2) for leaf in leaves[1:]), jnp.sum(leaves[0] ** 2))

        squares = jax.lax.map(square, jnp.arange(NUM_PROBES * tasks, dtype=jnp.int32))
        return *_mean_and_error(squares.reshape(NUM_PROBES, tasks)), state

    return measure


def _frobenius_of(losses: Callable[..., Array]) -> Callable[..., Measured]:
    def measure(
        params: Params, opt_state: Any, batch: GraphBatch, key: PRNGKeyArray, state: Any
    ) -> Measured:
        del opt_state
        flat, tree_of = ravel_pytree(params["shared"])
        gradients = _flat_gradients(losses, params, batch, tree_of)
        _, products = jax.linearize(gradients, flat)

        def squares(probe: Array) -> Float[Array, " T"]:
            signs = jax.random.rademacher(jax.random.fold_in(key, probe), flat.shape, flat.dtype)
            return jnp.sum(products(signs) ** 2, axis=1)

        found = jax.lax.map(squares, jnp.arange(NUM_PROBES, dtype=jnp.int32))
        mean, error = _mean_and_error(found)
        return jnp.sqrt(mean), error / 2, state  # of a root: half the relative error

    return measure


def _largest_of(losses: Callable[..., Array], *, preconditioned: bool) -> Callable[..., Measured]:
    def measure(
        params: Params, opt_state: Any, batch: GraphBatch, key: PRNGKeyArray, state: TrackerState
    ) -> Measured:
        del key  # the tracker has its own
        flat, tree_of = ravel_pytree(params["shared"])
        scale = _adam_diagonal(opt_state, flat) if preconditioned else jnp.ones_like(flat)

        def of_task(one: tuple[Array, TrackerState]) -> tuple[TrackerState, TrackedPairs]:
            task, tracker = one

            def gradient(x: Array) -> Array:
                moved = {"shared": tree_of(x), "heads": params["heads"]}
                return ravel_pytree(
                    jax.grad(lambda p: jnp.sum(task * losses(p, batch)))(moved)["shared"]
                )[0]

            _, product = jax.linearize(gradient, flat)

            def products(block: Float[Array, "k P"]) -> Float[Array, "k P"]:
                return jax.lax.map(lambda v: scale * product(scale * v), block)

            new, pairs = hessspec.track(
                products, tracker, tol=_TOLERANCE, max_matvecs=_MOST_PRODUCTS
            )
            # What is not a number ends as rows of zeros, which no later call would leave.
            told = jnp.isfinite(pairs.norm) & (jnp.sum(new.rows**2) > 0.5)
            return kept_unless(told, new, tracker), pairs._replace(images=pairs.images[:, :1])

        identity = jnp.eye(len(state.count), dtype=flat.dtype)
        state, found = jax.lax.map(of_task, (identity, state))
        largest = jnp.abs(found.values[:, 0])
        error = found.residuals[:, 0] / jnp.where(largest > 0, largest, 1)
        return largest, error, state

    return measure


def _trackers(params: Params, tasks: int) -> TrackerState:
    """The trackers of all tasks, leaves (T, ...), none of which knows anything."""
    flat, _ = ravel_pytree(params["shared"])
    states = [
        TrackerState.start(
            jax.random.fold_in(jax.random.key(17), t), flat.size, 1, "LM", flat.dtype
        )
        for t in range(tasks)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _adam_diagonal(opt_state: Any, flat: Float[Array, " P"]) -> Float[Array, " P"]:
    """D of `hessspec.adam_scale` for the shared parameters; 1 before the first step."""
    scale, _ = ravel_pytree(hessspec.adam_scale(opt_state, b2=_B2, eps=_EPS)["shared"])
    return jnp.where(jnp.isfinite(scale), scale, jnp.ones_like(flat)).astype(flat.dtype)


def _flat_gradients(
    losses: Callable[..., Array], params: Params, batch: GraphBatch, tree_of: Callable[..., Any]
) -> Callable[[Array], Float[Array, "T P"]]:
    def gradients(x: Float[Array, " P"]) -> Float[Array, "T P"]:
        def at(shared: Any) -> Float[Array, " T"]:
            return losses({"shared": shared, "heads": params["heads"]}, batch)

        _, found = task_gradients(at, tree_of(x))
        return jnp.concatenate(
            [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(found)], axis=1
        )

    return gradients


def _mean_and_error(samples: Float[Array, "n T"]) -> tuple[Array, Array]:
    """Mean over the probes, and its relative standard error."""
    mean = samples.mean(axis=0)
    error = samples.std(axis=0, ddof=1) / len(samples) ** 0.5
    return mean, error / jnp.where(mean > 0, mean, 1)
