"""Traces of blocks: parts of the same samples, with shared weights counted where they stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import FunctionOperator, HessianOperator
from tests.spectra import dtype, eps


def recurrent(params, batch):
    """A net that is unrolled: the same weights act at every step."""
    inputs, targets = batch
    state = jnp.zeros((inputs.shape[0], params["step"]["hidden"].shape[0]), inputs.dtype)
    for t in range(inputs.shape[1]):
        state = jnp.tanh(
            jnp.matmul(inputs[:, t], params["step"]["in"], precision="highest")
            + jnp.matmul(state, params["step"]["hidden"], precision="highest")
        )
    outputs = jnp.matmul(state, params["head"], precision="highest")
    return jnp.mean((outputs - targets) ** 2, axis=0)


def total(params, batch):
    return recurrent(params, batch).sum()


LOSSES = {1: total, 2: recurrent}


@pytest.fixture(scope="module")
def net():
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "head": jax.random.normal(keys[0], (6, 2)),
        "step": {"in": jax.random.normal(keys[1], (8, 6)), "hidden": jnp.eye(6) * 0.9},
    }
    batch = (jax.random.normal(keys[2], (20, 4, 8)), jax.random.normal(keys[3], (20, 2)))
    return jax.tree.map(lambda leaf: leaf.astype(dtype()), (params, batch))


def by_part(path, leaf):
    return path.split("/")[0]


def by_leaf(path, leaf):
    return path


def truth(net, tasks, by):
    operator = HessianOperator(LOSSES[tasks], net[0], data=net[1])
    diagonals = np.diagonal(np.asarray(operator.dense(), float), axis1=-2, axis2=-1)
    ends = np.cumsum(operator.space.sizes)[:-1]
    sums: dict[str, np.ndarray] = {}
    for path, part in zip(operator.space.paths, np.split(diagonals, ends, axis=-1), strict=True):
        sums[by(path, None)] = sums.get(by(path, None), 0.0) + part.sum(axis=-1)
    return sums


def blocks(net, tasks, by, num_matvecs, method="auto", seed=0, **options):
    return hessspec.trace(
        LOSSES[tasks], net[0], jax.random.key(seed), data=net[1], by=by, method=method,
        num_matvecs=num_matvecs, progress=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("tasks", [1, 2])
def test_exact_traces_of_blocks_are_sums_of_the_diagonal(net, tasks):
    found, expected = blocks(net, tasks, by_leaf, 1000), truth(net, tasks, by_leaf)
    assert list(found) == list(expected) == ["head", "step/hidden", "step/in"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].value, value, atol=1e4 * eps())
        assert np.all(found[name].standard_error == 0)


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("method", "tasks"),
    [
        ("hutchinson", 1),
        ("auto", 2),
        pytest.param("hutchinson", 2, marks=pytest.mark.slow),
        pytest.param("auto", 1, marks=pytest.mark.slow),
    ],
)
def test_sampled_traces_of_blocks_are_right_within_their_errors(net, tasks, method):
    expected = truth(net, tasks, by_part)
    scores = []
    for seed in range(12):
        found = blocks(net, tasks, by_part, 80, method, seed)
        scores.append(
            [(found[n].value - expected[n]) / found[n].standard_error for n in ("head", "step")]
        )
    scores = np.array(scores)
    # Twelve z-scores each: their mean within 4 of its errors, their rms below 2.
    assert np.all(np.abs(scores.mean(axis=0)) < 4 / 12**0.5)
    assert np.all(np.sqrt(np.mean(scores**2, axis=0)) < 2)


@pytest.mark.parametrize("tasks", [1, 2])
def test_blocks_add_up_to_the_whole_sample_by_sample(net, tasks):
    """With random signs the whole is the trace with the same key; its products are as many."""
    parts = blocks(net, tasks, by_leaf, 40, "hutchinson").values()
    whole = hessspec.trace(
        LOSSES[tasks], net[0], jax.random.key(0), data=net[1], method="hutchinson",
        num_matvecs=40, progress=False,
    )  # fmt: skip
    samples = sum(part.samples for part in parts)
    n = min(samples.shape[-1], whole.num_samples)
    atol = 1e3 * eps() * np.abs(whole.samples).max()
    np.testing.assert_allclose(samples[..., :n], whole.samples[..., :n], atol=atol)


@pytest.mark.any_dtype
@pytest.mark.parametrize("tasks", [1, 2])
def test_with_a_basis_blocks_add_up_to_the_one_block_of_all(net, tasks):
    """Directions alone, so that the basis is the same; then all that is known adds up."""
    rows = jax.random.normal(jax.random.key(9), (30, 96), dtype())
    parts = blocks(net, tasks, by_leaf, 70, directions=rows).values()
    whole = blocks(net, tasks, lambda path, leaf: "all", 70, directions=rows)["all"]
    assert {part.num_samples for part in parts} == {whole.num_samples}
    scale = np.abs(whole.samples).max()
    for name in ("exact", "samples"):
        got = sum(np.asarray(getattr(part, name)) for part in parts)
        np.testing.assert_allclose(got, getattr(whole, name), atol=1e4 * eps() * scale)


@pytest.mark.any_dtype
@pytest.mark.parametrize("method", ["hutchinson", "auto"])
@pytest.mark.parametrize("num_matvecs", [12, 60])
def test_every_product_is_counted(method, num_matvecs):
    matrix, calls = jnp.diag(jnp.arange(1.0, 101.0, dtype=dtype())), []

    def matvec(tree):
        jax.debug.callback(lambda: calls.append(1))
        x = jnp.concatenate([tree["a"], tree["b"]])
        y = matrix @ x
        return {"a": y[:40], "b": y[40:]}

    like = {"a": jnp.zeros(40, dtype()), "b": jnp.zeros(60, dtype())}
    operator = FunctionOperator(matvec, like)
    calls.clear()
    found = hessspec.trace(
        operator, key=jax.random.key(0), by=by_leaf, method=method, num_matvecs=num_matvecs,
        progress=False,
    )  # fmt: skip
    jax.effects_barrier()
    assert len(calls) == found["a"].num_matvecs == found["b"].num_matvecs <= num_matvecs
    assert found["a"].systematic >= 0


@pytest.mark.any_dtype
def test_each_block_says_how_many_parameters_it_has(net):
    found = hessspec.trace(
        total, net[0], jax.random.key(0), data=net[1], num_matvecs=12, by=by_part
    )
    assert {name: part.dim for name, part in found.items()} == {"head": 12, "step": 48 + 36}


@pytest.mark.any_dtype
def test_wrong_blocks_are_explained(net):
    for method in ("xtrace", "hutch++"):
        with pytest.raises(ValueError, match="`by` needs method='auto' or 'hutchinson'"):
            blocks(net, 1, by_part, 20, method)
    with pytest.raises(TypeError, match="`by` must be a function of path and leaf, got str"):
        blocks(net, 1, "head", 20)
    with pytest.raises(TypeError, match="`by` must return the name of a block"):
        blocks(net, 1, lambda path, leaf: [path], 20)
    with pytest.raises(TypeError, match=r"`by` is called as `by\(path, leaf\)`"):
        blocks(net, 1, lambda path: path, 20)
    with pytest.raises(ValueError, match="`num_matvecs` must be above 4 with `by`"):
        blocks(net, 1, by_part, 4)
