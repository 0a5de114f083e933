"""What is tried on validation data, in which order, and what is read off it; nothing is trained."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl import weigh
from hessspec_mtl.datasets.base import MultitaskDataset, Task
from hessspec_mtl.featurize.molecules import graph_of
from hessspec_mtl.files.whole import FolderInUseError, sole_use
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.study import screening
from hessspec_mtl.study.screening import (
    RATE_SEED,
    RATES,
    SEEDS,
    best_rates,
    candidates,
    read_screen,
    screen,
    screen_summary,
    units,
    validation_dataset,
)
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.weightings import WEIGHTINGS

NETWORK = NetworkConfig(node_features=1, edge_features=1, tasks=("a", "NA"))
EVERY = len(candidates(2))


def error(config: TrainConfig, task: str) -> float:
    """Equal weights do best at 2e-3 and have errors 1 and 2; CAGrad, at 1e-3, 10 % less."""
    best = 1e-3 if config.weighting == "cagrad" else 2e-3
    off = 1 + 0.5 * abs(np.log(config.learning_rate / best))
    factor = {"equal": 1.0, "cagrad": 0.9}.get(config.weighting, 1.2)
    seed = 1 + 0.01 * (config.seed - 1000)
    return off * factor * seed * {"a": 1.0, "NA": 2.0}[task]


@pytest.fixture(scope="module")
def calls():
    """The configurations that were trained, by a training that knows its error."""
    made: list[TrainConfig] = []

    def trained(config, network, encoded, folder, *, progress=None):
        folder.mkdir(parents=True)
        made.append(config)
        if config.weighting == "nash" and config.learning_rate == max(RATES):
            raise FloatingPointError("the parameters are not finite")
        rows = [
            (epoch, "test", task, 1.0, error(config, task))
            for epoch in range(4)
            for task in network.tasks
        ]
        return pd.DataFrame(rows, columns=["epoch", "split", "task", "mse", "mae"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening, "train", trained)
        yield made


@pytest.fixture(scope="module")
def table(calls, tmp_path_factory) -> pd.DataFrame:
    """Of a screening that was interrupted twice, and found finished once more."""
    folder = tmp_path_factory.mktemp("screen")
    first = screened(folder, most=7)
    assert len(calls) == 7
    assert len(units(2, first)) == EVERY * len(RATES) - 7
    screened(folder, most=EVERY * len(RATES))
    whole = screened(folder)
    assert len(screened(folder)) == len(whole) == 2 * len(calls)  # a row a task
    pd.testing.assert_frame_equal(read_screen(folder / "s.csv"), whole, check_exact=False)
    assert not [
        path for path in (folder / "units").rglob("*") if path.is_dir() and path.stem != "s"
    ]
    return whole


def screened(folder, most=None) -> pd.DataFrame:
    return screen(
        SimpleNamespace(), NETWORK, TrainConfig(), folder / "s.csv", most=most, say=lambda _: None
    )


def test_every_weighting_is_a_candidate_and_fixed_ones_turn_each_task_up_and_down():
    found = candidates(3)
    assert {name for name, _ in found} == set(WEIGHTINGS)
    fixed = [weights for name, weights in found if name == "fixed"]
    assert len(fixed) == 6
    assert (3.0, 1.0, 1.0) in fixed


def test_rates_are_chosen_on_a_seed_of_their_own_and_what_was_done_is_not_done_again(calls, table):
    assert len(calls) == EVERY * (len(RATES) + len(SEEDS))
    by_rate = [call for call in calls if call.seed == RATE_SEED]
    assert len(by_rate) == EVERY * len(RATES)
    for call in calls[len(by_rate) :]:
        assert call.seed in SEEDS
        assert call.learning_rate == (1e-3 if call.weighting == "cagrad" else 2e-3)


def test_two_processes_do_not_add_to_one_table_and_each_set_trains_in_a_folder_of_its_own(
    calls, tmp_path
):
    with (
        sole_use(tmp_path / "units" / "s"),
        pytest.raises(FolderInUseError, match=r"another process .* works in"),
    ):
        screened(tmp_path, most=1)
    with sole_use(tmp_path / "units" / "another_set"):
        assert screened(tmp_path, most=0).empty
    with pytest.raises(ValueError, match=r"`most` \(--most\) must be at least 0, got -1"):
        screened(tmp_path, most=-1)


def test_what_stops_a_screening_is_told_in_a_line(tmp_path, capsys):
    none = tmp_path / "none"
    assert weigh.main(["--data-dir", str(none), "--out", str(tmp_path)]) == 1
    assert "Stopped: `directory` (--data-dir) must name an existing folder" in (
        capsys.readouterr().err
    )


def test_a_run_that_diverges_is_never_the_best(table):
    lost = table[np.isinf(table["mae"])]
    assert set(lost["weighting"]) == {"nash"}
    assert best_rates(table)["nash", ""] == 2e-3


def test_delta_m_is_the_mean_relative_change_against_equal_weights_by_seed(table):
    found = screen_summary(table).set_index("weighting")
    assert found.index[0] == "cagrad"
    assert found.loc["cagrad", "delta_m"] == pytest.approx(-10.0, abs=1e-6)
    assert found.loc["cagrad", "seeds"] == len(SEEDS)
    assert found.loc["equal", "delta_m"] == pytest.approx(0.0, abs=1e-9)
    assert found.loc["mgda", "delta_m"] == pytest.approx(20.0, abs=1e-6)


def test_validation_is_a_part_of_the_training_examples():
    names = tuple("C" * n + "O" for n in range(1, 31))
    dataset = MultitaskDataset(
        name="alcohols",
        domain="molecules",
        ids=names,
        structures=names,
        graphs=tuple(graph_of(text, add_hydrogens=True) for text in names),
        targets=np.arange(30.0)[:, None],
        tasks=(Task("t", "t", "1"),),
        groups=np.arange(30),
        elements=(1, 6, 8),
    )
    encoded = validation_dataset(dataset, 0.3, 0)
    tested = {names[i] for i in dataset.split(0, 0.3).test}
    used = {*encoded.train.ids, *encoded.test.ids}
    assert not used & tested
    assert used | tested == set(names)
    assert len(encoded.test) == round(0.2 * len(used))
