"""How long vectors lie: every entry once, sums right to a few eps, the arithmetic of flat rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._krylov.tiles import (
    Layout,
    combination,
    components,
    inner_products,
    project,
    split,
)

# One narrow tile, its border, and several of which none is full.
BORDERS = [1, 4096, 4097, 12_289]


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def layouts(dim: int, lanes: int = 2) -> list[Layout]:
    return [
        Layout.of_blocks(dim, dtype()),
        Layout.of_lanes(dim, dtype(), lanes),
        Layout(dim, dtype(), lanes, tiles=3),
        Layout(dim, dtype(), lanes, tiles=3, apart=True),
    ]


@pytest.mark.parametrize("dim", BORDERS)
def test_tiles_hold_every_entry_once_and_nothing_else(dim):
    for layout in layouts(dim):
        rows = jnp.arange(2.0 * layout.lanes * dim, dtype=dtype()).reshape(-1, dim) + 1
        tiles = layout.tiled(rows)
        assert tiles.shape == (layout.lanes, layout.tiles, 2, layout.width)
        assert np.count_nonzero(tiles) == rows.size
        np.testing.assert_array_equal(layout.flat(tiles), rows)
        # Lane after lane in the block, and no lane has an entry of another.
        np.testing.assert_array_equal(layout.flat(tiles[-1:])[:2], rows[-2:])


@pytest.mark.parametrize("dim", BORDERS)
def test_tiles_take_hardly_more_memory_than_the_vectors(dim):
    vector = dim * dtype().itemsize
    assert Layout.of_blocks(dim, dtype()).nbytes(3) == 3 * vector
    lanes = Layout.of_lanes(dim, dtype(), 2)
    assert lanes.nbytes(3) == lanes.zeros(3).nbytes
    assert 6 * vector <= lanes.nbytes(3) < 6 * (vector + 16 * lanes.tiles * dtype().itemsize)


@pytest.mark.parametrize(("dim", "rows"), [(5, 2), (4097, 1), (40_000, 16)])
def test_sums_over_tiles_are_those_of_flat_rows(dim, rows):
    rng = np.random.default_rng(dim)
    for layout in layouts(dim):
        lanes = layout.lanes
        left, right = (rng.normal(size=(lanes, n, dim)).astype(dtype()) for n in (7, rows))
        basis = layout.tiled(jnp.asarray(left.reshape(-1, dim)))
        block = layout.tiled(jnp.asarray(right.reshape(-1, dim)))
        wide = left.astype(np.float64), right.astype(np.float64)
        exact = np.einsum("lrp,lbp->lrb", *wide)
        found = components(basis, block)
        np.testing.assert_allclose(found, exact, atol=8 * eps() * dim**0.5 * np.log2(2 * dim))
        mixed = layout.flat(combination(found, basis)).reshape(lanes, rows, dim)
        exact = np.einsum("lrp,lrb->lbp", wide[0], np.asarray(found, np.float64))
        np.testing.assert_allclose(mixed, exact, atol=32 * eps() * np.abs(exact).max())


@pytest.mark.parametrize("dim", [9000])
def test_a_row_for_each_lane_is_projected_as_a_block_of_one(dim):
    """In tiles and flat, with the components added from the given row on."""
    layout = Layout.of_lanes(dim, dtype(), 2)
    rng = np.random.default_rng(1)
    bases = [np.linalg.qr(rng.normal(size=(dim, 4)))[0].T for _ in range(2)]
    basis = layout.tiled(jnp.asarray(np.concatenate(bases).astype(dtype())))
    rows = jnp.asarray(rng.normal(size=(2, dim)).astype(dtype()))
    flat, parts = split(layout, basis, rows)
    known = jnp.ones((2, 10), dtype())
    left, known = project(basis, layout.tiled(rows)[:, :, 0], known, 3)
    np.testing.assert_allclose(layout.flat(left[:, :, None]), flat, atol=8 * eps())
    np.testing.assert_allclose(known[:, 3:7] - 1, parts[..., 0], atol=64 * eps())
    np.testing.assert_array_equal(np.delete(known, np.s_[3:7], axis=1), 1)
    for lane, rest in zip(bases, np.asarray(flat, np.float64), strict=True):
        assert np.abs(lane @ rest).max() < 16 * eps() * dim**0.5


@pytest.mark.parametrize("width", ["one tile", "narrow tiles"])
def test_long_inner_products_are_right_to_a_few_units(width):
    """Terms of one sign, added one after the other, would be off by 100 units or more."""
    dim = 1_000_003
    row = np.linspace(1.0, 2.0, dim).astype(dtype())
    row /= np.linalg.norm(row.astype(np.float64))
    exact = float(row.astype(np.float64) @ row.astype(np.float64))
    both = jnp.asarray(np.stack([row, -row]))
    if width == "one tile":
        layout = Layout.of_blocks(dim, dtype())
        found = components(layout.tiled(both), layout.tiled(both))[0, :, 0]
    else:
        layout = Layout.of_lanes(dim, dtype(), 1)
        found = components(layout.tiled(both), layout.tiled(both[:1])[:, :, 0])[0]
    np.testing.assert_allclose(found, [exact, -exact], rtol=16 * eps())
    plain = inner_products("krp,kp->kr", both[None], both[:1])
    np.testing.assert_allclose(plain, [[exact, -exact]], rtol=16 * eps())


@pytest.mark.any_dtype
def test_long_vectors_of_a_cpu_lie_lane_by_lane():
    """From a MiB on, where several lanes would push each other out of the cache; `parts` has a
    lane each, in order, and together all that the whole has."""
    short, long = (Layout.of_lanes(dim, np.float32, 3) for dim in (2**18 - 1, 2**18))
    assert short.parts == (short,)
    assert [part.lanes for part in long.parts] == [1, 1, 1]
    assert sum(part.nbytes(8) for part in long.parts) == long.nbytes(8)
    rows = jnp.arange(3.0)[:, None]
    assert [float(part[0, 0]) for part in long.by_part(rows)] == [0.0, 1.0, 2.0]
    assert short.by_part(rows) == (rows,)
    assert not Layout.of_blocks(2**18, np.float32).apart


def test_a_layout_is_hashable_whatever_names_its_dtype():
    """Compiled programs depend on it: equal layouts must share them."""
    named = {Layout.of_blocks(7, jnp.float32), Layout.of_blocks(7, np.dtype("float32"))}
    assert len(named) == 1
