"""Hessian spectra of JAX losses, with honest error bars.

    import hessspec
    spectrum = hessspec.density(loss_fn, params, key, data=batch)

Operators say what is multiplied, verbs what is asked of it, records what came out and how sure.
"""

# What is multiplied
from hessspec._batches import Batches

# What is asked
from hessspec._density import density
from hessspec._operators import (
    AbstractOperator,
    FunctionOperator,
    GaussNewtonOperator,
    HessianOperator,
)
from hessspec._products import hvp

# What comes out
from hessspec._spectral_density import SpectralDensity
from hessspec._trace import trace
from hessspec._trace_estimate import TraceEstimate

__version__ = "0.1.0"

__all__ = [
    "AbstractOperator",
    "Batches",
    "FunctionOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "SpectralDensity",
    "TraceEstimate",
    "density",
    "hvp",
    "trace",
]
