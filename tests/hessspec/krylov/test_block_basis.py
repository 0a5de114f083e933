"""The block Krylov basis: the relation it satisfies, where it ends, what its growth is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator
from hessspec._krylov.block_basis import (
    ON_TRUST,
    PILOT,
    WIDTH,
    KrylovBasis,
    Measured,
    diagonal_share,
    growth_pays,
    off_diagonal,
)
from hessspec._krylov.blocks import spherical
from tests.spectra import hessian, with_spectrum

DIM = 120
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
OUTLIERS = np.concatenate([[900.0, -400.0, 35.0], np.linspace(-1.0, 1.0, DIM - 3)])


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def eps() -> float:
    return float(np.finfo(dtype()).eps)


def rotated(eigenvalues: np.ndarray) -> np.ndarray:
    return ((ROTATION * eigenvalues) @ ROTATION.T).astype(dtype())


def grown(matrix: np.ndarray, blocks: int) -> KrylovBasis:
    device = jnp.asarray(matrix)
    operator = FunctionOperator(
        lambda v: jnp.matmul(device, v, precision="highest"),
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
    )
    krylov = KrylovBasis(operator, jax.random.key(0))
    for _ in range(blocks):
        krylov.grow()
    return krylov


def rows(krylov: KrylovBasis) -> np.ndarray:
    return np.asarray(krylov.basis.rows(0, krylov.rank), np.float64)


@pytest.mark.parametrize("scale", [2.0**-40, 1.0, 2.0**40])
def test_products_of_the_basis_lie_in_it_and_in_the_next_block(scale):
    """H Qᵀ = Qᵀ T + Nᵀ B, with B of the last block alone, across the border of a chunk."""
    matrix = rotated(OUTLIERS * scale)
    krylov = grown(matrix, 11)
    q, following = rows(krylov), np.asarray(krylov.next, np.float64)
    assert krylov.rank == 11 * WIDTH
    products = q @ matrix.astype(np.float64)
    whole = krylov.compressed @ q
    whole[-WIDTH:] += krylov.coupling.T @ following
    size = 900 * scale
    np.testing.assert_allclose(whole * krylov.scale, products, atol=64 * eps() * size)
    both = np.concatenate([q, following])
    np.testing.assert_allclose(both @ both.T, np.eye(13 * WIDTH - WIDTH), atol=32 * eps())


def test_its_span_holds_the_outliers_first():
    krylov = grown(rotated(OUTLIERS), 8)
    inside = rows(krylov) @ ROTATION[:, :3]
    np.testing.assert_allclose(np.linalg.norm(inside, axis=0), 1.0, atol=1e-3)


@pytest.mark.parametrize(
    "eigenvalues",
    [np.ones(DIM), np.zeros(DIM), np.concatenate([[3.0, 3.0, 2.0], np.zeros(DIM - 3)])],
    ids=["identity", "zero", "rank 3"],
)
def test_an_exhausted_space_goes_on_from_a_new_start(eigenvalues):
    """The rows stay orthonormal, and T is H within them, wherever the blocks came from."""
    matrix = rotated(eigenvalues)
    krylov = grown(matrix, 10)
    q = rows(krylov)
    np.testing.assert_allclose(q @ q.T, np.eye(krylov.rank), atol=32 * eps())
    compressed = q @ matrix.astype(np.float64) @ q.T
    np.testing.assert_allclose(krylov.compressed * krylov.scale, compressed, atol=64 * eps() * 3)


def rest_after(matrix: np.ndarray, q: np.ndarray) -> np.ndarray:
    """ΠHΠ for the rows `q`, in float64."""
    outside = np.eye(matrix.shape[0]) - q.T @ q
    return outside @ matrix.astype(np.float64) @ outside


@pytest.mark.parametrize("scale", [2.0**-40, 1.0])
@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize(
    "eigenvalues",
    [OUTLIERS, np.ones(DIM), np.concatenate([[3.0, 3.0, 2.0], np.zeros(DIM - 3)])],
    ids=["outliers", "identity", "rank 3"],
)
def test_a_basis_knows_what_each_block_took_from_the_norm_of_the_rest(eigenvalues, given, scale):
    """By ‖A‖² + 2 ‖B‖², also beside rows that were given and from a new start."""
    matrix = rotated(eigenvalues * scale)
    krylov = grown(matrix, 0)
    if given:
        directions, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, given)))
        krylov.begin_with(jnp.asarray(directions.T, dtype()))
        assert krylov.fall == 0.0
    size = np.abs(eigenvalues * scale).max()
    # Of A and B, and of the squares whose difference it is compared with.
    rounding = (64 * eps() * size) ** 2 + 1e-14 * DIM * size**2
    before = rest_after(matrix, rows(krylov))
    for _ in range(8):
        krylov.grow()
        after = rest_after(matrix, rows(krylov))
        fall = np.sum(before**2) - np.sum(after**2)
        np.testing.assert_allclose(krylov.fall, fall, rtol=1e-3, atol=rounding)
        before = after


@pytest.mark.any_dtype
def test_it_says_when_the_next_block_has_no_room():
    krylov = grown(rotated(OUTLIERS)[:9, :9], 0)
    while not krylov.full:
        krylov.grow()
    assert krylov.rank == 6
    q = rows(krylov)
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=32 * eps())


def test_an_asymmetric_product_is_noticed_while_it_grows():
    matrix = rotated(OUTLIERS)
    matrix[0, 1] += 1.0
    with pytest.raises(ValueError, match="not symmetric"):
        grown(matrix, 3)


@pytest.mark.any_dtype
def test_pairs_of_probes_show_the_frobenius_norm():
    """E (vᵢᵀAvⱼ)² = ‖A‖²_F for i ≠ j: within five of its errors over 40 probes."""
    matrix = rotated(np.linspace(-1.0, 1.0, DIM)).astype(np.float64)
    probes = np.asarray(spherical(jax.random.key(1), 0, 40, DIM, dtype()), np.float64)
    forms = probes @ matrix @ probes.T
    exact = np.sum(matrix**2)
    pairs = forms[np.triu_indices(40, 1)] ** 2
    # The pairs share probes; those of one probe alone are independent given it.
    error = exact * (2 / pairs.size + 4 / 40) ** 0.5
    assert abs(off_diagonal(forms) - exact) < 5 * error
    assert off_diagonal(forms[:1, :1]) == 0.0


def test_signs_show_without_error_that_a_matrix_is_diagonal():
    signs = np.sign(np.random.default_rng(2).normal(size=(6, DIM))).astype(dtype())
    diagonal = np.linspace(1.0, 3.0, DIM).astype(dtype())
    share = diagonal_share(jnp.asarray(signs), jnp.asarray(signs * diagonal))
    np.testing.assert_allclose(share, 1.0, rtol=64 * eps())
    rotated_rows = signs @ rotated(np.linspace(-1.0, 1.0, DIM))
    assert diagonal_share(jnp.asarray(signs), jnp.asarray(rotated_rows)) < 0.5
    assert diagonal_share(jnp.asarray(signs), jnp.zeros_like(jnp.asarray(signs))) == 0.0


def with_falls(variances: dict[int, float]) -> Measured:
    """What is measured where the variances fall like this and nothing is off."""
    ranks = list(variances)
    return [
        (rank, variance, variances[ranks[max(i - 1, 0)]] - variance)
        for i, (rank, variance) in enumerate(variances.items())
    ]


def ranks_of(eigenvalues: np.ndarray, budget: int, pilots: int) -> np.ndarray:
    """Where one basis ends, by what each of so many pilots sees of the variance."""
    matrix, krylov = rotated(eigenvalues), grown(rotated(eigenvalues), 0)
    probes = np.random.default_rng(6).normal(size=(DIM, pilots * PILOT))
    seen: list[Measured] = [[] for _ in range(pilots)]
    ended = np.full(pilots, -1)
    while np.any(ended < 0) and krylov.rank + PILOT < budget:
        probes = rest_after(np.eye(DIM), rows(krylov)) @ probes
        found = probes * ((DIM - krylov.rank) ** 0.5 / np.linalg.norm(probes, axis=0))
        images = matrix.astype(np.float64) @ found
        for i in range(pilots):
            own = slice(i * PILOT, (i + 1) * PILOT)
            variance = 2 * off_diagonal(found[:, own].T @ images[:, own])
            seen[i].append((krylov.rank, variance, 2 * krylov.fall))
            left = budget - PILOT - krylov.rank
            if ended[i] < 0 and not growth_pays(seen[i], left, PILOT):
                ended[i] = krylov.rank
        krylov.grow()
    return np.where(ended < 0, budget - PILOT, ended)


@pytest.mark.any_dtype
def test_no_pilot_stops_a_basis_among_outliers_nor_leads_it_along_a_plateau():
    """Of 500. By the falls that they saw themselves (float32) 36 of them stopped on the way along
    the outliers, six at 16 directions of 40, and seven went on along the plateau."""
    rng = np.random.default_rng(5)
    outliers = np.logspace(4, 1, 80) * (-1.0) ** np.arange(80)
    spectrum = np.concatenate([outliers, rng.normal(size=DIM - 80)])
    assert ranks_of(spectrum, 48, 500).min() > 32
    level = rng.choice([-1.0, 1.0], DIM)
    assert set(ranks_of(level, 48, 500)) == {ON_TRUST}


@pytest.mark.any_dtype
def test_a_basis_grows_on_trust_then_while_the_variance_falls():
    assert growth_pays([(0, 1.0, 0.0)], ON_TRUST, 8)
    assert not growth_pays([(0, 1.0, 0.0)], ON_TRUST - 1, 8)
    falling = with_falls({rank: 0.5**rank for rank in range(0, 20, 2)})
    flat = with_falls(dict.fromkeys(range(0, 20, 2), 1.0))
    assert growth_pays(falling, 100, 8)
    assert not growth_pays(flat, 100, 8)
    assert not growth_pays(falling, WIDTH - 1, 8)
    # Halving in eight directions pays where a direction costs one sample, not where it costs ten.
    slow = with_falls({rank: 0.5 ** (rank / 8) for rank in range(0, 20, 2)})
    assert growth_pays(slow, 100, 8)
    assert not growth_pays(slow, 100, 8, price=10.0)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.concatenate([np.logspace(1, 4, 15), np.linspace(-1, 1, 385)]),
        np.concatenate([[1e5], np.linspace(-1, 1, 399)]),
        np.logspace(-6, 6, 400),
        np.concatenate([[5.0, 3.0, -2.0], np.zeros(397)]),
        np.repeat(np.logspace(-1, 3, 40), 10),
        np.zeros(400),
    ],
    ids=["outliers", "one outlier", "geometric", "rank 3", "tenfold", "zero"],
)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_block_basis_is_orthonormal_and_t_is_h_within_it(eigenvalues, scale):
    matrix = with_spectrum(eigenvalues * scale)
    krylov = KrylovBasis(hessian(matrix), jax.random.key(0))
    for _ in range(40):
        krylov.grow()
    rows = np.asarray(krylov.basis.rows(0, krylov.rank), np.float64)
    # 2 to 4 eps were measured; what a lost pass leaves is 100 eps and more.
    np.testing.assert_allclose(rows @ rows.T, np.eye(krylov.rank), atol=20 * eps())
    compressed = krylov.compressed * krylov.scale
    size = scale * np.abs(eigenvalues).max()
    np.testing.assert_allclose(rows @ matrix @ rows.T, compressed, atol=20 * eps() * size)
