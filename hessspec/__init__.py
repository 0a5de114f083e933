"""Hessian spectra of JAX losses, with honest error bars.

    import hessspec
    spectrum = hessspec.density(loss_fn, params, key, data=batch)

Operators say what is multiplied, verbs what is asked of it, records what came out and how sure.
"""

# What is multiplied
from hessspec._batches import Batches
from hessspec._operators import (
    AbstractOperator,
    FunctionOperator,
    GaussNewtonOperator,
    HessianOperator,
)

# What is asked
from hessspec._products import hvp

__version__ = "0.1.0"

__all__ = [
    "AbstractOperator",
    "Batches",
    "FunctionOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "hvp",
]
