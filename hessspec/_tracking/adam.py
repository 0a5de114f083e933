"""The diagonal by which Adam scales its steps, read from the state of an optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from hessspec._base.arguments import real_number

_FIELDS = ("count", "mu", "nu")


def adam_scale(opt_state: PyTree, *, b2: float, eps: float, eps_root: float = 0.0) -> PyTree:
    """D = (√(ν̂ + eps_root) + eps)^(-1/2), a tree like the parameters: Adam scales gradients by D².

    With ν the moving mean of squared gradients after n steps, ν̂ = ν / (1 - b2ⁿ). The step of Adam
    is -lr D² m̂, so to a quadratic loss Adam is descent with momentum in the coordinates D⁻¹θ,
    where the Hessian is D H D, `H.congruent(adam_scale(...))`. No learning rate is in it.

    Along an eigenvalue λ of D H D and with D held fixed, the recurrence
    m ← b1 m + (1 - b1) λ y, y ← y - lr m has the characteristic polynomial
    z² - (1 + b1 - lr (1 - b1) λ) z + b1, which has its roots in the unit circle as long as
    λ < 2 (1 + b1) / ((1 - b1) lr): 38 / lr for b1 = 0.9. There full-batch training with Adam is
    observed to hover [cohen2022].

    Args:
        opt_state: the state of an optax optimiser with one Adam in it: `adam`, `adamw`, or chained,
            masked, partitioned, in `MultiSteps`, with injected hyperparameters. Parameters that are
            masked have no leaf in the result. Not of adamax, yogi or novograd, whose
            states look like Adam's and mean other scales.
        b2, eps, eps_root: as Adam has them.

    Returns:
        Positive numbers, a tree like `nu` in the state.

    Raises:
        ValueError: if there is no state of Adam or several for one parameter, no step has been
            taken, or the state was made with other hyperparameters where it holds them.
        TypeError: if a hyperparameter is no number.

    Cost: no product; one pass over the parameters.

    Source: the threshold is derived above; preconditioned Hessian and the value 38 / lr as in Cohen
    et al. (2022), abstract [cohen2022]; checked in `tests/hessspec/tracking/test_adam.py`.
    """
    given = {"b2": b2, "eps": eps, "eps_root": eps_root}
    given = {name: real_number(name, value) for name, value in given.items()}
    if not (0.0 <= given["b2"] < 1.0 and all(0.0 <= one < np.inf for one in given.values())):
        raise ValueError(
            "`b2` must lie in [0, 1), `eps` and `eps_root` must be finite and not negative, got "
            f"{given}"
        )
    _compare_with_injected(opt_state, given)
    states = [node for node in _nodes(opt_state, _is_adam) if _is_adam(node)]
    if not states:
        found = sorted({type(node).__name__ for node in _nodes(opt_state, _is_state)})
        raise ValueError(
            "`opt_state` must hold a state of Adam, with `count`, `mu` and `nu` (as "
            f"`optax.scale_by_adam` makes it); found only {', '.join(found) or 'none'}."
        )
    scales = [_scale(state, **given) for state in states]
    merged = scales[0]
    for scale in scales[1:]:
        merged = jax.tree.map(_one_of, merged, scale, is_leaf=_is_masked)
    return merged


def _scale(state: Any, b2: float, eps: float, eps_root: float) -> PyTree:
    if not isinstance(state.count, Tracer) and int(np.min(np.asarray(state.count))) == 0:
        raise ValueError(
            "`opt_state` must have taken a step: before the first one Adam has no scale (its "
            "`count` is 0)."
        )
    decay = np.log(b2) if b2 > 0 else -np.inf

    def entries(nu: Array) -> Array:
        count = jnp.asarray(state.count, nu.dtype)
        corrected = nu / -jnp.expm1(count * jnp.asarray(decay, nu.dtype))
        return 1 / jnp.sqrt(jnp.sqrt(corrected + eps_root) + eps)

    return jax.tree.map(entries, state.nu)


def _one_of(first: Any, second: Any) -> Any:
    """Of two places, the one that is not masked."""
    if not _is_masked(first) and not _is_masked(second):
        raise ValueError(
            "`opt_state` holds several states of Adam for one parameter, so it is not known which "
            "one scales the step; pass the one that does."
        )
    return second if _is_masked(first) else first


def _compare_with_injected(opt_state: PyTree, given: dict[str, float]) -> None:
    """Hyperparameters that the state holds itself must be those that were given."""
    for node in _nodes(opt_state, _is_injected):
        held = getattr(node, "hyperparams", {})
        for name, value in given.items():
            if name not in held or isinstance(held[name], Tracer):
                continue
            number = float(held[name])
            if not np.isclose(number, value, rtol=1e-5, atol=0.0):
                raise ValueError(
                    f"`{name}` must be that of the optimiser, whose state holds {number:g}, got "
                    f"{value:g}."
                )


def _nodes(tree: PyTree, is_leaf: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_leaf)


def _is_adam(node: Any) -> bool:
    return getattr(node, "_fields", None) == _FIELDS


def _is_state(node: Any) -> bool:
    return hasattr(node, "_fields") and not any(hasattr(part, "_fields") for part in node)


def _is_injected(node: Any) -> bool:
    return isinstance(getattr(node, "hyperparams", None), dict)


def _is_masked(node: Any) -> bool:
    """Whether this is `optax.MaskedNode()`, a place without a leaf."""
    return type(node).__name__ == "MaskedNode"
