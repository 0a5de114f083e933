"""Hessian spectra of JAX losses, with honest error bars.

    import hessspec
    spectrum = hessspec.density(loss_fn, params, key, data=batch)

Operators say what is multiplied, verbs what is asked of it, records what came out and how sure.
"""

# What is multiplied
from hessspec._batches import Batches
from hessspec._operators import AbstractOperator
from hessspec._operators import FunctionOperator
from hessspec._hessian import GaussNewtonOperator
from hessspec._hessian import HessianOperator

# What is asked
from hessspec._products import hvp
from hessspec._density import density
from hessspec._trace import trace
from hessspec._diagonal import diagonal
from hessspec._eigenpairs import eigenpairs
from hessspec._compare import kolmogorov_smirnov, principal_angles, wasserstein1
from hessspec._verify import verify

# What comes out
from hessspec._spectral_density import Extremes, IntervalEstimate, SpectralDensity
from hessspec._spectral_trace import SpectralTrace
from hessspec._trace_estimate import TraceEstimate
from hessspec._diagonal import DiagonalEstimate
from hessspec._eigenpairs import EigenPairs
from hessspec._compare import SpectralDistance
from hessspec._verify import Verification

# Kernels, on plain arrays
from hessspec._probes import gaussian, rademacher
from hessspec._lanczos import KrylovDecomposition, lanczos
from hessspec._quadrature import GaussRule, gauss_quadrature

__version__ = "0.1.0"

__all__ = [
    "AbstractOperator",
    "Batches",
    "DiagonalEstimate",
    "EigenPairs",
    "Extremes",
    "FunctionOperator",
    "GaussNewtonOperator",
    "GaussRule",
    "HessianOperator",
    "IntervalEstimate",
    "KrylovDecomposition",
    "SpectralDensity",
    "SpectralDistance",
    "SpectralTrace",
    "TraceEstimate",
    "Verification",
    "density",
    "diagonal",
    "eigenpairs",
    "gauss_quadrature",
    "gaussian",
    "hvp",
    "kolmogorov_smirnov",
    "lanczos",
    "principal_angles",
    "rademacher",
    "trace",
    "verify",
    "wasserstein1",
]
