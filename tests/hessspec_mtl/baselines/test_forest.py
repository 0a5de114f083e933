"""Forests learn what their descriptors say, are kept, and say why there are none."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.baselines import forest
from hessspec_mtl.baselines.descriptors import composition_statistics, fragment_counts
from hessspec_mtl.datasets.base import MultitaskDataset, Split, Task
from hessspec_mtl.featurize.crystals import Crystal

NAMES = tuple("C" * n + tail for n in range(1, 16) for tail in ("O", "N", "F"))


def alcohols(targets: np.ndarray) -> MultitaskDataset:
    return MultitaskDataset(
        name="chains",
        domain="molecules",
        ids=NAMES,
        structures=NAMES,
        graphs=(),
        targets=targets,
        tasks=(Task("length", "length", "1"), Task("noise", "noise", "1")),
        groups=np.arange(len(NAMES)),
        elements=(1, 6, 7, 8, 9),
    )


def targets() -> np.ndarray:
    """The length of the chain, and what no structure tells; one is not known."""
    lengths = np.array([len(name) for name in NAMES], float)
    noise = np.random.default_rng(0).normal(size=len(NAMES))
    found = np.stack([lengths, noise], axis=1)
    found[4, 1] = np.nan
    return found


SPLIT = Split(np.arange(0, 45, 2), np.arange(1, 45, 2))


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    path = tmp_path_factory.mktemp("forest") / "forest.csv"
    return path, forest.forest_errors(alcohols(targets()), SPLIT, path)


def test_a_forest_finds_what_is_in_the_structure_and_nothing_else(grown):
    errors = grown[1].groupby("task")["mae"].mean()
    assert errors["length"] < 0.25
    assert errors["noise"] > 0.6  # of a normal target the median predictor has 0.8
    assert len(grown[1]) == 2 * len(forest.SEEDS)
    examples = grown[1].groupby("task")["examples"].first()
    assert (examples["length"], examples["noise"]) == (23, 22)


def test_errors_are_kept_with_what_they_were_made_from(grown, monkeypatch):
    path, table = grown

    def never(*arguments):
        raise AssertionError("a forest was grown again")

    monkeypatch.setattr(forest, "_one_forest", never)
    again = forest.forest_errors(alcohols(targets()), SPLIT, path)
    np.testing.assert_allclose(again["mae"], table["mae"], rtol=1e-8)
    with pytest.raises(AssertionError, match="grown again"):
        forest.forest_errors(alcohols(targets() + 1.0), SPLIT, path)
    with pytest.raises(AssertionError, match="grown again"):
        forest.forest_errors(alcohols(targets()), Split(SPLIT.test, SPLIT.train), path)


def test_what_is_lacking_is_said_in_a_sentence(tmp_path, monkeypatch):
    dataset = alcohols(targets())
    assert forest.unavailable(dataset) == ""
    bare = replace(dataset, structures=())
    assert "was read as graphs, without the structures" in forest.unavailable(bare)
    with pytest.raises(ValueError, match="There is no random forest beside the network: chains"):
        forest.forest_errors(bare, SPLIT, tmp_path / "f.csv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "scikit-learn is not installed" in forest.unavailable(dataset)


def test_fragments_are_counted_and_written_hydrogens_do_not_matter():
    counts = fragment_counts(["CCCC", "CCC", "[H]C([H])([H])C([H])([H])C([H])([H])[H]"])
    assert (counts[0] != counts[1]).any()
    np.testing.assert_array_equal(counts[1], counts[2])
    assert counts.any(axis=0).all()
    assert counts[0].sum() > counts[1].sum()


def test_a_composition_has_the_statistics_of_its_elements_and_nothing_of_its_positions():
    def crystal(numbers):
        return Crystal(np.eye(3), np.array(numbers), np.zeros((len(numbers), 3)))

    rows = composition_statistics([crystal([11, 17]), crystal([17, 11]), crystal([13] * 4)])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.isfinite(rows).all()
    count = (rows.shape[1] - 3) // 5
    # Atomic numbers of Na and Cl: mean 14, deviation 3, least 11, most 17, range 6.
    np.testing.assert_allclose(rows[0, ::count][:5], [14, 3, 11, 17, 6])
    np.testing.assert_allclose(rows[0, -3:], [0.5, 2, 2])
    np.testing.assert_allclose(rows[2, -3:], [1, 1, 4])
    # A noble gas has no electronegativity.
    assert np.isfinite(composition_statistics([crystal([2])])).all()
