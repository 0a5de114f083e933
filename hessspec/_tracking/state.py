"""What the tracker keeps from call to call, what it works with in one, and what it finds."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from hessspec._tracking.rows import TrackedEnd, orthonormal, unit

# Directions kept beside the wanted ones.
NUM_KNOWN = 12


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrackerState:
    """What is known of one end of the spectrum of H, from one call of `track` to the next.

    Attributes:
        rows: the k wanted eigenvectors as flat orthonormal rows, the most wanted first.
        known: B, other orthonormal rows, on which H was found to act by `known_values`, the next
            in line first; zero where there is nothing yet.
        known_values: in the units of H.
        explorer: a vector orthogonal to them, on its way to what has grown outside.
        key: random parts of call n are drawn with `fold_in(key, n)`.
        count: calls so far.
        turn: how often a row of B was multiplied again.
        effort: products that the last call needed beyond those of `rows`, to follow them.
        which: the end, "LA" for the largest, "SA" for the smallest, "LM" for the largest |θ|.
    """

    rows: Float[Array, "k dim"]
    known: Float[Array, "m dim"]
    known_values: Float[Array, " m"]
    explorer: Float[Array, " dim"]
    key: PRNGKeyArray
    count: Int[Array, ""]
    turn: Int[Array, ""]
    effort: Int[Array, ""]
    which: TrackedEnd = field(default="LA", metadata={"static": True})

    @classmethod
    def start(
        cls,
        key: PRNGKeyArray,
        dim: int,
        k: int = 1,
        which: TrackedEnd = "LA",
        dtype: np.dtype | type = np.float32,
    ) -> "TrackerState":
        """The state of one who knows nothing: random rows.

        Raises:
            ValueError: unless 1 <= k <= dim.
        """
        if not 1 <= k <= dim:
            raise ValueError(f"`k` must lie in [1, {dim}] for {dim} parameters, got {k}")
        dtype = jnp.dtype(dtype)
        drawn = jax.random.normal(jax.random.fold_in(key, 0), (k + 1, dim), dtype)
        rows = orthonormal(drawn[:k])
        kept = min(NUM_KNOWN, dim - k)
        return cls(
            rows=rows,
            known=jnp.zeros((kept, dim), dtype),
            known_values=jnp.zeros((kept,), dtype),
            explorer=unit(drawn[k]),
            key=key,
            count=jnp.zeros((), jnp.int32),
            turn=jnp.zeros((), jnp.int32),
            effort=jnp.zeros((), jnp.int32),
            which=which,
        )


class TrackedPairs(NamedTuple):
    """What one call of `track` found.

    Attributes:
        values: Rayleigh quotients of the k rows of the new state, the most wanted first.
        residuals: |Hv - θv|, from products that were made with the vectors.
        norm: the largest |Hv| or |θ| seen.
        images: H v of each row.
        rotation: the largest angle between the old and the new space, radians; nan at first.
        asymmetry: the largest |u'Hv - v'Hu| seen.
        num_matvecs: products executed.
        converged: whether each residual is at most `tol` times the norm.
    """

    values: Float[Array, " k"]
    residuals: Float[Array, " k"]
    norm: Float[Array, ""]
    images: Float[Array, "k dim"]
    rotation: Float[Array, ""]
    asymmetry: Float[Array, ""]
    num_matvecs: Int[Array, ""]
    converged: Bool[Array, " k"]


CORRECTS, CHECKS, EXPLORES = range(3)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Work:
    """The basis of one call, all in units of H/s with s a power of two.

    Attributes:
        basis, images: orthonormal rows q and H q; zero from `size` on.
        compressed: q'Hq.
        size, spent: rows in use, products made.
        scale: s.
        norm, asymmetry: the largest seen.
        explorer: the vector that explores, and H times it once that is known.
        direction: the vector to multiply next.
        role: what it is for.
        followed: products that corrected a pair.
        to_check, to_explore: whether a row of B and the explorer have still to be multiplied.
        done: whether no product is needed.
    """

    basis: Float[Array, "c dim"]
    images: Float[Array, "c dim"]
    compressed: Float[Array, "c c"]
    size: Int[Array, ""]
    spent: Int[Array, ""]
    scale: Float[Array, ""]
    norm: Float[Array, ""]
    asymmetry: Float[Array, ""]
    explorer: Float[Array, " dim"]
    direction: Float[Array, " dim"]
    role: Int[Array, ""]
    followed: Int[Array, ""]
    to_check: Bool[Array, ""]
    to_explore: Bool[Array, ""]
    done: Bool[Array, ""]
