"""Weights for the losses of several tasks, from losses, gradients and curvature.

What a method is, and what holds for all, stands in `transformation`.

No graph and no chemistry is in it: a method needs JAX alone, works with any optax optimiser, and is
a few numbers of state and two or three pure functions.

| family | methods |
|---|---|
| `fixed` | `equal`, `fixed`, `random_weights` |
| `losses` | `uncertainty`, `dynamic_weight_average`, `famo` |
| `norms` | `gradnorm`, `inverse_gradient_norm` |
| `conflicts` | `pcgrad`, `imtl_g`, `aligned_mtl` |
| `descent` | `mgda`, `cagrad`, `nash_mtl` |
| `curvature` | `inverse_curvature` |
"""

from hessspec_mtl.weighting.conflicts import aligned_mtl, imtl_g, pcgrad
from hessspec_mtl.weighting.curvature import inverse_curvature
from hessspec_mtl.weighting.descent import cagrad, mgda, nash_mtl
from hessspec_mtl.weighting.fixed import equal, fixed, random_weights
from hessspec_mtl.weighting.losses import dynamic_weight_average, famo, uncertainty
from hessspec_mtl.weighting.norms import gradnorm, inverse_gradient_norm
from hessspec_mtl.weighting.transformation import (
    Weighting,
    as_optax,
    combined,
    gramian,
    task_gradients,
)

__all__ = [
    "Weighting",
    "aligned_mtl",
    "as_optax",
    "cagrad",
    "combined",
    "dynamic_weight_average",
    "equal",
    "famo",
    "fixed",
    "gradnorm",
    "gramian",
    "imtl_g",
    "inverse_curvature",
    "inverse_gradient_norm",
    "mgda",
    "nash_mtl",
    "pcgrad",
    "random_weights",
    "task_gradients",
    "uncertainty",
]
