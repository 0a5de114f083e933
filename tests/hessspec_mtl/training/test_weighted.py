"""Training with weights: ones change nothing, others move along their direction, all resume."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from hessspec_mtl.graphs import MultiGraph, batch_graphs
from hessspec_mtl.network.model import NetworkConfig, init_params
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.epochs import HostEpochs, ResidentEpochs
from hessspec_mtl.training.programs import Optimization, programs
from hessspec_mtl.training.state import TrainingState, load_weights, unpacked
from hessspec_mtl.training.train import load_params, train
from hessspec_mtl.training.weighted import seeded, weighted_step
from hessspec_mtl.training.weightings import MEASURES, WEIGHTINGS
from hessspec_mtl.weighting import nash_mtl

NETWORK = NetworkConfig(
    node_features=2, edge_features=1, tasks=("size", "bonds"), num_steps=1, width=3, head_width=3
)
CONFIG = TrainConfig(num_epochs=3, batch_size=8, learning_rate=1e-2, measure_every=2)


def examples(count: int) -> SimpleNamespace:
    rng, graphs = np.random.default_rng(count), []
    for _ in range(count):
        nodes, edges = int(rng.integers(2, 6)), int(rng.integers(2, 8))
        graphs.append(
            MultiGraph(
                nodes=np.eye(2)[rng.integers(0, 2, nodes)],
                edges=np.ones((edges, 1)),
                senders=rng.integers(0, nodes, edges),
                receivers=rng.integers(0, nodes, edges),
            )
        )
    targets = np.array([[g.num_nodes - 3.5, (g.num_edges - 5.0) / 2] for g in graphs])
    return SimpleNamespace(graphs=graphs, targets=targets)


DATA = SimpleNamespace(
    train=examples(20), test=examples(6), tasks=[SimpleNamespace(name=n) for n in NETWORK.tasks]
)


def weighted(name: str, **changes) -> TrainConfig:
    return replace(CONFIG, weighting=name, **changes)


PARAMS = {
    "shared": {"x": jnp.array([1.0, -1.0, 2.0])},
    "heads": {"a": jnp.ones(1), "b": jnp.ones(1)},
}
BATCH = SimpleNamespace(mask=jnp.ones(8), centres=jnp.array([[0.0, 0.0, 1.0], [2.0, 0.0, 0.5]]))


def sums_of(params, batch):
    """Squared errors of two tasks over eight graphs: quadratics, and a head for each."""
    heads = jnp.stack([params["heads"][name][0] for name in "ab"])
    distances = jnp.sum((params["shared"]["x"][None, :] - batch.centres) ** 2, axis=1)
    return 8 * jnp.stack([distances + heads**2, distances])


def stepped(name: str, **changes):
    """Parameters after one step of plain descent, and the sums that come with it."""
    choice = Optimization.of(weighted(name, **changes), 20).choice

    def losses_of(params, batch):
        sums = sums_of(params, batch)
        return sums[0] / batch.mask.sum(), sums

    init, step = weighted_step(NETWORK, choice, optax.sgd(0.5), losses_of)
    after, state, sums = jax.jit(lambda params: step(params, init(params), BATCH, None))(PARAMS)
    assert int(state.steps) == 1
    return after, sums


def test_a_step_goes_along_the_weights_of_the_gramian_and_heads_along_their_own_loss():
    rows = 2 * (np.asarray(PARAMS["shared"]["x"])[None] - np.asarray(BATCH.centres))
    weights, _ = nash_mtl().update(jnp.ones(2), (), jnp.asarray(rows @ rows.T))
    after, sums = stepped("nash")
    np.testing.assert_allclose(sums[:2], sums_of(PARAMS, BATCH), rtol=1e-6)
    np.testing.assert_allclose(sums[2] / 8, weights, rtol=1e-4)
    moved = np.asarray(after["shared"]["x"] - PARAMS["shared"]["x"])
    np.testing.assert_allclose(moved, -0.5 * np.asarray(weights) @ rows, rtol=1e-4)
    assert [float(after["heads"][name][0]) for name in "ab"] == [0.0, 0.0]  # 1 - 0.5 · 2


def test_weights_of_losses_are_those_of_all_parameters():
    after, sums = stepped("fixed", task_weights=(0.5, 0.0))
    gradient = np.asarray(PARAMS["shared"]["x"] - BATCH.centres[0])
    np.testing.assert_allclose(
        after["shared"]["x"], PARAMS["shared"]["x"] - 0.5 * gradient, rtol=1e-6
    )
    assert [float(after["heads"][name][0]) for name in "ab"] == [0.5, 1.0]
    np.testing.assert_allclose(sums[2] / 8, [0.5, 0.0])


def resumes(name: str, folder) -> pd.DataFrame:
    """The weights of a run in one go, which one that was stopped and gone on with has too."""
    config = weighted(name, task_weights=(0.5, 2.0) if name == "fixed" else ())
    history = train(config, NETWORK, DATA, folder / "once")
    train(config, NETWORK, DATA, folder / "twice", until=1)
    again = train(config, NETWORK, DATA, folder / "twice")
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    jax.tree.map(
        np.testing.assert_array_equal, *(load_params(folder / f, 3) for f in ("once", "twice"))
    )
    tables = [load_weights(folder / f) for f in ("once", "twice")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert np.isfinite(tables[0].weight).all()
    return tables[0].pivot_table(index="epoch", columns="task", values="weight")


def test_weights_by_curvature_resume_and_leave_1_after_the_first_measurement(tmp_path):
    """What is drawn and what is believed is in the checkpoint: keys, filters, counts."""
    table = resumes("gauss-newton", tmp_path)
    np.testing.assert_allclose(table.mean(axis=1), 1.0, rtol=1e-4)
    assert (np.abs(table["size"] - table["bonds"]) > 0.02).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if name not in ("equal",)])
def test_every_weighting_resumes(name, tmp_path):
    resumes(name, tmp_path)


@pytest.mark.slow
def test_fixed_weights_of_1_train_as_equal_ones_do(tmp_path):
    plain = train(CONFIG, NETWORK, DATA, tmp_path / "equal")
    ones = train(weighted("fixed", task_weights=(1.0, 1.0)), NETWORK, DATA, tmp_path / "fixed")
    np.testing.assert_allclose(ones.mse, plain.mse, rtol=1e-4)
    assert load_weights(tmp_path / "equal") is None
    table = load_weights(tmp_path / "fixed")
    assert list(table.columns) == ["epoch", "task", "weight"]
    assert (len(table), set(table.weight)) == (6, {1.0})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cagrad", "famo", "sharpness"])
def test_an_epoch_in_one_program_is_that_of_batches_from_the_host(name):
    """Also with weights; to rounding, which these pass on."""
    config = weighted(name)
    compiled = programs(NETWORK, Optimization.of(config, 20))
    splits = {s: (d.graphs, d.targets) for s, d in (("train", DATA.train), ("test", DATA.test))}
    measured = batch_graphs(DATA.train.graphs[:8], DATA.train.targets[:8])
    bar = SimpleNamespace(update=lambda n: None)
    found = []
    for kind in (HostEpochs, ResidentEpochs):
        rate, on_device = config.learning_rate, jax.device_put(measured)
        way = kind(compiled, splits, 8, jax.random.key(1), rate, measured=on_device)
        params = init_params(jax.random.key(0), NETWORK)
        _, _, errors = way.epoch(1, params, compiled.init(params), bar)
        found.append(errors)
    np.testing.assert_allclose(*found, rtol=2e-2)


def test_seeds_have_draws_of_their_own_and_a_state_is_read_as_it_was_written():
    params = init_params(jax.random.key(0), NETWORK)
    init = programs(NETWORK, Optimization.of(weighted("pcgrad"), 20)).init
    keys = [
        np.asarray(jax.random.key_data(seeded(init(params), seed).weighting.key)) for seed in (0, 1)
    ]
    assert (keys[0] != keys[1]).any()
    state = TrainingState(
        params, seeded(init(params), 3), np.zeros((1, 2, 2, 2)), np.zeros(1), np.ones((1, 2))
    )
    back = unpacked(state.packed(), params, init(params))
    np.testing.assert_array_equal(
        jax.random.key_data(back.opt_state.weighting.key),
        jax.random.key_data(state.opt_state.weighting.key),
    )
    np.testing.assert_array_equal(back.weights, state.weights)
    assert jax.tree.structure(back.opt_state) == jax.tree.structure(state.opt_state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weighting": "none"}, "`weighting` must be one of .*'equal'.*, got 'none'"),
        ({"weighting": "fixed"}, "`task_weights` go with `weighting` 'fixed' .* got none"),
        ({"task_weights": (1.0,)}, r"`task_weights` go with .* got \(1.0,\) with 'equal'"),
        (
            {"weighting": "fixed", "task_weights": (1.0, -1.0)},
            "`task_weights` must be finite and not negative",
        ),
        ({"weighting": "preconditioned", "optimizer": "sgd"}, "is of Adam's steps"),
        ({"measure_every": 0}, "`measure_every` must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_weights_of_another_number_of_tasks_are_refused():
    config = weighted("fixed", task_weights=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"one a task, got 3 for 2: size, bonds"):
        programs(NETWORK, Optimization.of(config, 20))


def test_the_page_and_the_options_name_all_weightings():
    page = (Path(__file__).parents[3] / "docs" / "weighting.md").read_text(encoding="utf-8")
    assert set(MEASURES) <= set(WEIGHTINGS)
    assert not [name for name in WEIGHTINGS if f"`{name}`" not in page]
    assert not [name for name in WEIGHTINGS if name not in (TrainConfig.__doc__ or "")]
