"""The rule of a start without known eigenvectors is that of the deflated start itself."""

import numpy as np
import pytest

from hessspec._spectrum.atoms import Eigenvectors
from hessspec._spectrum.deflation import Deflated

DIM, STEPS = 30, 8
EPS = float(np.finfo(np.float64).eps)


def lanczos(matrix, start):
    """alpha, beta and basis, each product made orthogonal to the whole basis twice."""
    basis, alpha, beta = [start / np.linalg.norm(start)], [], []
    for _ in range(STEPS):
        product = matrix @ basis[-1]
        alpha.append(basis[-1] @ product)
        for _ in range(2):
            product = product - np.array(basis).T @ (np.array(basis) @ product)
        beta.append(np.linalg.norm(product))
        basis.append(product / beta[-1])
    return np.array(alpha), np.array(beta), np.array(basis[:-1])


@pytest.mark.any_dtype
@pytest.mark.parametrize("share", [0.3, 1.0, 100.0])
def test_the_rule_has_the_mass_and_the_moments_of_the_deflated_start(share):
    """Σ w λʲ = q̃'Hʲq̃: with weights that sum to |q̃|² and not to 1, whatever q has of U.

    Weights of rounding are told from others by their size, which is that of q's own parts.
    """
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
    values = np.sort(np.concatenate([[-9.0, 12.0], rng.normal(size=DIM - 2)]))
    matrix = (turn * values) @ turn.T
    u = turn[:, [0, -1]].T
    start = rng.normal(size=DIM)
    start += (share - 1) * u.T @ (u @ start)  # as many times more of U than it had
    start /= np.linalg.norm(start)
    alpha, beta, basis = lanczos(matrix, start)
    known = Eigenvectors(values[[0, -1]], np.full(2, 1e-14), 1e-14, (basis @ u.T)[None])
    rest = Deflated(alpha, beta, known, 0, EPS, 1e-14)
    rule = rest.rule(rest.size)
    left = start - u.T @ (u @ start)
    moment = left
    for degree in range(4):
        found = rule.weights @ rule.nodes**degree
        np.testing.assert_allclose(found, left @ moment, rtol=1e-8, atol=1e-10 * (left @ left))
        moment = matrix @ moment
