"""Hessian spectra of JAX losses, with honest error bars.

    import hessspec
    spectrum = hessspec.density(loss_fn, params, key, data=batch)

Operators say what is multiplied, verbs what is asked of it, records what came out and how sure.
"""

# What is multiplied
from hessspec._operators.batches import Batches
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.function import FunctionOperator
from hessspec._operators.hessian import GaussNewtonOperator
from hessspec._operators.hessian import HessianOperator

# What is asked
from hessspec._operators.hvp import hvp
from hessspec._spectrum.density import density
from hessspec._spectrum.forecast import forecast
from hessspec._trace.verb import trace
from hessspec._trace.gauss_newton import gauss_newton_trace
from hessspec._trace.diagonal import diagonal
from hessspec._krylov.eigenpairs import eigenpairs
from hessspec._spectrum.compare import kolmogorov_smirnov, principal_angles, wasserstein1
from hessspec._tracking.adam import adam_scale
from hessspec._tracking.critical import critical_sharpness
from hessspec._tracking.landscape import landscape
from hessspec._tracking.tracker import Tracker
from hessspec._verify import verify

# What comes out
from hessspec._spectrum.record import SpectralDensity
from hessspec._spectrum.bins import Histogram
from hessspec._spectrum.forecast import Forecast
from hessspec._spectrum.readings import Extremes, IntervalEstimate
from hessspec._spectrum.trace import SpectralTrace
from hessspec._trace.estimate import TraceEstimate
from hessspec._trace.blocks import BlockTraces
from hessspec._trace.diagonal import DiagonalEstimate
from hessspec._krylov.eigenpairs import EigenPairs
from hessspec._spectrum.compare import SpectralDistance
from hessspec._tracking.steps import TrackedStep
from hessspec._tracking.critical import CriticalSharpness
from hessspec._tracking.landscape import Landscape
from hessspec._verify import Verification

# Kernels, on plain arrays
from hessspec._base.probes import gaussian, rademacher
from hessspec._krylov.lanczos import KrylovDecomposition, lanczos
from hessspec._spectrum.quadrature import GaussRule, gauss_quadrature
from hessspec._tracking.kernel import track
from hessspec._tracking.state import TrackedPairs, TrackerState

__version__ = "0.2.0"

__all__ = [
    "AbstractOperator",
    "Batches",
    "BlockTraces",
    "CriticalSharpness",
    "DiagonalEstimate",
    "EigenPairs",
    "Extremes",
    "Forecast",
    "FunctionOperator",
    "GaussNewtonOperator",
    "GaussRule",
    "HessianOperator",
    "Histogram",
    "IntervalEstimate",
    "KrylovDecomposition",
    "Landscape",
    "SpectralDensity",
    "SpectralDistance",
    "SpectralTrace",
    "TraceEstimate",
    "TrackedPairs",
    "TrackedStep",
    "Tracker",
    "TrackerState",
    "Verification",
    "adam_scale",
    "critical_sharpness",
    "density",
    "diagonal",
    "eigenpairs",
    "forecast",
    "gauss_newton_trace",
    "gauss_quadrature",
    "gaussian",
    "hvp",
    "kolmogorov_smirnov",
    "lanczos",
    "landscape",
    "principal_angles",
    "rademacher",
    "trace",
    "track",
    "verify",
    "wasserstein1",
]
