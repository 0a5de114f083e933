"""How tasks pull against each other: their gradients and dominant eigenspaces at one epoch.

Both live in the space of the shared parameters. A step along the gradient of one task changes the
loss of another by the inner product of both gradients and by that other task's curvature along the
step:  L_j(θ - η g_i) - L_j(θ) = -η g_i'g_j + η²/2 g_i' H_j g_i + O(η³).  The first term is read off
`GradientConflict.cosines`, the second off its `curvature`. `Eigenspaces` tells whether the sharp
directions of one task are those of another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

import hessspec
from hessspec import EigenPairs, HessianOperator
from hessspec._base.records import load_record, save_record
from hessspec_mtl.datasets.base import Examples
from hessspec_mtl.graphs import GraphBatch, batch_graphs, padding_for, target_weights
from hessspec_mtl.network.model import NetworkConfig, Params
from hessspec_mtl.network.tasks import partial_losses
from hessspec_mtl.network.ways import for_device

_CONFLICT, _SPACES = "GradientConflict", "Eigenspaces"
_GROUPS_STREAM = 21


@dataclass(frozen=True, eq=False)
class GradientConflict:
    """The tasks' gradients with respect to theta_sh, each the mean over the Hessian's graphs.

    The graphs are cut at random into groups, so that the error that the choice of graphs leaves
    can be read off: the jackknife over groups. There is no probe error.

    Attributes:
        gram: inner products g_i(a)·g_j(b) of the gradient of task i on group a with that of task j
            on group b; units: loss² / parameter².
        sizes: graphs in each group.
        curvature: [j, i] is g_i' H_j g_i / |g_i|² with the gradients over all graphs: the
            curvature of task j along the gradient of task i, in loss / parameter².
    """

    gram: Float[np.ndarray, "groups tasks groups tasks"]
    sizes: Int[np.ndarray, " groups"]
    curvature: Float[np.ndarray, "tasks tasks"]

    @property
    def norms(self) -> Float[np.ndarray, " tasks"]:
        """|g_i| over all graphs."""
        return np.sqrt(np.diagonal(self._products(self.sizes)))

    @property
    def cosines(self) -> Float[np.ndarray, "tasks tasks"]:
        """g_i·g_j / |g_i||g_j|: below 0, a small step for task i makes task j worse."""
        return _cosines(self._products(self.sizes))

    @property
    def cosine_errors(self) -> Float[np.ndarray, "tasks tasks"]:
        """Jackknife standard error that the choice of graphs leaves on `cosines`; NaN for 1 group.

        The groups are of nearly equal size; degrees of freedom: the number of groups less one. NaN
        too where one group alone has the examples of a task (the others have no such target).
        """
        count = self.sizes.size
        if count < 2:
            return np.full_like(self.cosines, np.nan)
        products = [
            self._products(np.where(keep, self.sizes, 0)) for keep in ~np.eye(count, dtype=bool)
        ]
        errors = np.sqrt((count - 1) * np.var([_cosines(kept) for kept in products], axis=0))
        gone = (np.diagonal(products, axis1=1, axis2=2) == 0).any(axis=0) & (self.norms > 0)
        return np.where(gone[:, None] | gone[None, :], np.nan, errors)

    def _products(self, sizes: Int[np.ndarray, " groups"]) -> Float[np.ndarray, "tasks tasks"]:
        """Inner products of the mean gradients over the groups, weighted by `sizes`."""
        weights = sizes / sizes.sum()
        return np.einsum("a,aibj,b->ij", weights, self.gram, weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        arrays = {"gram": self.gram, "sizes": self.sizes, "curvature": self.curvature}
        save_record(path, _CONFLICT, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GradientConflict:
        """The record that `save` wrote to `path`."""
        return cls(**load_record(path, _CONFLICT)[0])


def _cosines(products: Float[np.ndarray, "tasks tasks"]) -> Float[np.ndarray, "tasks tasks"]:
    norms = np.sqrt(np.diagonal(products))
    return products / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Eigenspaces:
    """The dominant eigenvectors of every task's Hessian, compared between tasks.

    Attributes:
        values: the K eigenvalues of largest magnitude of each task, in falling order of it;
            loss / parameter².
        residuals: |Hv - λv| of each, measured.
        converged: whether the residual is within `tol` of the norm of H.
        angles: [i, j, k - 1, :k] are the principal angles between the spans of the k dominant
            eigenvectors of tasks i and j, rising, in radians; NaN beyond k.
        curvature: [j, i, a] is v' H_j v for the a-th eigenvector v of task i.
        gradients: [i, j, a] is the component of task i's gradient, scaled to length 1, along the
            a-th eigenvector of task j.
        tol: the tolerance of the eigenvectors, relative to the norm of H.
        dim: P.
    """

    values: Float[np.ndarray, "tasks K"]
    residuals: Float[np.ndarray, "tasks K"]
    converged: Bool[np.ndarray, "tasks K"]
    angles: Float[np.ndarray, "tasks tasks K K"]
    curvature: Float[np.ndarray, "tasks tasks K"]
    gradients: Float[np.ndarray, "tasks tasks K"]
    tol: float
    dim: int

    @property
    def count(self) -> int:
        """K, the number of eigenvectors of each task."""
        return int(self.values.shape[1])

    def overlap(self, k: int) -> Float[np.ndarray, "tasks tasks"]:
        """Mean of cos² over the principal angles of the k-dimensional dominant eigenspaces.

        1 for equal spaces, k / P on average for spaces that have nothing to do with each other.
        """
        return np.mean(np.cos(self.angles[:, :, k - 1, :k]) ** 2, axis=-1)

    def turning(self, k: int) -> Float[np.ndarray, " tasks"]:
        """How far the residuals let each k-dimensional space lie from the true one: a sine.

        At most the residuals' root sum of squares over the gap between the k-th and the next
        magnitude (Davis and Kahan's sin theta theorem, in the Frobenius norm); 1 if that is no
        less, or if the gap is not known because k = K.
        """
        if k >= self.count:
            return np.ones(self.values.shape[0])
        magnitudes, squares = np.abs(self.values), self.residuals[:, :k] ** 2
        # The next eigenvalue is itself known up to its residual.
        gap = magnitudes[:, k - 1] - magnitudes[:, k] - self.residuals[:, k]
        with np.errstate(divide="ignore", invalid="ignore"):
            sine = np.sqrt(squares.sum(axis=1)) / gap
        return np.where(gap > 0, np.minimum(sine, 1.0), 1.0)

    def gradient_share(self, k: int) -> Float[np.ndarray, "tasks tasks"]:
        """[i, j]: share of task i's squared gradient in the k dominant eigenvectors of task j."""
        return np.sum(self.gradients[:, :, :k] ** 2, axis=-1)

    def curvature_kept(self, k: int) -> Float[np.ndarray, "tasks tasks"]:
        """[j, i]: curvature of task j along the k dominant eigenvectors of task i.

        The mean of v' H_j v / λ: 1 for j = i, near 0 if these directions are flat for task j, below
        0 if it curves the other way.
        """
        return np.mean(self.curvature[:, :, :k] / self.values[None, :, :k], axis=-1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to `path` (npz, no pickle)."""
        names = ("values", "residuals", "converged", "angles", "curvature", "gradients")
        arrays = {name: getattr(self, name) for name in names}
        save_record(path, _SPACES, arrays, {"tol": self.tol, "dim": self.dim})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Eigenspaces:
        """The record that `save` wrote to `path`."""
        arrays, meta = load_record(path, _SPACES)
        return cls(**arrays, **meta)


def gradient_conflict(
    hessians: HessianOperator,
    params: Params,
    network: NetworkConfig,
    examples: Examples,
    num_groups: int,
) -> GradientConflict:
    """The tasks' gradients over `examples`, cut into `num_groups`, against each other.

    Cost: one gradient a task on the examples and, for the curvature, a quadratic form.
    """
    rows, sizes = _group_gradients(params, network, examples, num_groups)
    groups, tasks, dim = rows.shape
    flat = rows.reshape(-1, dim)
    gram = np.asarray(jnp.matmul(flat, flat.T, precision="highest"), np.float64)
    forms = hessians.forms(_directions(rows, sizes))
    return GradientConflict(
        gram.reshape(groups, tasks, groups, tasks), sizes, np.asarray(forms, np.float64)
    )


def eigenspaces(
    hessians: HessianOperator,
    params: Params,
    network: NetworkConfig,
    examples: Examples,
    count: int,
    *,
    key: PRNGKeyArray,
    tol: float,
    num_groups: int = 1,
    progress: bool | None = None,
) -> Eigenspaces:
    """The `count` dominant eigenvectors of every task's Hessian against each other.

    Args:
        examples: the graphs of the Hessians, over which the gradients are taken too, in
            `num_groups` passes.
        key: of the random starts of `hessspec.eigenpairs`.
        tol: residual of the eigenvectors, relative to the norm of H.

    Cost: that of `hessspec.eigenpairs` for each task. The vectors themselves are not kept.
    """
    pairs = hessspec.eigenpairs(hessians, key=key, k=count, tol=tol, progress=progress)
    tasks = len(network.tasks)
    # As rows over theta_sh: trees of them would be cut and joined leaf by leaf, each a program.
    vectors = pairs.rows
    forms = np.asarray(hessians.forms(vectors.reshape(-1, pairs.dim)), np.float64)
    units = _directions(*_group_gradients(params, network, examples, num_groups))
    along = jnp.einsum("ip,jkp->ijk", units, vectors, precision="highest")
    return Eigenspaces(
        values=np.asarray(pairs.values, np.float64),
        residuals=np.asarray(pairs.residuals, np.float64),
        converged=np.asarray(pairs.converged),
        angles=_angles([pairs.task(t) for t in range(tasks)], count),
        curvature=forms.reshape(tasks, tasks, count),
        gradients=np.asarray(along, np.float64),
        tol=pairs.tol,
        dim=pairs.dim,
    )


def _angles(tasks: list[EigenPairs], count: int) -> Float[np.ndarray, "tasks tasks K K"]:
    """Principal angles between the k dominant eigenvectors of any two tasks, k = 1 .. count."""
    angles = np.full((len(tasks), len(tasks), count, count), np.nan)
    for k in range(1, count + 1):
        spaces = [_dominant(task, k) for task in tasks]
        for i, left in enumerate(spaces):
            for j, right in enumerate(spaces[: i + 1]):
                found = hessspec.principal_angles(left, right)
                angles[i, j, k - 1, :k] = angles[j, i, k - 1, :k] = found
    return angles


def _dominant(pairs: EigenPairs, k: int) -> EigenPairs:
    """The first k of the pairs of one task."""
    return jax.tree.map(lambda leaf: leaf[:k], pairs)


def _group_gradients(
    params: Params, network: NetworkConfig, examples: Examples, num_groups: int
) -> tuple[Float[Array, "groups tasks dim"], Int[np.ndarray, " groups"]]:
    """Each task's mean gradient over each of `num_groups` random groups, and the groups' sizes.

    Where targets are missing, the mean over a group has the weights of all `examples`, so that the
    mean over groups by their sizes is that over the examples that have the target.
    """
    count = len(examples.graphs)
    num_groups = min(num_groups, count)
    order = np.random.default_rng(_GROUPS_STREAM).permutation(count)
    groups = np.array_split(order, num_groups)
    padding = padding_for(examples.graphs, len(groups[0]))
    weights = target_weights(examples.targets)
    gradients = _task_gradients(network)
    on_device = jax.device_put(params)
    batches = [
        batch_graphs(
            [examples.graphs[i] for i in members],
            examples.targets[members],
            pad_to=padding,
            weights=weights,
        )
        for members in groups
    ]
    rows = [gradients(on_device, batch) for batch in for_device(batches)]
    return jnp.stack(rows), np.array([len(members) for members in groups])


@cache
def _task_gradients(
    network: NetworkConfig,
) -> Callable[[Params, GraphBatch], Float[Array, "tasks dim"]]:
    losses = partial_losses(network)

    @jax.jit
    def gradients(params: Params, batch: GraphBatch) -> Float[Array, "tasks dim"]:
        values, pull_back = jax.vjp(
            lambda shared: losses({**params, "shared": shared}, batch), params["shared"]
        )
        # One pass a task: a batched scatter is slow on a CPU.
        trees = jax.lax.map(lambda weights: pull_back(weights)[0], jnp.eye(len(network.tasks)))
        leaves = [leaf.reshape(len(values), -1) for leaf in jax.tree.leaves(trees)]
        return jnp.concatenate(leaves, axis=1)

    return gradients


def _directions(
    rows: Float[Array, "groups tasks dim"], sizes: Int[np.ndarray, " groups"]
) -> Float[Array, "tasks dim"]:
    """The tasks' gradients over all groups, scaled to length 1; one of zeros stays."""
    weights = jnp.asarray(sizes / sizes.sum(), rows.dtype)
    mean = jnp.einsum("a,aip->ip", weights, rows, precision="highest")
    norms = jnp.linalg.norm(mean, axis=1, keepdims=True)
    return mean / jnp.where(norms > 0, norms, 1.0)


__all__ = [
    "Eigenspaces",
    "GradientConflict",
    "eigenspaces",
    "gradient_conflict",
]
