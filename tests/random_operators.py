"""Random symmetric matrices of prescribed spectra, drawn by hypothesis, at scales 1e-12 to 1e12."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from tests.spectra import dtype

SIZES = (20, 97, 300)
BASES = {p: np.linalg.qr(np.random.default_rng(p).normal(size=(p, p)))[0] for p in SIZES}


def outliers(rng, p):
    """A bulk of both signs and eigenvalues from 10 to 10,000 times as large."""
    values = rng.normal(size=p)
    values[: p // 12 + 1] = 10.0 ** rng.uniform(1, 4, p // 12 + 1) * rng.choice([-1, 1])
    return values


def zeros(rng, p):
    """Two thirds of the eigenvalues are 0."""
    return np.concatenate([rng.normal(size=p // 3), np.zeros(p - p // 3)])


def low_rank(rng, p):
    return np.concatenate([rng.normal(size=5), np.zeros(p - 5)])


KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "outliers": outliers,
    "clusters": lambda rng, p: rng.choice(rng.normal(size=4), p),
    "exact zeros": zeros,
    "both signs": lambda rng, p: rng.permutation(np.linspace(-1.0, 1.0, p) ** 3),
    "low rank": low_rank,
    "decaying": lambda rng, p: 1.0 / np.arange(1, p + 1),
    "one value": lambda rng, p: np.full(p, rng.normal()),
}


@dataclass(frozen=True)
class Case:
    """A symmetric matrix with a prescribed spectrum, as rounded to the dtype of this run."""

    kind: str
    size: int
    seed: int
    exponent: int

    @property
    def matrix(self) -> np.ndarray:
        values = KINDS[self.kind](np.random.default_rng(self.seed), self.size)
        basis = BASES[self.size]
        matrix = (basis * values) @ basis.T * 10.0**self.exponent
        return ((matrix + matrix.T) / 2).astype(dtype())


def cases(sizes=SIZES) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        kind=st.sampled_from(sorted(KINDS)),
        size=st.sampled_from(sizes),
        seed=st.integers(0, 9999),
        exponent=st.integers(-12, 12),
    )
