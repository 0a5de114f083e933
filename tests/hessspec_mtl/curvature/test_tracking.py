"""What is followed while a network trains: right, resumable, and compiled once."""

import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks.timing import Compilations
from hessspec_mtl.curvature import tracking
from hessspec_mtl.curvature.subject import task_hessians
from hessspec_mtl.curvature.tracking import (
    TOLERANCE,
    TaskTracker,
    load_tracking,
    tracking_seconds,
)
from hessspec_mtl.graphs import MultiGraph
from hessspec_mtl.network.model import NetworkConfig, init_params

# Of the made-up losses; nothing else is of this network, so that no program is shared.
NETWORK = NetworkConfig(node_features=1, edge_features=1, tasks=("steep", "tilted"), width=2)
EVERY, DIM = 5, 40
SPECTRA = np.stack([np.geomspace(9, 0.01, DIM), np.r_[np.linspace(-2, 2, DIM - 2), 4, 6]])
ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(DIM, DIM)))[0]


def made_up_losses(params, batch):
    """Σᵢ dᵢ (Rw)ᵢ²/2 + wᵢ⁴/12 for the two spectra d and a rotation R; no graph plays a part."""
    del batch
    w = jnp.concatenate([params["shared"]["a"], params["shared"]["b"]])
    turned = jnp.einsum("ij,j->i", jnp.asarray(ROTATION, w.dtype), w, precision="highest")
    return (jnp.asarray(SPECTRA, w.dtype) * turned**2 / 2 + w**4 / 12).sum(axis=1)


def hessian(spectrum: np.ndarray, step: int) -> np.ndarray:
    """Rᵀ diag(d) R + diag(w²), which turns as w grows."""
    return (ROTATION.T * spectrum) @ ROTATION + np.diag(weights(step).astype(float) ** 2)


@pytest.fixture(autouse=True, scope="module")
def with_made_up_losses():
    """The network compiles for a minute; what is tested here depends on none."""
    with pytest.MonkeyPatch.context() as patch:
        real = tracking.partial_losses
        patch.setattr(
            tracking,
            "partial_losses",
            lambda network: made_up_losses if network == NETWORK else real(network),
        )
        yield


def graph(rng: np.random.Generator) -> MultiGraph:
    num_nodes = int(rng.integers(2, 5))
    ends = rng.integers(0, num_nodes, (2, 2 * num_nodes))
    return MultiGraph(
        nodes=rng.normal(size=(num_nodes, 1)),
        edges=np.ones((2 * num_nodes, 1)),
        senders=ends[0],
        receivers=ends[1],
    )


def examples() -> SimpleNamespace:
    """Graphs of which one lacks its second target."""
    rng = np.random.default_rng(0)
    graphs = [graph(rng) for _ in range(6)]
    targets = np.array([[g.num_nodes - 3.0, rng.normal()] for g in graphs])
    targets[2, 1] = np.nan
    return SimpleNamespace(graphs=graphs, targets=targets)


EXAMPLES = examples()


def weights(step: int) -> np.ndarray:
    """Those of training, which grow."""
    start = np.random.default_rng(1).normal(size=DIM) / 2
    return (start * (1 + 0.02 * step)).astype(np.float32)


def params_at(step: int):
    w = jnp.asarray(weights(step))
    return {"shared": {"a": w[:10], "b": w[10:]}, "heads": {}}


def tracker(folder, **changes) -> TaskTracker:
    settings = {"every": EVERY, "num_probes": 24, "seed": 3} | changes
    return TaskTracker(NETWORK, EXAMPLES, folder, **settings)


def looked(follower: TaskTracker, *steps: int) -> None:
    """Look at these steps, and save after each."""
    for step in steps:
        follower.look(step, params_at(step))
        follower.save(step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six looks in one go, and where they were kept."""
    folder = tmp_path_factory.mktemp("tracking")
    looked(tracker(folder), *range(0, 6 * EVERY, EVERY))
    return folder


def assert_same_rows(folder, whole) -> None:
    ours, theirs = (load_tracking(f).drop(columns="look_seconds") for f in (folder, whole))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def assert_right(row, matrix) -> None:
    """What a row says of a task, against its dense Hessian."""
    values = np.linalg.eigvalsh(matrix)
    largest = np.abs(values).max()
    assert row["converged"]
    assert row["residual"] <= TOLERANCE * largest
    # A Rayleigh quotient is no larger, and less by at most |r|² over the gap to the second.
    off = row["residual"] ** 2 / (row["sharpness"] - values[-2])
    rounding = 1e-5 * largest
    assert values[-1] - off - rounding <= row["sharpness"] <= values[-1] + rounding
    assert abs(row["trace"] - np.trace(matrix)) < 4 * row["trace_standard_error"]
    assert row["trace_low_95"] < row["trace"] < row["trace_high_95"]


def test_eigenvalues_and_traces_are_those_of_the_hessians(whole):
    """The first look, from nothing, included."""
    table = load_tracking(whole)
    assert list(table["step"]) == [s for s in range(0, 30, EVERY) for _ in NETWORK.tasks]
    for step in (0, 10, 25):
        rows = table[table["step"] == step].to_dict("records")
        for row, spectrum in zip(rows, SPECTRA, strict=True):
            assert_right(row, hessian(spectrum, step))


@pytest.mark.slow
def test_they_are_those_of_the_networks_hessians(tmp_path):
    """The missing target included: means are over the graphs that have it."""
    network = NetworkConfig(
        node_features=1, edge_features=1, tasks=("a", "b"), num_steps=1, width=3, head_width=3
    )
    params = init_params(jax.random.key(0), network)
    settings = {"every": EVERY, "num_probes": 24, "seed": 3}
    follower = TaskTracker(network, EXAMPLES, tmp_path, **settings)
    for step in range(0, 6 * EVERY, EVERY):
        follower.look(step, params)
    follower.save(5 * EVERY)
    dense = task_hessians(params, network, EXAMPLES, 6).dense()
    rows = load_tracking(tmp_path).to_dict("records")[-2:]
    for row, matrix in zip(rows, np.asarray(dense, float), strict=True):
        assert_right(row, matrix)


def test_a_look_compiles_nothing_after_the_second_and_leaves_the_parameters_alone(tmp_path):
    follower, compilations = tracker(tmp_path), Compilations()
    for step in range(0, 4 * EVERY, EVERY):
        params, compilations.count = params_at(step), 0
        before = jax.device_get(params)
        compilations.count = 0
        follower.look(step, params)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), before)
        follower.save(step)
    assert compilations.count == 0


def test_killed_anywhere_it_goes_on_with_the_same_rows(whole, tmp_path):
    """Looks that were not saved with a state of the run are made again, each once."""
    first = tracker(tmp_path)
    looked(first, 0, 5, 10)
    first.look(15, params_at(15))  # of an epoch that is not saved
    second = tracker(tmp_path)
    second.resume(12)
    assert list(load_tracking(tmp_path)["step"].unique()) == [0, 5, 10]
    looked(second, 15)
    # Saved for a state that never came to be: the run goes on from the one before.
    third = tracker(tmp_path)
    third.resume(14)
    third.resume(14)
    looked(third, 15, 20, 25)
    assert_same_rows(tmp_path, whole)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == [
        "step_000000020.npz",
        "step_000000025.npz",
    ]


def test_a_run_that_begins_again_keeps_nothing_of_the_one_before(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "t")
    again = tracker(tmp_path / "t")
    again.resume(-1)
    looked(again, 0)
    assert [path.name for path in (tmp_path / "t").glob("*.npz")] == ["step_000000000.npz"]
    assert list(load_tracking(tmp_path / "t")["step"].unique()) == [0]


def test_what_cannot_be_read_is_told_and_costs_no_row(whole, tmp_path):
    """The next look starts from nothing: its values agree within residuals."""
    shutil.copytree(whole, tmp_path / "t")
    path = tmp_path / "t" / "step_000000020.npz"
    path.write_bytes(path.read_bytes()[:-200])
    again = tracker(tmp_path / "t")
    with pytest.warns(UserWarning, match="the tracking of step 20 left is not to be read"):
        again.resume(22)
    looked(again, 25)
    ours, theirs = load_tracking(tmp_path / "t"), load_tracking(whole)
    pd.testing.assert_frame_equal(ours[:-2], theirs[:-2], check_exact=True)
    reach = ours["residual"] + theirs["residual"]
    assert (np.abs(ours["sharpness"] - theirs["sharpness"]) <= reach)[-2:].all()


def test_a_finished_run_has_its_table_again_if_that_was_removed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "t")
    (tmp_path / "t" / "tracking.csv").unlink()
    assert load_tracking(tmp_path / "t") is None
    assert tracking_seconds(None) == 0.0
    tracker(tmp_path / "t").resume(28)
    assert_same_rows(tmp_path / "t", whole)
    table = load_tracking(tmp_path / "t")
    assert tracking_seconds(table) == pytest.approx(table["look_seconds"].sum() / 2)


def test_another_seed_has_other_probes(whole, tmp_path):
    other = tracker(tmp_path, seed=4)
    looked(other, 0)
    ours, theirs = load_tracking(tmp_path)["trace"], load_tracking(whole)["trace"]
    assert (ours != theirs[:2]).all()
