"""A folder knows the run that it holds: its settings, its network and every number of its data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.graphs import MultiGraph
from hessspec_mtl.training.checkpoints import CheckpointError, Checkpoints
from hessspec_mtl.training.identity import claim, describe
from tests.toy_training import CONFIG, NETWORK, graph


def examples(rng: np.random.Generator, count: int) -> tuple[list[MultiGraph], np.ndarray]:
    graphs = [graph(rng) for _ in range(count)]
    return graphs, np.array([[(g.num_edges - 5.0) / 2, g.num_nodes - 3.5] for g in graphs])


RANDOM = np.random.default_rng(0)
SPLITS = {"train": examples(RANDOM, 30), "test": examples(RANDOM, 10)}


def home(folder, config=CONFIG, network=NETWORK, splits=SPLITS) -> None:
    claim(folder, config, describe(config, network, splits))


def altered(index: int, change) -> dict:
    """The splits with one array of one graph, or the targets (4), changed in place."""
    graphs, targets = list(SPLITS["test"][0]), SPLITS["test"][1].copy()
    if index == 4:
        change(targets)
    else:
        names = ("nodes", "edges", "senders", "receivers")
        array = getattr(graphs[3], names[index]).copy()
        change(array)
        graphs[3] = replace(graphs[3], **{names[index]: array})
    return {**SPLITS, "test": (graphs, targets)}


def another(array: np.ndarray) -> None:
    """The last number is 1 where it was 0, and else 0, which is a node of every graph."""
    array.flat[-1] = array.flat[-1] == 0


def test_the_same_run_comes_home_and_what_may_change_later_does_not_matter(tmp_path):
    home(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    home(tmp_path / "run")
    home(tmp_path / "run", replace(CONFIG, num_epochs=9, keep_epochs=(1,), checkpoint_seconds=60.0))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"config": replace(CONFIG, learning_rate=1e-4)}, "config.learning_rate"),
        ({"config": replace(CONFIG, decay_start=1)}, "config.decay_start"),
        ({"config": replace(CONFIG, matmul_precision="tf32")}, "config.matmul_precision"),
        ({"network": replace(NETWORK, head_width=5)}, "network.head_width"),
        ({"network": replace(NETWORK, tasks=("bonds", "size"))}, "network.tasks"),
        ({"splits": {"train": SPLITS["test"], "test": SPLITS["test"]}}, "data.train"),
        *(({"splits": altered(index, another)}, "data.test") for index in range(5)),
    ],
)
def test_a_run_cannot_go_on_as_another(tmp_path, change, field):
    """One number of one graph or target makes other data."""
    home(tmp_path)
    with pytest.raises(ValueError, match=f"`{field}` is .*choose another `directory`"):
        home(tmp_path, **change)


def test_the_field_the_value_asked_for_and_the_one_there_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"batch_size": 16}}))
    with pytest.raises(ValueError, match=r"`config.batch_size` is 8, but .* holds a run with 16"):
        home(tmp_path)


def test_a_field_younger_than_the_folder_had_its_default_there(tmp_path):
    home(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    del written["config"]["matmul_precision"]
    path.write_text(json.dumps(written))
    home(tmp_path)
    with pytest.raises(ValueError, match=r"`config.matmul_precision` is 'tf32', but"):
        home(tmp_path, replace(CONFIG, matmul_precision="tf32"))


def test_another_number_of_epochs_names_what_the_user_changed(tmp_path):
    halved = replace(CONFIG, decay_start=None)  # decays after half of the epochs
    home(tmp_path, replace(halved, num_epochs=2))
    message = (
        r"`num_epochs` is 4, so that the learning rate decays after epoch 2, but .* holds a run "
        r"of 2 epochs whose rate decays after epoch 1; .* set `decay_start` to 1 to train it for"
    )
    with pytest.raises(ValueError, match=message):
        home(tmp_path, halved)


@pytest.mark.parametrize("text", ['{"config": {"batch', "[1, 2]", '{"config": 3}'])
def test_a_damaged_description_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read .* put the file back"):
        home(tmp_path)


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    Checkpoints(tmp_path / "checkpoints").save(0, {"x": np.zeros(1)})
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        home(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="`directory` must be a folder that can be written"):
        home(tmp_path / "file" / "run")


def test_which_targets_are_missing_is_part_of_what_a_run_is_of(tmp_path):
    home(tmp_path)

    def miss(targets):
        targets[0, 1] = np.nan

    lacking = altered(4, miss)
    with pytest.raises(ValueError, match=r"`data.test` is"):
        home(tmp_path, splits=lacking)
    home(tmp_path / "lacking", splits=lacking)
    home(tmp_path / "lacking", splits=altered(4, miss))


def test_a_folder_of_the_first_release_is_known_again():
    """The hash of complete data is the one that 0.1.0 wrote, bit for bit."""
    found = describe(CONFIG, NETWORK, {"train": SPLITS["train"]})
    assert found["data"] == {"train": "30 graphs, hash 4f5deda0711e617fe8b13e05a1a5a71b"}
