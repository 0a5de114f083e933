"""Operators with a prescribed spectrum, and traces of them, for tests of any estimator.

All of one size share their loss, and so their compiled programs.
"""

import jax
import jax.numpy as jnp
import numpy as np

import hessspec
from hessspec import HessianOperator, TraceEstimate

METHODS = ("hutchinson", "hutch++", "xtrace", "auto")
DIM = 120


def dtype() -> np.dtype:
    """The dtype of this run of the suite."""
    return np.dtype(jnp.asarray(0.0).dtype)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def quadratic(x, matrix):
    """Its Hessian is `matrix`; a stack of matrices gives a vector-valued loss."""
    return jnp.einsum("p,...pq,q->...", x, matrix, x, precision="highest") / 2


def hessian(matrix) -> HessianOperator:
    matrix = jnp.asarray(matrix, dtype())
    return HessianOperator(quadratic, jnp.zeros(matrix.shape[-1], dtype()), data=matrix)


def with_spectrum(eigenvalues, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues in a random orthogonal basis."""
    eigenvalues = np.asarray(eigenvalues, float)
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(eigenvalues.size,) * 2))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def outliers(seed: int = 0) -> np.ndarray:
    """Five eigenvalues of either sign, far from 115 of size 1."""
    eigenvalues = np.random.default_rng(seed).normal(size=DIM)
    eigenvalues[:5] = [1000.0, -300.0, 200.0, 100.0, 50.0]
    return eigenvalues


def trace_of(operator, method="auto", num_matvecs=48, seed=0, **options) -> TraceEstimate:
    return hessspec.trace(
        operator,
        key=jax.random.key(seed),
        method=method,
        num_matvecs=num_matvecs,
        progress=False,
        **options,
    )
