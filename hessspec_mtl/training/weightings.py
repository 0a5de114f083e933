"""The weightings that training knows by name, and what each is made with there.

`docs/weighting.md` says what each is; `hessspec_mtl.weighting` has them for use elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax

from hessspec_mtl import weighting as methods
from hessspec_mtl.weighting import Weighting


@dataclass(frozen=True)
class Choice:
    """What a weighting is chosen by, one record a compiled program.

    Attributes:
        name: one of `WEIGHTINGS`.
        task_weights: of "fixed".
        steps_per_epoch: the window of "average".
        measure_every: steps between two measurements of curvature.
    """

    name: str
    task_weights: tuple[float, ...]
    steps_per_epoch: int
    measure_every: int


_KEY = 16  # a stream of its own; the seed of a run is folded in (`programs.seeded`)

_MADE: Mapping[str, Callable[[Choice], Weighting]] = {
    "equal": lambda choice: methods.equal(),
    "fixed": lambda choice: methods.fixed(choice.task_weights),
    "random": lambda choice: methods.random_weights(jax.random.key(_KEY)),
    "uncertainty": lambda choice: methods.uncertainty(),
    "average": lambda choice: methods.dynamic_weight_average(choice.steps_per_epoch),
    "famo": lambda choice: methods.famo(),
    "gradnorm": lambda choice: methods.gradnorm(),
    "ntk": lambda choice: methods.inverse_gradient_norm(),
    "pcgrad": lambda choice: methods.pcgrad(jax.random.key(_KEY)),
    "imtl-g": lambda choice: methods.imtl_g(),
    "aligned": lambda choice: methods.aligned_mtl(),
    "mgda": lambda choice: methods.mgda(),
    "cagrad": lambda choice: methods.cagrad(),
    "nash": lambda choice: methods.nash_mtl(),
    "gauss-newton-root": lambda choice: methods.inverse_curvature(power=0.5),
    "gauss-newton": lambda choice: methods.inverse_curvature(),
    "frobenius": lambda choice: methods.inverse_curvature(),
    "sharpness": lambda choice: methods.inverse_curvature(),
    "preconditioned": lambda choice: methods.inverse_curvature(),
}

WEIGHTINGS = tuple(_MADE)
"""All names, the published ones first."""

MEASURES: Mapping[str, str] = {
    "gauss-newton-root": "gauss-newton",
    "gauss-newton": "gauss-newton",
    "frobenius": "frobenius",
    "sharpness": "sharpness",
    "preconditioned": "preconditioned",
}
"""Which curvature a weighting is told of."""


def made(choice: Choice) -> Weighting:
    """The weighting of this name."""
    return _MADE[choice.name](choice)
