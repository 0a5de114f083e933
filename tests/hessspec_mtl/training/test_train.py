"""Training learns, stops and goes on as if it had not been stopped, and refuses what cannot be."""

import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.graphs import batch_graphs, target_weights
from hessspec_mtl.network.model import predict
from hessspec_mtl.network.tasks import weighted_sums
from hessspec_mtl.training.batches import epoch_batches, padded_batch, padding_ladder
from hessspec_mtl.training.checkpoints import CheckpointError, Checkpoints
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.state import load_history, training_seconds
from hessspec_mtl.training.train import Training, _columns, load_params, saved_epochs, train
from tests.toy_training import CONFIG, NETWORK, graph


def examples(rng: np.random.Generator, count: int) -> SimpleNamespace:
    graphs = [graph(rng) for _ in range(count)]
    targets = np.array([[g.num_nodes - 3.5, (g.num_edges - 5.0) / 2] for g in graphs])
    return SimpleNamespace(graphs=graphs, targets=targets)


def encoded() -> SimpleNamespace:
    rng = np.random.default_rng(0)
    tasks = [SimpleNamespace(name=name) for name in ("bonds", "size")]
    train_examples, test_examples = examples(rng, 30), examples(rng, 10)
    for split in (train_examples, test_examples):
        split.targets = split.targets[:, ::-1]
    return SimpleNamespace(train=train_examples, test=test_examples, tasks=tasks)


DATA = encoded()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, train(CONFIG, NETWORK, DATA, folder)


def predicted(params, split: SimpleNamespace) -> np.ndarray:
    batch = batch_graphs(split.graphs, np.zeros_like(split.targets))
    found = jax.jit(predict, static_argnames="config")(params, batch, config=NETWORK)
    return np.asarray(found)[: len(split.graphs)]


def assert_same_run(folder: Path, uninterrupted: tuple[Path, pd.DataFrame]) -> None:
    reference, history = uninterrupted
    pd.testing.assert_frame_equal(load_history(folder), history, check_exact=True)
    last = CONFIG.num_epochs
    jax.tree.map(
        np.testing.assert_array_equal, load_params(folder, last), load_params(reference, last)
    )


def test_the_history_is_that_of_the_saved_parameters(uninterrupted):
    folder, history = uninterrupted
    assert list(history.columns) == ["epoch", "split", "task", "mse", "mae"]
    assert len(history) == 5 * 2 * 2
    for epoch in (0, 4):
        errors = predicted(load_params(folder, epoch), DATA.test) - DATA.test.targets[:, ::-1]
        rows = history[(history.epoch == epoch) & (history.split == "test")].set_index("task")
        for t, task in enumerate(("size", "bonds")):
            assert rows.mse[task] == pytest.approx((errors[:, t] ** 2).mean(), rel=1e-4)
            assert rows.mae[task] == pytest.approx(np.abs(errors[:, t]).mean(), rel=1e-4)


def test_training_learns(tmp_path):
    """Numbers of nodes and edges are sums over the graph: nothing is easier for this network."""
    table = train(replace(CONFIG, num_epochs=25), NETWORK, DATA, tmp_path)
    table = table.pivot_table(index="epoch", columns=["split", "task"], values="mse")
    assert (table.loc[25] < 0.5 * table.loc[0]).all()


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, uninterrupted):
    train(replace(CONFIG, num_epochs=2), NETWORK, DATA, tmp_path)
    train(CONFIG, NETWORK, DATA, tmp_path)
    assert_same_run(tmp_path, uninterrupted)
    changed = (tmp_path / "history.csv").stat().st_mtime_ns
    params = (Checkpoints(tmp_path / "checkpoints").path(4)).stat().st_mtime_ns
    train(CONFIG, NETWORK, DATA, tmp_path)  # finished: nothing is trained again
    assert_same_run(tmp_path, uninterrupted)
    assert Checkpoints(tmp_path / "checkpoints").path(4).stat().st_mtime_ns == params
    assert (tmp_path / "history.csv").stat().st_mtime_ns >= changed


def test_a_run_is_taken_from_epoch_to_epoch_and_ends_with_the_same_numbers(tmp_path, uninterrupted):
    """By one object, or by calls that know nothing of each other."""
    training = Training(CONFIG, NETWORK, DATA, tmp_path / "one")
    for until in (0, 1, 3, None):
        history = training.to(until)
        other = train(CONFIG, NETWORK, DATA, tmp_path / "calls", until=until)
        pd.testing.assert_frame_equal(history, other, check_exact=True)
        last = 4 if until is None else until
        assert list(history.epoch.unique()) == list(range(last + 1))
        assert saved_epochs(tmp_path / "one") == sorted({0, max(last - 1, 0), last})
    assert_same_run(tmp_path / "one", uninterrupted)
    assert_same_run(tmp_path / "calls", uninterrupted)


class Seen:
    """Notes what it sees, resumable as `Along` must be."""

    every = 3

    def __init__(self) -> None:
        self.looks: dict[int, float] = {}
        self.saved: list[int] = []

    def look(self, step: int, params) -> None:
        assert step not in self.looks
        self.looks[step] = float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))

    def save(self, step: int) -> None:
        assert not self.saved or step > self.saved[-1]
        self.saved.append(step)

    def resume(self, step: int) -> None:
        self.looks = {seen: value for seen, value in self.looks.items() if seen <= step}
        self.saved = [kept for kept in self.saved if kept <= step]


def test_what_looks_along_changes_no_number_and_sees_each_step_once(tmp_path, uninterrupted):
    """Also where a run stops on the way, or loses its last state: those steps are seen again."""
    whole, parted = Seen(), Seen()
    Training(CONFIG, NETWORK, DATA, tmp_path / "whole", along=whole).to()
    assert_same_run(tmp_path / "whole", uninterrupted)
    # 30 examples in steps of 8, for 4 epochs.
    assert list(whole.looks) == [0, 3, 6, 9, 12, 15]
    assert whole.saved == [0, 4, 8, 12, 16]
    training = Training(CONFIG, NETWORK, DATA, tmp_path / "parted", along=parted)
    training.to(0)
    training.to(3)
    shutil.rmtree(Checkpoints(tmp_path / "parted" / "checkpoints").path(3))
    Training(CONFIG, NETWORK, DATA, tmp_path / "parted", along=parted).to()
    assert_same_run(tmp_path / "parted", uninterrupted)
    assert parted.looks == whole.looks
    assert parted.saved == whole.saved


def test_epochs_that_are_trained_again_for_a_lost_state_are_not_looked_at_again(tmp_path):
    config, seen = replace(CONFIG, keep_epochs=(2,)), Seen()
    Training(config, NETWORK, DATA, tmp_path, along=seen).to()
    looks = dict(seen.looks)
    shutil.rmtree(Checkpoints(tmp_path / "checkpoints").path(2))
    with pytest.warns(UserWarning, match="epochs 0 to 2 are trained again"):
        Training(config, NETWORK, DATA, tmp_path, along=seen).to()
    assert seen.looks == looks
    assert seen.saved == [0, 4, 8, 12, 16]


def test_a_run_that_is_past_the_epoch_asked_for_stays_as_it_is(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted[0], tmp_path / "run")
    train(CONFIG, NETWORK, DATA, tmp_path / "run", until=2)
    assert saved_epochs(tmp_path / "run") == [0, 3, 4]
    with pytest.raises(ValueError, match=r"`until` must lie in \[0, 4\], .* got 5"):
        train(CONFIG, NETWORK, DATA, tmp_path / "run", until=5)


def test_what_is_kept_beyond_the_epoch_asked_for_is_not_removed(tmp_path):
    config = replace(CONFIG, keep_epochs=(1, 3))
    train(config, NETWORK, DATA, tmp_path)
    shutil.rmtree(Checkpoints(tmp_path / "checkpoints").path(1))
    with pytest.warns(UserWarning, match="epochs 0 to 1 are trained again"):
        train(config, NETWORK, DATA, tmp_path, until=2)
    assert saved_epochs(tmp_path) == [0, 1, 3, 4]


def test_a_run_on_the_device_stops_and_goes_on_with_the_same_numbers(tmp_path, monkeypatch):
    """What training does where there is no CPU: the same run to rounding, resumed bit for bit."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    history = train(CONFIG, NETWORK, DATA, tmp_path / "whole")
    for until in (2, None):
        train(CONFIG, NETWORK, DATA, tmp_path / "stopped", until=until)
    assert_same_run(tmp_path / "stopped", (tmp_path / "whole", history))


def test_states_are_saved_no_more_often_than_asked_for(tmp_path, uninterrupted):
    """What must be kept is, and a run that goes on from what was saved ends the same."""
    seldom = replace(CONFIG, checkpoint_seconds=1e6, keep_epochs=(2,))
    folder = tmp_path / "killed"
    shutil.copytree(uninterrupted[0], folder)  # the settings of this run, and no state
    shutil.rmtree(folder / "checkpoints")
    train(seldom, NETWORK, DATA, folder, until=3)
    assert saved_epochs(folder) == [0, 2, 3]
    shutil.rmtree(Checkpoints(folder / "checkpoints").path(3))
    train(seldom, NETWORK, DATA, folder)
    assert saved_epochs(folder) == [0, 2, 4]
    assert_same_run(folder, uninterrupted)


def truncate(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def test_a_damaged_checkpoint_costs_one_epoch_and_no_number(tmp_path, uninterrupted):
    train(replace(CONFIG, num_epochs=3), NETWORK, DATA, tmp_path)
    truncate(Checkpoints(tmp_path / "checkpoints").path(3))
    with pytest.warns(UserWarning, match="epoch_000003 cannot be read"):
        train(CONFIG, NETWORK, DATA, tmp_path)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("damage", [shutil.rmtree, truncate], ids=["missing", "truncated"])
def test_a_kept_checkpoint_that_is_damaged_is_trained_again(tmp_path, uninterrupted, damage):
    """From the nearest earlier one, with what lies after it untouched."""
    config = replace(CONFIG, keep_epochs=(2,))
    train(config, NETWORK, DATA, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    before = load_params(tmp_path, 2)
    finished = checkpoints.path(4).stat().st_mtime_ns
    seconds = training_seconds(tmp_path)
    damage(checkpoints.path(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config, NETWORK, DATA, tmp_path)
    assert "epochs 0 to 2 are trained again" in str(caught[-1].message)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path, 2), before)
    assert checkpoints.path(4).stat().st_mtime_ns == finished
    assert saved_epochs(tmp_path) == [0, 2, 3, 4]
    assert_same_run(tmp_path, uninterrupted)
    assert training_seconds(tmp_path) == seconds


def test_the_seconds_of_an_interrupted_run_add_up(tmp_path):
    """Each finished epoch keeps its own time, whichever process it was finished in."""
    train(replace(CONFIG, num_epochs=2), NETWORK, DATA, tmp_path)
    first = pd.read_csv(tmp_path / "seconds.csv")
    train(CONFIG, NETWORK, DATA, tmp_path)
    both = pd.read_csv(tmp_path / "seconds.csv")
    assert list(both.epoch) == [0, 1, 2, 3, 4]
    assert (both.seconds > 0).all()
    pd.testing.assert_frame_equal(both[:3], first)
    assert training_seconds(tmp_path) == pytest.approx(both.seconds.sum())


def test_epochs_to_keep_stay_and_others_go(tmp_path):
    config = replace(CONFIG, num_epochs=6, keep_epochs=(3,), evaluate_every=4)
    history = train(config, NETWORK, DATA, tmp_path)
    assert saved_epochs(tmp_path) == [0, 3, 5, 6]
    assert sorted(set(history.epoch[history.split == "test"])) == [0, 4, 6]
    with pytest.raises(CheckpointError, match="no checkpoint of epoch 2"):
        load_params(tmp_path, 2)


def test_one_task_of_a_data_set_can_be_trained_alone(tmp_path):
    network = replace(NETWORK, tasks=("bonds",))
    history = train(replace(CONFIG, num_epochs=1), network, DATA, tmp_path)
    assert set(history.task) == {"bonds"}
    with pytest.raises(ValueError, match=r"`network.tasks` must be among .*got \['mass'\]"):
        train(CONFIG, replace(NETWORK, tasks=("mass",)), DATA, tmp_path)


def test_a_run_cannot_go_on_as_another(uninterrupted):
    """Which settings and data make it another is asked in `test_identity.py`."""
    with pytest.raises(ValueError, match=r"`config.learning_rate` is .*choose another `directory`"):
        train(replace(CONFIG, learning_rate=1e-4), NETWORK, DATA, uninterrupted[0])
    swapped = SimpleNamespace(train=DATA.train, test=DATA.train, tasks=DATA.tasks)
    with pytest.raises(ValueError, match=r"`data.test` is .*choose another `directory`"):
        train(CONFIG, NETWORK, swapped, uninterrupted[0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_error_that_is_not_finite_stops_the_run_and_is_named(tmp_path, split):
    good = getattr(DATA, split)
    targets = good.targets.copy()
    targets[3, 0] = np.inf
    spoilt = {"train": DATA.train, "test": DATA.test, "tasks": DATA.tasks}
    spoilt[split] = SimpleNamespace(graphs=good.graphs, targets=targets)
    message = f"the {split} error of task 'bonds' is inf in epoch 0"
    with pytest.raises(FloatingPointError, match=message):
        train(CONFIG, NETWORK, SimpleNamespace(**spoilt), tmp_path)


def test_a_diverging_run_stops_before_it_saves(tmp_path):
    """Without normalised updates a rate of 1e30 overflows; the last good epoch stays."""
    config = replace(CONFIG, optimizer="sgd", learning_rate=1e30, evaluate_every=4)
    with pytest.raises(FloatingPointError, match=r"in epoch 1|not finite after epoch 1"):
        train(config, NETWORK, DATA, tmp_path)
    assert saved_epochs(tmp_path) == [0]


def test_the_steps_use_the_learning_rate_of_their_epoch(tmp_path):
    """SGD's step is rate times gradient: at a rate of nearly 0 in epoch 2, nothing moves."""
    config = TrainConfig(
        num_epochs=2, batch_size=8, optimizer="sgd", decay_start=1, decay_rate=1e-30
    )
    train(config, NETWORK, DATA, tmp_path)
    before, first, second = (load_params(tmp_path, epoch) for epoch in (0, 1, 2))
    kernel = ("shared", "embed_nodes", "kernel")
    before, first, second = (p[kernel[0]][kernel[1]][kernel[2]] for p in (before, first, second))
    np.testing.assert_array_equal(first, second)
    assert np.abs(before - first).max() > 0


def with_missing(split: SimpleNamespace, sizes: int, bonds: int) -> SimpleNamespace:
    """`split` with `size` known of the last so many examples and `bonds` of the first so many."""
    targets = split.targets.copy()
    targets[:-sizes, 1] = np.nan
    targets[bonds:, 0] = np.nan
    return SimpleNamespace(graphs=split.graphs, targets=targets)


# "size" is in one batch of four at most: the others have none of it.
LACKING = SimpleNamespace(
    train=with_missing(DATA.train, 2, 25), test=with_missing(DATA.test, 3, 9), tasks=DATA.tasks
)


def masked_errors(params, split: SimpleNamespace) -> np.ndarray:
    """[mse, mae] of "size" and "bonds" over the examples that have them."""
    errors = predicted(params, split) - split.targets[:, ::-1]
    return np.stack([np.nanmean(errors**2, axis=0), np.nanmean(np.abs(errors), axis=0)])


@pytest.fixture(scope="module")
def lacking_run(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    """One step of plain gradient descent, with all training examples in one batch."""
    folder = tmp_path_factory.mktemp("lacking")
    config = TrainConfig(
        num_epochs=1, batch_size=30, optimizer="sgd", learning_rate=1e-2, decay_start=1
    )
    return folder, train(config, NETWORK, LACKING, folder)


def test_errors_are_means_over_the_examples_that_have_the_target(lacking_run):
    """Those of the only step's batch are of the weights before it."""
    folder, history = lacking_run
    history = history.set_index(["epoch", "split", "task"])
    for epoch, split, state in ((0, "train", 0), (0, "test", 0), (1, "train", 0), (1, "test", 1)):
        expected = masked_errors(load_params(folder, state), getattr(LACKING, split))
        for t, task in enumerate(NETWORK.tasks):
            np.testing.assert_allclose(
                history.loc[(epoch, split, task), ["mse", "mae"]].to_numpy(float),
                expected[:, t],
                rtol=1e-5,
            )


def test_a_step_goes_down_the_gradient_of_the_sum_of_masked_means(lacking_run):
    before, after = (load_params(lacking_run[0], epoch) for epoch in (0, 1))
    split = LACKING.train
    known = ~np.isnan(split.targets[:, ::-1])
    batch = batch_graphs(split.graphs, np.zeros_like(split.targets))

    def objective(params):
        errors = predict(params, batch, NETWORK)[:30] - np.where(known, split.targets[:, ::-1], 0)
        return (known * errors**2 / known.sum(axis=0)).sum()

    gradient = jax.jit(jax.grad(objective))(jax.tree.map(jnp.asarray, before))
    for old, new, slope in zip(*map(jax.tree.leaves, (before, after, gradient)), strict=True):
        scale = max(float(jnp.abs(slope).max()), 1e-3)
        np.testing.assert_allclose((old - new) / 1e-2, slope, atol=2e-4 * scale)


def test_batches_of_an_epoch_stand_for_the_sum_of_masked_means_on_average():
    """Weighted by their sizes, the objectives of a partition add up to it, empty tasks and all."""
    split = LACKING.train
    weights = target_weights(split.targets)
    errors = np.random.default_rng(0).standard_normal(split.targets.shape)
    total, without = 0.0, 0
    for members in epoch_batches(jax.random.key(0), 1, 30, 4):
        batch = padded_batch(
            [split.graphs[i] for i in members],
            split.targets[members],
            padding_ladder(split.graphs, 4),
            weights,
        )
        padded = np.zeros(batch.targets.shape)
        padded[: len(members)] = errors[members] ** 2
        objective = weighted_sums(jnp.asarray(padded), batch).sum() / batch.mask.sum()
        total += float(objective) * len(members) / 30
        without += not batch.weights[:, 1].any()
    assert without >= 6
    expected = np.where(np.isnan(split.targets), np.nan, errors**2)
    assert total == pytest.approx(np.nanmean(expected, axis=0).sum(), rel=1e-5)


def test_a_network_of_one_task_sees_only_the_examples_that_have_it():
    graphs, targets = _columns(LACKING, "train", ("size",))
    assert graphs == LACKING.train.graphs[-2:]
    np.testing.assert_array_equal(targets, LACKING.train.targets[-2:, [1]])
    graphs, targets = _columns(LACKING, "train", NETWORK.tasks)
    assert len(graphs) == 27  # 25 with "bonds", 2 with "size"
    assert target_weights(targets).tolist() == [27 / 2, 27 / 25]


def test_a_target_that_a_side_of_the_split_lacks_altogether_is_named(tmp_path):
    gone = SimpleNamespace(graphs=DATA.test.graphs, targets=DATA.test.targets * [1, np.nan])
    data = SimpleNamespace(train=DATA.train, test=gone, tasks=DATA.tasks)
    with pytest.raises(
        ValueError, match=r"`encoded.test` must have an example .* none of \['size'"
    ):
        train(CONFIG, NETWORK, data, tmp_path)
