"""Operators whose traces are known, one for all files: their programs are compiled once."""

import numpy as np
import pytest

from tests.spectra import DIM, hessian, outliers, with_spectrum


@pytest.fixture(scope="session")
def spectrum():
    """Five outliers over a bulk, and the eigenvalues."""
    eigenvalues = outliers()
    return hessian(with_spectrum(eigenvalues)), eigenvalues


@pytest.fixture(scope="session")
def three_tasks():
    """Two that share their outliers, and their difference; and the traces."""
    first = with_spectrum(outliers())
    second = first + 0.1 * with_spectrum(np.random.default_rng(5).normal(size=DIM), seed=1)
    stack = np.stack([first, second, first - second])
    return hessian(stack), np.trace(stack, axis1=1, axis2=2)
