"""Guards: numbers that would be silently wrong stop here, with an error that names the cause."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessspec._base.meshes import mesh_of
from hessspec._base.space import VectorSpace

# A product sums `dim` terms, each rounded; measured products of real networks are symmetric to
# 3 to 8 units of rounding, so a thousand of them is no rounding any more.
ASYMMETRY_UNITS = 1e3
# The trace of a matrix needs no symmetry. Where all of it is at hand its asymmetry is part of the
# error, up to this share of the norm: beyond, what was computed is no Hessian to two digits.
MOST_ASYMMETRY = 1e-2

Values = Float[Array, "..."] | Float[np.ndarray, "..."] | Sequence[float]


def check_losses(
    first: Values, second: Values, dtype: np.dtype, blame: Callable[[], str] | None = None
) -> None:
    """Two evaluations of the losses at the same parameters must be finite and agree.

    `blame` finds out where values that are not finite come from; "" if it cannot tell.

    Raises:
        ValueError: naming the task whose loss is not finite, or saying that the loss is random.
    """
    a, b = np.atleast_1d(np.asarray(first, float)), np.atleast_1d(np.asarray(second, float))
    bad = np.flatnonzero(~np.isfinite(a))
    if bad.size:
        tasks = "" if np.ndim(first) == 0 else f" of task {', '.join(map(str, bad))}"
        blamed = "" if blame is None else blame()
        source = f" ({blamed})" if blamed else ""
        raise ValueError(
            f"the loss{tasks} is {a[bad[0]]} at these parameters{source}, so it has no Hessian "
            "there; check `params` and `data` for non-finite entries and the loss for overflow."
        )
    if np.any(np.abs(a - b) > 1e3 * np.finfo(dtype).eps * np.maximum(np.abs(a), np.abs(b))):
        raise ValueError(
            f"two evaluations of the loss at the same parameters differ ({a} and {b}): it is "
            "random (dropout, a random batch?); fix its random key, or pass one batch as `data`."
        )


def check_precision(narrow: str, dtype: np.dtype) -> None:
    """A loss must compute with its parameters in their own dtype, not in one called `narrow`.

    Raises:
        ValueError: if there is a narrower one, with the way out.
    """
    if narrow:
        wide = np.dtype(dtype).name
        raise ValueError(
            f"the loss computes with its parameters in {narrow}, where they are {wide} here: its "
            "second derivatives are rounded to that precision in every operation, and no error "
            f"bar could cover it. Compute in {wide} inside the loss for its Hessian: leave out "
            f"`.astype(jnp.{narrow})`, or build the model with `dtype=jnp.{wide}` (the parameters "
            "may stay as they are); bare products are `HessianOperator(...).matvec(vector)`."
        )


def check_finite(rows: Float[Array, "*lead dim"], space: VectorSpace, what: str) -> None:
    """Every entry must be finite.

    Raises:
        ValueError: naming the parameters at which entries are not finite.
    """
    if mesh_of(rows) is not None:  # what lies on several devices is looked at there
        if bool(jnp.all(jnp.isfinite(rows))):
            return
        parts = jax.tree.leaves(space.unflatten_block(rows))
        finite = [bool(jnp.all(jnp.isfinite(part))) for part in parts]
    else:
        entries = np.isfinite(np.asarray(rows)).reshape(-1, space.dim)
        if np.all(entries):
            return
        ends = np.cumsum(space.sizes)[:-1]
        finite = [bool(np.all(part)) for part in np.split(entries, ends, axis=1)]
    leaves = [path for path, fine in zip(space.paths, finite, strict=True) if not fine]
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
    most: float | None = None,
    rounding: bool | None = None,
) -> None:
    """u'Hv (`forward`) must equal v'Hu (`backward`) up to rounding of products of size `scale`.

    `scale` is |u| |Hv| or the like, elementwise or one number; `most` is the share of it that is
    allowed, by default what the unit of rounding explains. `rounding`, where it is known, says
    whether rounding of the loss is the cause.

    Raises:
        ValueError: if they differ by more than rounding can explain.
    """
    f, b = np.asarray(forward, np.float64), np.asarray(backward, np.float64)
    units = ASYMMETRY_UNITS * np.finfo(dtype).eps if most is None else most
    allowed = units * np.asarray(scale, np.float64)
    difference = np.abs(f - b)
    if np.any(difference > allowed):
        worst = int(np.argmax(difference - allowed))
        size = float(np.broadcast_to(np.asarray(scale, np.float64), f.shape).flat[worst])
        raise asymmetric(
            f"u'Hv = {f.flat[worst]:.6g} but v'Hu = {b.flat[worst]:.6g}",
            float(difference.flat[worst]) / size if size > 0 else np.inf,
            dtype,
            rounding=rounding,
        )


def asymmetric(
    found: str,
    share: float,
    dtype: np.dtype,
    what: str = "products with the operator are not symmetric",
    rounding: bool | None = None,
) -> ValueError:
    """The error for products that differ by this share of their size, the likely causes first.

    `rounding` says which it is, where that was found out.
    """
    wider = "take `params` and data in float64 (`jax_enable_x64`)"
    if dtype == np.float64:
        wider = "bring the loss into a better conditioned form"
    lost = (
        "cancellation in an ill-conditioned loss (a nearly singular matrix that is factorised, a "
        "classifier whose softmax is all but certain, a difference of large numbers) loses the "
        f"last digits in {np.dtype(dtype).name}: {wider}; "
        "reduced matrix-multiplication precision (TF32) does too: set "
        "`jax.default_matmul_precision('highest')`"
    )
    wrong = (
        "a custom derivative rule, a `matvec` that is not symmetric, a random loss, or a cast to "
        "lower precision inside"
    )
    few = share < MOST_ASYMMETRY if rounding is None else rounding
    causes = f"Likely {lost}; less likely: {wrong}" if few else f"Likely {wrong}; or {lost}"
    if rounding is not None:
        moved = "as much" if rounding else "far less"
        causes += f" (multiplying 3 v in place of v moves a product by {moved}, as rounding does"
        causes += ")" if rounding else " not)"
    return ValueError(
        f"{what}: {found}, "
        f"{share / np.finfo(dtype).eps:.0f} units of rounding. Every method here needs H = H'. "
        f"{causes}."
    )
