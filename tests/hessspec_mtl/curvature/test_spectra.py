"""Spectra of tasks: counts, the cell about zero, and the distances between them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.curvature.spectra import task_distances, task_spectra


def test_counts_hold_the_truth_within_their_interval(records):
    """Over 20 spectra, the 95 % interval misses the true number at most 3 times."""
    misses = 0
    for seed in range(20):
        eigenvalues = records.outlier_spectrum(seed, 3.0, 1.0)
        log = task_spectra(records.density(eigenvalues[None], seed))[0].log_count_beyond(0.5)
        truth = math.log10((np.abs(eigenvalues) > 0.5).sum())
        misses += not log.low - 1e-9 <= truth <= log.high + 1e-9
    assert misses <= 3


def test_the_blur_is_the_cell_about_zero(records):
    """A bulk within 1e-3 of 0 and outliers above 0.1: the cell ends somewhere between."""
    spectrum = task_spectra(records.density(records.outlier_spectrum(0, 1.0)[None]))[0]
    assert 1e-5 < spectrum.blur < 0.1
    coarse = replace(spectrum, density=replace(spectrum.density, resolution=np.asarray(0.3)))
    assert coarse.blur == pytest.approx(0.3)


def test_distances_are_what_it_takes_to_move_the_resolved_eigenvalues(records):
    """Outliers at ±1, ..., all simple, and a bulk in the cell about 0 that counts as 0."""
    far = np.array([8.0, 6.0, 4.0, 2.0, -3.0, -5.0])
    diagonals = np.zeros((2, 400))
    diagonals[0, :6], diagonals[1, :6] = far, far + np.array([1.0, 0.0, -0.5, 0.0, 0.0, 0.25])
    diagonals[:, 6:] = 1e-4 * np.random.default_rng(0).uniform(-1, 1, 394)
    found = task_distances(records.density(diagonals))
    np.testing.assert_allclose(found.moved, 1.75 * (1 - np.eye(2)), atol=1e-3)
    # Between 8 and 9, and again elsewhere, one eigenvalue more lies below.
    np.testing.assert_allclose(found.miscounted, 1 - np.eye(2), atol=1e-3)
    assert found.moved_error[0, 1] < 1e-3
    assert found.cell < 2.0
