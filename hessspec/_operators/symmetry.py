"""How far products may be from symmetric: by rounding, however much a loss has of it.

A derivative, right or wrong, is linear: H(cv) = c Hv. Rounding is not, unless c is a power of two.
So multiplying cv beside v shows how much of a product is rounding of the loss, whatever the loss
is: for a classifier that is all but certain a thousand times the unit of rounding, for a wrong
rule of differentiation no more than for a right one.
"""

from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.checks import ASYMMETRY_UNITS, MOST_ASYMMETRY, Values, check_symmetric
from hessspec._base.kept import Resumable
from hessspec._base.space import VectorSpace
from hessspec._operators.rows import lengths_of

# Two scalings, of different digits: the larger of two differences is rarely small by accident.
_SCALINGS = (1.1, 3.0)
# An asymmetry of this many times what scaling moves products by is rounding too. Measured on
# classifiers and Gaussian processes, asymmetries were .1 to 1.2 times that (docs/trace.md).
_NOISE_UNITS = 8.0
_LONGEST = 4  # rows of a whole matrix that are asked about


class Multiplies(Protocol):
    """What is needed of an operator."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def space(self) -> VectorSpace: ...
    def rows(self, block: Float[Array, "k dim"]) -> Float[Array, "*T k dim"]: ...


class Symmetry(Resumable):
    """What asymmetry the products of a run may have, and what was found out about it.

    The unit of rounding allows `ASYMMETRY_UNITS` eps. Where products are asymmetric by more, the
    operator is asked once how much of a product is rounding; up to that, and to 1 % of H, it is
    an error to be stated and not a reason to refuse.

    Args:
        operator: what is multiplied.
        is_stated: whether the run's answer says how far rounding may have moved it; if not, no
            more is allowed than usual, and asking only tells the cause.

    Attributes:
        noise: how far scaling has moved products, relative to the size of H; 0 if not asked.
        num_matvecs: products spent on asking, for each task.
    """

    changing = ("noise", "num_matvecs")

    def __init__(self, operator: Multiplies, *, is_stated: bool = True) -> None:
        self.operator, self.is_stated = operator, is_stated
        self.noise: Float[np.ndarray, "*T"] = np.zeros(())
        self.num_matvecs = 0

    @property
    def units(self) -> Float[np.ndarray, "*T"]:
        """Largest asymmetry that is taken as rounding, relative to the size of H."""
        usual = ASYMMETRY_UNITS * float(np.finfo(self.operator.dtype).eps)
        shown = np.minimum(MOST_ASYMMETRY, _NOISE_UNITS * self.noise) if self.is_stated else 0.0
        return np.maximum(usual, shown)

    def allows(
        self,
        share: float | Float[np.ndarray, "*T"],
        block: Float[Array, "k dim"],
        size: float | Float[np.ndarray, "*T"],
    ) -> bool:
        """Whether this asymmetry, relative to H, is rounding; `block` is multiplied to find out.

        `size` is the size of H in its own units, |Hv| / |v| at its largest. Cost: none within
        `ASYMMETRY_UNITS`, three products with each row of `block` beyond.
        """
        if np.all(share <= self.units):
            return True
        self._ask(block, size)
        return bool(np.all(share <= self.units))

    def explains(self, share: float | Float[np.ndarray, "*T"]) -> bool:
        """Whether this asymmetry is rounding, be it allowed or not."""
        return bool(np.all(share <= _NOISE_UNITS * self.noise))

    def check(
        self,
        forward: Values,
        backward: Values,
        scale: Values | float,
        block: Float[Array, "k dim"],
        size: float,
    ) -> None:
        """As `check_symmetric`, but for what is shown to be rounding of the loss.

        Raises:
            ValueError: if u'Hv and v'Hu differ by more.
        """
        gaps = np.abs(np.asarray(forward, np.float64) - np.asarray(backward, np.float64))
        scales = np.broadcast_to(np.asarray(scale, np.float64), gaps.shape)
        shares = np.divide(gaps, scales, out=np.zeros_like(gaps), where=scales > 0)
        share = float(np.max(shares, initial=0.0))
        if not self.allows(share, block, size):
            dtype, rounding = self.operator.dtype, self.explains(share)
            check_symmetric(forward, backward, scale, dtype, float(self.units), rounding)

    def check_matrix(self, matrix: Float[np.ndarray, "dim dim"], size: float) -> None:
        """`check` of all entries; the longest rows, images of unit vectors, are multiplied."""
        longest = np.argsort(-np.linalg.norm(matrix, axis=1), kind="stable")[:_LONGEST]
        block = jnp.asarray(matrix[longest] / max(size, np.finfo(float).tiny), self.operator.dtype)
        self.check(matrix, matrix.T, size, block, size)

    def _ask(self, block: Float[Array, "k dim"], size: float | Float[np.ndarray, "*T"]) -> None:
        lengths = np.asarray(lengths_of(block), np.float64)
        plain = self.operator.rows(block)
        for factor in _SCALINGS:
            scale = jnp.asarray(factor, block.dtype)
            again = self.operator.rows(block * scale) / scale
            moved = np.max(np.asarray(lengths_of(again - plain), np.float64) / lengths, axis=-1)
            relative = np.divide(moved, size, out=np.zeros_like(moved), where=np.asarray(size) > 0)
            self.noise = np.maximum(self.noise, relative)
        self.num_matvecs += (1 + len(_SCALINGS)) * block.shape[0]
