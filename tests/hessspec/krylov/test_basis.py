"""Bases that grow: what is kept, projected, combined and replaced, against dense rows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._krylov import basis as programs
from hessspec._krylov.basis import ROWS_PER_CHUNK, Basis, LockstepBases, in_chunks
from hessspec._krylov.tiles import Layout

# The second is longer than a sum that is taken in one piece.
DIMS = [60, 20_000]


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def orthonormal(rank: int, dim: int, seed: int = 0) -> np.ndarray:
    """Orthonormal rows, rounded to the dtype."""
    columns = np.random.default_rng(seed).normal(size=(dim, rank))
    return np.linalg.qr(columns)[0].T.astype(dtype())


def normal(count: int, dim: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(dtype())


def grown(rows: np.ndarray, block: int) -> Basis:
    """A basis of these rows, appended `block` at a time."""
    basis = Basis(Layout.of_blocks(rows.shape[1], dtype()))
    for first in range(0, rows.shape[0], block):
        basis.append(jnp.asarray(rows[first : first + block]))
    return basis


def kept(basis: Basis) -> np.ndarray:
    return np.asarray(basis.rows(0, basis.rank), np.float64)


@pytest.mark.parametrize("block", [1, 3, 16, 35])
def test_rows_come_back_as_they_were_appended_across_the_borders_of_chunks(block):
    rows = normal(35, 60)
    basis = grown(rows, block)
    assert basis.rank == 35
    assert len(basis.chunks) == 3
    np.testing.assert_array_equal(kept(basis), rows)
    np.testing.assert_array_equal(basis.rows(14, 5), rows[14:19])
    # What is past the last row is zero, in its chunk and beyond.
    np.testing.assert_array_equal(basis.rows(33, 20)[:2], rows[33:])
    assert not np.any(basis.rows(33, 20)[2:])
    assert not np.any(basis.rows(48, 3))


@pytest.mark.any_dtype
def test_a_chunk_is_not_copied_when_the_basis_grows():
    basis = grown(normal(16, 60), 16)
    first = basis.chunks[0]
    basis.append(jnp.asarray(normal(4, 60, seed=2)))
    assert basis.chunks[0] is first


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("rank", "count"), [(2, 16), (16, 1), (37, 2)])
def test_a_split_is_exact_and_leaves_nothing_in_the_span(dim, rank, count):
    """rows = Qᵀ (Q rowsᵀ) + rest, with Q rest = 0 to the rounding of the rows."""
    q, rows = orthonormal(rank, dim), normal(count, dim)
    basis = grown(q, 2)
    rest, inside = basis.split(jnp.asarray(rows))
    wide, exact = np.asarray(rest, np.float64), q.astype(np.float64)
    lengths = np.linalg.norm(rows)
    assert inside.shape == (rank, count)
    assert inside.dtype == np.float64
    np.testing.assert_allclose(exact.T @ inside, (rows - wide).T, atol=4 * eps() * lengths)
    np.testing.assert_allclose(inside, exact @ rows.T.astype(np.float64), atol=8 * eps() * lengths)
    assert np.abs(exact @ wide.T).max() < 8 * eps() * lengths
    again = basis.components(jnp.asarray(rows))
    np.testing.assert_allclose(again, inside, atol=8 * eps() * lengths)


def test_rows_projected_together_are_those_projected_one_by_one():
    q, rows = orthonormal(20, 4097), jnp.asarray(normal(5, 4097))
    basis = grown(q, 4)
    together, inside = basis.split(rows)
    for i in range(5):
        alone, parts = basis.split(rows[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=32 * eps())
        np.testing.assert_allclose(parts[:, 0], inside[:, i], atol=256 * eps())


def test_one_pass_equals_two_unless_the_rows_lie_almost_within():
    """What a pass leaves along Q is eps of the rows: small beside a rest of their own size, and
    not beside one of eps of them, which the second pass then clears of it, up to three
    eps for each row of Q: the rounding of the row, of the inner product, of the difference."""
    q = orthonormal(20, 4097)
    basis, exact = grown(q[:18], 2), q[:18].astype(np.float64)
    rows = jnp.asarray(normal(3, 4097))
    once, twice = np.asarray(basis.split(rows)[0]), np.asarray(basis.without(rows))
    np.testing.assert_allclose(once, twice, atol=16 * eps())
    within = jnp.asarray((exact[:2] + eps() * q[18:]).astype(dtype()))

    def along(rest: jax.Array) -> float:
        wide = np.asarray(rest, np.float64)
        return float(np.max(np.linalg.norm(exact @ wide.T, axis=0) / np.linalg.norm(wide, axis=1)))

    assert along(basis.split(within)[0]) > 1e-3
    assert along(basis.without(within)) < 3 * 18 * eps()


def test_a_basis_without_rows_takes_nothing_away():
    basis = Basis(Layout.of_blocks(60, dtype()))
    rows = jnp.asarray(normal(2, 60))
    rest, inside = basis.split(rows)
    np.testing.assert_array_equal(rest, rows)
    np.testing.assert_array_equal(basis.without(rows), rows)
    assert inside.shape == basis.components(rows).shape == (0, 2)
    np.testing.assert_array_equal(basis.combine(np.zeros((0, 2))), np.zeros((2, 60)))
    assert basis.rank == 0


@pytest.mark.parametrize(("rank", "count"), [(2, 1), (16, 2), (37, 16)])
def test_combinations_are_those_of_dense_rows(rank, count):
    q = orthonormal(rank, 4097)
    coefficients = np.random.default_rng(3).normal(size=(rank, count))
    found = grown(q, 16).combine(coefficients)
    exact = coefficients.T @ q.astype(np.float64)
    np.testing.assert_allclose(found, exact, atol=16 * eps() * np.abs(exact).max())


@pytest.mark.parametrize(
    ("dim", "old", "new"),
    [(60, 2, 1), (60, 16, 16), (60, 40, 33), (140_000, 37, 6)],  # the last in three pieces
)
def test_a_recombined_basis_is_the_turned_one_and_goes_on_growing(dim, old, new):
    q = orthonormal(old + 3, dim)
    basis = grown(q[:old], 2)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(old, old)))[0][:new]
    basis.recombine(turn)
    exact = turn @ q[:old].astype(np.float64)
    assert basis.rank == new
    assert len(basis.chunks) == in_chunks(new) // ROWS_PER_CHUNK
    np.testing.assert_allclose(kept(basis), exact, atol=16 * eps())
    # The slots that became free are zero, so that nothing of the old rows is projected on.
    assert not np.any(basis.rows(new, ROWS_PER_CHUNK))
    basis.append(jnp.asarray(q[old:]))
    whole = kept(basis)
    np.testing.assert_allclose(whole @ whole.T, np.eye(new + 3), atol=32 * eps())


@pytest.mark.any_dtype
def test_a_surrendered_basis_hands_over_its_rows_and_is_empty():
    rows = normal(20, 60)
    basis = grown(rows, 4)
    np.testing.assert_array_equal(basis.surrender(), rows)
    assert basis.rank == 0
    assert basis.chunks == []


@pytest.mark.any_dtype
def test_growing_compiles_nothing_after_the_first_chunk():
    """Programs depend on the number of rows that come and go, not on the size of the basis."""
    names = ("_store", "_split", "_components", "_slots")
    q, rows = orthonormal(50, 90), jnp.asarray(normal(3, 90))
    basis = grown(q[:2], 2)

    def used() -> list[int]:
        basis.split(rows)
        basis.components(rows)
        basis.rows(basis.rank - 2, 2)
        return [getattr(programs, name)._cache_size() for name in names]

    before = used()
    for first in range(2, 50, 2):
        basis.append(jnp.asarray(q[first : first + 2]))
    assert used() == before


def lockstep(
    dim: int, rows: int, probes: int = 3, apart: bool = False
) -> tuple[LockstepBases, np.ndarray]:
    """Bases of orthonormal rows, appended one by one, and the rows `(probes, rows, dim)`."""
    q = np.stack([orthonormal(rows, dim, seed) for seed in range(probes)])
    bases = LockstepBases(replace(Layout.of_lanes(dim, dtype(), probes), apart=apart))
    for j in range(rows):
        bases.append(jnp.asarray(q[:, j]))
    return bases, q


@pytest.mark.parametrize(
    ("dim", "rows", "apart"), [(60, 16, False), (9000, 19, False), (9000, 19, True)]
)
def test_each_probe_is_projected_on_its_own_basis(dim, rows, apart):
    bases, q = lockstep(dim, rows, apart=apart)
    assert bases.rank == rows
    np.testing.assert_array_equal(bases.rows(), q)
    vectors = normal(3, dim)
    layout = bases.layout
    known = layout.by_part(jnp.zeros((3, in_chunks(rows)), dtype()))
    assert len(known) == (3 if apart else 1)
    each = zip(layout.parts, layout.by_part(jnp.asarray(vectors)), strict=True)
    blocks, known = bases.project(tuple(part.tiled(v)[:, :, 0] for part, v in each), known)
    each = zip(layout.parts, blocks, strict=True)
    rest = np.concatenate([np.asarray(part.flat(b[:, :, None]), np.float64) for part, b in each])
    known = np.concatenate(known)
    wide = q.astype(np.float64)
    exact = np.einsum("krp,kp->kr", wide, vectors.astype(np.float64))
    length = np.linalg.norm(vectors, axis=1).max()
    np.testing.assert_allclose(known[:, :rows], exact, atol=8 * eps() * length)
    assert not np.any(known[:, rows:])
    left = vectors - np.einsum("krp,kr->kp", wide, exact)
    np.testing.assert_allclose(rest, left, atol=8 * eps() * length)


@pytest.mark.parametrize(
    ("dim", "rows", "apart"), [(60, 5, False), (9000, 19, False), (9000, 19, True)]
)
def test_the_gram_matrix_holds_each_pair_of_probes_once(dim, rows, apart):
    bases, q = lockstep(dim, rows, apart=apart)
    wide = q.astype(np.float64)
    exact = np.einsum("krp,lsp->krls", wide, wide)
    later = np.arange(3)[:, None] < np.arange(3)
    exact = exact * later[:, None, :, None]
    np.testing.assert_allclose(bases.gram(), exact, atol=16 * eps())
    np.testing.assert_allclose(bases.of(slice(1, 3)).gram(), exact[1:, :, 1:], atol=16 * eps())


def test_one_probe_has_no_pair():
    bases, _ = lockstep(60, 5, probes=1)
    np.testing.assert_array_equal(bases.gram(), np.zeros((1, 5, 1, 5)))


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_lengths_of_combinations_are_right_far_below_the_root_of_eps(size):
    """Two probes with the same basis but for 1e-3 of eps^(1/2) in one row: taken from inner
    products, the length of the difference would be rounding."""
    dim = 9000
    q = orthonormal(5, dim)
    tilt = dtype().type(1e-3 * eps() ** 0.5)
    turned = q.copy()
    turned[0] = turned[0] + tilt * orthonormal(1, dim, 7)[0]
    both = LockstepBases(Layout.of_lanes(dim, dtype(), 2))
    for j in range(5):
        both.append(jnp.asarray(np.stack([q[j], turned[j]])))
    mixes = np.zeros((2, 2, 5))
    mixes[0, :, 0] = 1.0, -1.0
    mixes[1] = np.random.default_rng(5).normal(size=(2, 5))
    rows = np.stack([q, turned]).astype(np.float64)
    exact = np.linalg.norm(np.einsum("dkr,krp->dp", mixes, rows), axis=1)
    found = both.combined_lengths(mixes * size) / size
    np.testing.assert_allclose(found, exact, rtol=64 * eps())


@pytest.mark.parametrize("apart", [False, True])
def test_bases_of_some_probes_are_those_of_the_whole_and_grow_on_their_own(apart):
    bases, q = lockstep(9000, 19, apart=apart)
    part = bases.of(slice(1, 3))
    assert part.layout.lanes == 2
    assert part.rank == 19
    np.testing.assert_array_equal(part.rows(), q[1:])
    np.testing.assert_array_equal(bases.row(17), q[:, 17])
    part.append(jnp.asarray(q[:2, 0]))
    np.testing.assert_array_equal(part.rows()[:, -1], q[:2, 0])
    np.testing.assert_array_equal(bases.rows(), q)
