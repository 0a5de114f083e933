"""Guards: numbers that would be silently wrong stop here, with an error that names the cause."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float

from hessspec._base.space import VectorSpace

# A product sums `dim` terms, each rounded; measured products of real networks are symmetric to
# 3 to 8 units of rounding, so a thousand of them is no rounding any more.
ASYMMETRY_UNITS = 1e3

Values = Float[Array, "..."] | Float[np.ndarray, "..."] | Sequence[float]


def check_losses(
    first: Values, second: Values, dtype: np.dtype, blame: Callable[[], str] | None = None
) -> None:
    """Two evaluations of the losses at the same parameters must be finite and agree.

    `blame` finds out where values that are not finite come from.

    Raises:
        ValueError: naming the task whose loss is not finite, or saying that the loss is random.
    """
    a, b = np.atleast_1d(np.asarray(first, float)), np.atleast_1d(np.asarray(second, float))
    bad = np.flatnonzero(~np.isfinite(a))
    if bad.size:
        tasks = "" if np.ndim(first) == 0 else f" of task {', '.join(map(str, bad))}"
        source = "" if blame is None else f" ({blame()})"
        raise ValueError(
            f"the loss{tasks} is {a[bad[0]]} at these parameters{source}, so it has no Hessian "
            "there; check `params` and `data` for non-finite entries and the loss for overflow."
        )
    if np.any(np.abs(a - b) > 1e3 * np.finfo(dtype).eps * np.maximum(np.abs(a), np.abs(b))):
        raise ValueError(
            f"two evaluations of the loss at the same parameters differ ({a} and {b}): it is "
            "random (dropout, a random batch?); fix its random key, or pass one batch as `data`."
        )


def check_finite(rows: Float[Array, "*lead dim"], space: VectorSpace, what: str) -> None:
    """Every entry must be finite.

    Raises:
        ValueError: naming the parameters at which entries are not finite.
    """
    finite = np.all(np.isfinite(np.asarray(rows)).reshape(-1, space.dim), axis=0)
    if np.all(finite):
        return
    ends = np.cumsum(space.sizes)
    leaves = [
        path
        for path, size, end in zip(space.paths, space.sizes, ends, strict=True)
        if not np.all(finite[end - size : end])
    ]
    shown = ", ".join(f"`{path}`" for path in leaves[:3]) + (", ..." if len(leaves) > 3 else "")
    raise ValueError(
        f"{what} is not finite in {shown}: the second derivative of the loss does not exist there "
        "(a square root or norm at 0?) or overflows; check the loss and the scale of its data."
    )


def check_symmetric(
    forward: Values,
    backward: Values,
    scale: Values | float,
    dtype: np.dtype,
) -> None:
    """u'Hv (`forward`) must equal v'Hu (`backward`) up to rounding of products of size `scale`.

    `scale` is |u| |Hv| or the like, elementwise or one number.

    Raises:
        ValueError: if they differ by more than rounding can explain.
    """
    f, b = np.asarray(forward, np.float64), np.asarray(backward, np.float64)
    allowed = ASYMMETRY_UNITS * np.finfo(dtype).eps * np.asarray(scale, np.float64)
    difference = np.abs(f - b)
    if np.any(difference > allowed):
        worst = int(np.argmax(difference - allowed))
        raise ValueError(
            "products with the operator are not symmetric: u'Hv = "
            f"{f.flat[worst]:.6g} but v'Hu = {b.flat[worst]:.6g}. Every method here needs H = H'. "
            "A custom derivative rule, a loss that is not the gradient's potential, a "
            "non-symmetric `matvec`, a cast to lower precision inside the loss (bfloat16), or "
            "reduced matrix-multiplication precision (TF32: set "
            "`jax.default_matmul_precision('highest')`) can cause this."
        )
