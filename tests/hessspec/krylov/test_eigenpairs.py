"""Eigenpairs: against dense eigendecompositions, with every multiplicity; budgets and guards."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessspec import Batches, FunctionOperator, HessianOperator
from hessspec._krylov.eigenpairs import EigenPairs, eigenpairs
from hessspec._krylov.restarted import WIDTH
from hessspec._operators.algebra import AbstractOperator

DIM, K = 120, 6  # large enough that no dense matrix is formed
rng = np.random.default_rng(0)
BASIS, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
BULK = np.sort(rng.uniform(-1.0, 1.0, size=DIM))
SPECTRA = {
    "outliers of both signs": np.concatenate([[900.0, -400.0, 35.0, -20.0], BULK[4:]]),
    "decaying": 1.0 / np.arange(1, DIM + 1) ** 2,
    "ninefold": np.concatenate([np.repeat([7.0, 5.0], 9), 0.1 * BULK[18:]]),
    "twofold and fourfold": np.concatenate([np.repeat([9.0, 5.0, -7.0], [2, 4, 3]), BULK[9:]]),
    "close cluster": np.concatenate([4.0 + 1e-3 * np.arange(5), 2.0 + BULK[5:]]),
    "rank 3": np.concatenate([[3.0, 2.0, -1.0], np.zeros(DIM - 3)]),
    "two clusters": np.repeat([-2.0, 1.0], DIM // 2),
    "identity": np.ones(DIM),
    "zero": np.zeros(DIM),
}


def dtype() -> np.dtype:
    return np.dtype(np.float64 if jax.config.read("jax_enable_x64") else np.float32)


def tolerance() -> float:
    return float(np.finfo(dtype()).eps) ** (2 / 3)


def quadratic(params, matrix):
    """The Hessian is `matrix`: one compiled program for all of them."""
    x = jnp.concatenate([params["b"]["c"].ravel(), params["w"]])
    return 0.5 * jnp.vdot(x, jnp.matmul(matrix, x, precision="highest"))


def two_quadratics(params, matrices):
    x = jnp.concatenate([params["b"]["c"].ravel(), params["w"]])
    return 0.5 * jnp.einsum("tij,i,j->t", matrices, x, x, precision="highest")


def params():
    return {"b": {"c": jnp.zeros((4, 5), dtype())}, "w": jnp.zeros(DIM - 20, dtype())}


def rotated(eigenvalues: np.ndarray, scale: float = 1.0) -> np.ndarray:
    matrix = (BASIS * eigenvalues) @ BASIS.T
    return ((matrix + matrix.T) / 2 * scale).astype(dtype())


def preferred(values: np.ndarray, which: str, k: int) -> np.ndarray:
    """The first k of these values in the order that `which` means, said apart from the product."""
    falling = np.sort(values)[::-1]
    rising = falling[::-1]
    orders = {
        "LM": falling[np.argsort(-np.abs(falling), kind="stable")],
        "LA": falling,
        "SA": rising,
        "BE": np.ravel(np.stack([falling, rising], axis=1)),
    }
    return orders[which][:k]


def check(pairs: EigenPairs, matrix: np.ndarray, which: str) -> None:
    """Values, residuals, flags, order and orthonormality, against the dense matrix."""
    matrix = np.asarray(matrix, np.float64)
    truth = np.linalg.eigvalsh(matrix)
    norm = float(np.abs(truth).max())
    k = pairs.values.size
    wanted = preferred(truth, which, k)
    assert pairs.converged.all()
    slack = 4 * tolerance() * norm
    # Eigenvalues of equal magnitude and opposite sign may come in either order.
    measure = np.abs if which == "LM" else np.asarray
    np.testing.assert_allclose(measure(pairs.values), measure(wanted), atol=slack, rtol=0)
    rows = np.asarray(pairs.rows, np.float64)
    eps = float(np.finfo(dtype()).eps)
    assert np.abs(rows @ rows.T - np.eye(k)).max() < 100 * eps
    residuals = np.linalg.norm(rows @ matrix - pairs.values[:, None] * rows, axis=1)
    np.testing.assert_allclose(residuals, pairs.residuals, atol=50 * eps * norm)
    assert np.all(residuals <= 1.1 * tolerance() * norm)


CASES = [
    ("outliers of both signs", "LM"),
    ("decaying", "SA"),
    ("ninefold", "LA"),
    ("twofold and fourfold", "BE"),
    ("close cluster", "LA"),
    ("rank 3", "LM"),
    ("two clusters", "BE"),
    ("identity", "LM"),
    ("zero", "SA"),
]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_pairs_are_those_of_the_dense_matrix(name, which):
    matrix = rotated(SPECTRA[name])
    pairs = eigenpairs(quadratic, params(), jax.random.key(1), data=matrix, k=K, which=which)
    check(pairs, matrix, which)


@given(
    name=st.sampled_from(["outliers of both signs", "twofold and fourfold", "rank 3"]),
    which=st.sampled_from(["LM", "LA", "SA", "BE"]),
    exponent=st.integers(-12, 12),
    seed=st.integers(0, 999),
)
def test_pairs_stretch_with_the_operator(name, which, exponent, seed):
    """At every scale, for every end and key, the answer is as accurate relative to H."""
    matrix = rotated(SPECTRA[name], 10.0**exponent)
    key = jax.random.key(seed)
    check(eigenpairs(quadratic, params(), key, data=matrix, k=K, which=which), matrix, which)


def test_every_copy_of_a_ninefold_eigenvalue_is_found():
    """More copies than the block is wide: further sweeps find the rest, and no tenth."""
    matrix = rotated(SPECTRA["ninefold"])
    pairs = eigenpairs(quadratic, params(), jax.random.key(0), data=matrix, k=10)
    assert WIDTH < 9
    found = np.round(pairs.values, 3)
    assert np.sum(found == 7.0) == 9
    assert np.sum(found == 5.0) == 1


def test_scaling_by_a_power_of_two_changes_no_digit_of_the_vectors():
    matrix = rotated(SPECTRA["outliers of both signs"])
    one, scaled = (
        eigenpairs(quadratic, params(), jax.random.key(0), data=matrix * dtype().type(s), k=K)
        for s in (1.0, 2.0**-40)
    )
    np.testing.assert_array_equal(one.values * 2.0**-40, scaled.values)
    np.testing.assert_array_equal(np.asarray(one.rows), np.asarray(scaled.rows))


def test_vectors_are_trees_of_the_parameters_that_H_maps_to_multiples_of_themselves():
    matrix = rotated(SPECTRA["outliers of both signs"])
    operator = HessianOperator(quadratic, params(), data=matrix)
    pairs = eigenpairs(operator, key=jax.random.key(0), k=2)
    assert pairs.vectors["b"]["c"].shape == (2, 4, 5)
    assert pairs.vectors["w"].shape == (2, DIM - 20)
    image = operator.matmat(pairs.vectors)
    for leaf, vector in zip(jax.tree.leaves(image), jax.tree.leaves(pairs.vectors), strict=True):
        shape = (2,) + (1,) * (leaf.ndim - 1)
        multiple = np.asarray(pairs.values).reshape(shape) * np.asarray(vector)
        np.testing.assert_allclose(leaf, multiple, atol=900 * tolerance())


class Counting(AbstractOperator):
    """Counts the vectors that it multiplies."""

    operator: AbstractOperator
    log: list = eqx.field(static=True)

    def __init__(self, operator, log):
        self.operator, self.log = operator, log

    @property
    def space(self):
        return self.operator.space

    @property
    def num_tasks(self):
        return self.operator.num_tasks

    def rows(self, block):
        self.log.append(block.shape[0])
        return self.operator.rows(block)


@pytest.mark.any_dtype
@pytest.mark.parametrize("name", ["outliers of both signs", "twofold and fourfold"])
def test_every_product_is_counted_and_the_budget_is_kept(name):
    operator = HessianOperator(quadratic, params(), data=rotated(SPECTRA[name]))
    for budget in (2 * K + 4 * WIDTH, None):
        counting = Counting(operator, [])
        pairs = eigenpairs(counting, key=jax.random.key(0), k=K, max_matvecs=budget)
        assert sum(counting.log) == pairs.num_matvecs
        assert budget is None or pairs.num_matvecs <= budget


@pytest.mark.any_dtype
def test_a_search_that_ends_in_the_whole_matrix_counts_both():
    matrix = rotated(np.linspace(-1.0, 1.0, DIM))
    counting = Counting(HessianOperator(quadratic, params(), data=matrix), [])
    pairs = eigenpairs(counting, key=jax.random.key(0), k=16, which="SA", tol=1e-12)
    assert pairs.converged.all()
    assert sum(counting.log) == pairs.num_matvecs >= 2 * DIM


def test_pairs_that_have_not_converged_say_so_and_their_residuals_hold():
    matrix = rotated(BULK)
    pairs = eigenpairs(quadratic, params(), jax.random.key(0), data=matrix, k=K, max_matvecs=24)
    assert not pairs.converged.all()
    truth = np.linalg.eigvalsh(matrix.astype(np.float64))
    distance = np.abs(truth[None] - pairs.values[:, None]).min(axis=1)
    assert np.all(distance <= pairs.residuals * 1.001)


@pytest.mark.any_dtype
def test_a_small_memory_budget_costs_restarts_not_accuracy():
    matrix = rotated(0.9 ** np.arange(DIM))
    row = DIM * dtype().itemsize
    loose, tight = (
        eigenpairs(quadratic, params(), jax.random.key(0), data=matrix, k=K, memory_budget=budget)
        for budget in (None, row * (K + K + 8 * WIDTH + 10))
    )
    check(tight, matrix, "LM")
    assert tight.num_matvecs > loose.num_matvecs


@pytest.mark.any_dtype
def test_too_small_a_memory_budget_names_the_ways_out():
    with pytest.raises(MemoryError, match=r"a search for 6 eigenpairs .* lower `k`"):
        eigenpairs(
            quadratic,
            params(),
            jax.random.key(0),
            data=rotated(BULK),
            k=K,
            memory_budget=10 * DIM * dtype().itemsize,
        )


def test_tasks_have_their_own_pairs():
    names = ("outliers of both signs", "rank 3")
    matrices = np.stack([rotated(SPECTRA[name]) for name in names])
    pairs = eigenpairs(two_quadratics, params(), jax.random.key(0), data=matrices, k=3)
    assert pairs.num_tasks == 2
    assert pairs.vectors["b"]["c"].shape == (2, 3, 4, 5)
    for t, matrix in enumerate(matrices):
        check(pairs.task(t), matrix, "LM")
    with pytest.raises(IndexError, match="2 tasks, got 2"):
        pairs.task(2)


SMALL = np.diag([3.0, -1.0, 0.0, 2.0, 2.0])


def small_operator(matrix=SMALL, **options):
    matrix = jnp.asarray(matrix, dtype())
    return FunctionOperator(
        lambda v: jnp.matmul(matrix, v, precision="highest"),
        jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype),
        **options,
    )


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_all_pairs_of_a_small_operator(which):
    pairs = eigenpairs(small_operator(), key=jax.random.key(0), k=5, which=which)
    assert pairs.num_matvecs == 5
    check(pairs, SMALL, which)


@pytest.mark.any_dtype
def test_both_ends_come_in_turns_the_high_one_first():
    pairs = eigenpairs(small_operator(), key=jax.random.key(0), k=3, which="BE")
    np.testing.assert_allclose(pairs.values, [3.0, -1.0, 2.0], atol=1e-5)


@pytest.mark.any_dtype
def test_impossible_requests_are_refused():
    operator, key = small_operator(), jax.random.key(0)
    message = r"`k` must lie in \[1, 5\] for 5 chosen parameters, got 64; lower `k` or let"
    with pytest.raises(ValueError, match=message):
        eigenpairs(operator, key=key, k=64)
    with pytest.raises(ValueError, match=r"\"SA\" \(the smallest\).*, got 'SM'"):
        eigenpairs(operator, key=key, k=1, which="SM")
    with pytest.raises(ValueError, match=r"`tol` must lie in \[0, 1\)"):
        eigenpairs(operator, key=key, k=1, tol=-1.0)
    with pytest.raises(ValueError, match="`max_matvecs` must be at least 5 for 1 pairs of 5"):
        eigenpairs(operator, key=key, k=1, max_matvecs=4)
    with pytest.raises(TypeError, match="an operator already holds its parameters"):
        eigenpairs(operator, jnp.ones(5), key)


@pytest.mark.any_dtype
def test_asymmetric_and_infinite_products_are_refused():
    lopsided = rotated(SPECTRA["outliers of both signs"])
    lopsided[3] += 1.0
    with pytest.raises(ValueError, match="not symmetric"):
        eigenpairs(small_operator(lopsided), key=jax.random.key(0), k=3)
    with pytest.raises(ValueError, match="not symmetric"):
        eigenpairs(small_operator(SMALL + np.eye(5, k=1)), key=jax.random.key(0), k=3)
    infinite = rotated(SPECTRA["identity"])
    infinite[0, 0] = np.inf
    with pytest.raises(ValueError, match="is not finite in `params`"):
        eigenpairs(small_operator(infinite), key=jax.random.key(0), k=3)


def test_saved_pairs_come_back_as_trees_of_the_same_parameters(tmp_path):
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": [jnp.ones(4, dtype()), jnp.arange(3)]}

    def loss(p):
        x = jnp.concatenate([p["a"].ravel().astype(dtype()), p["b"][0]])
        return jnp.sum(jnp.sin(x * jnp.arange(1, 11, dtype=dtype())))

    pairs = eigenpairs(loss, tree, jax.random.key(0), k=3, where=lambda path, _: path != "c")
    path = tmp_path / "pairs.npz"
    pairs.save(path)
    loaded = EigenPairs.load(path, like=tree)
    assert jax.tree.structure(loaded) == jax.tree.structure(pairs)
    for one, other in zip(jax.tree.leaves(pairs), jax.tree.leaves(loaded), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with pytest.raises(ValueError, match="`like` must hold every leaf"):
        EigenPairs.load(path, like={"a": tree["a"]})
    with pytest.raises(ValueError, match=r"`like` must have the shapes .* at `a`"):
        EigenPairs.load(path, like={**tree, "a": jnp.ones(6)})


LARGE = 3000


def reflected(operator_values, vectors):
    """H v for H = R diag(λ) R with R three Householder reflections: P = 3,000 at no cost."""
    generator = np.random.default_rng(7)
    normals = generator.normal(size=(3, LARGE))
    normals = jnp.asarray((normals / np.linalg.norm(normals, axis=1)[:, None]).astype(dtype()))
    for u in normals:
        vectors = vectors - 2 * jnp.vdot(u, vectors, precision="highest") * u
    vectors = operator_values * vectors
    for u in normals[::-1]:
        vectors = vectors - 2 * jnp.vdot(u, vectors, precision="highest") * u
    return vectors


@pytest.mark.parametrize("which", ["LM", "BE"])
def test_pairs_of_an_operator_too_large_to_be_formed(which):
    """Outliers of both signs, one of them double, over a bulk: no dense matrix helps here."""
    bulk = np.random.default_rng(8).normal(size=LARGE - 7)
    eigenvalues = np.concatenate([[900.0, 900.0, -400.0, 120.0, -60.0, 30.0, -20.0], bulk])
    values = jnp.asarray(eigenvalues.astype(dtype()))
    operator = FunctionOperator(
        lambda v: reflected(values, v), jax.ShapeDtypeStruct((LARGE,), dtype())
    )
    pairs = eigenpairs(operator, key=jax.random.key(0), k=K, which=which)
    assert pairs.converged.all()
    wanted = preferred(eigenvalues, which, K)
    np.testing.assert_allclose(pairs.values, wanted, atol=4 * tolerance() * 900)
    assert pairs.num_matvecs < LARGE


def test_pairs_of_a_data_set_are_those_of_its_mean():
    """Ragged batches: the mean of the matrices, weighted by their sizes."""
    matrices = np.stack([rotated(np.roll(SPECTRA["twofold and fourfold"], s)) for s in range(5)])

    def loss(tree, batch):
        x = jnp.concatenate([tree["b"]["c"].ravel(), tree["w"]])
        forms = jnp.einsum("bij,i,j->b", batch, x, x, precision="highest")
        return 0.5 * jnp.mean(forms)

    batches = Batches([jnp.asarray(matrices[:2]), jnp.asarray(matrices[2:])])
    pairs = eigenpairs(loss, params(), jax.random.key(0), data=batches, k=K)
    check(pairs, matrices.astype(np.float64).mean(axis=0), "LM")
