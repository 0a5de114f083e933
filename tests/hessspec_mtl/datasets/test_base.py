"""Splits, subsets, standardisation and deciles: what is fitted sees the training side only."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.datasets.base import (
    MultitaskDataset,
    Split,
    Task,
    fit_standardisation,
    group_split,
    over_examples,
    subset_indices,
)
from hessspec_mtl.featurize.raw_graph import RawGraph

TASKS = (Task("a", "a", "eV"), Task("b", "b", "1"))


def ring(size: int, attributes: np.ndarray) -> RawGraph:
    """A ring of `size` carbon atoms with the given attributes on its 2 `size` directed edges."""
    here = np.arange(size)
    there = (here + 1) % size
    return RawGraph(
        atomic_numbers=np.full(size, 6),
        edge_attributes=attributes,
        senders=np.concatenate([here, there]),
        receivers=np.concatenate([there, here]),
    )


def crystals(num: int, seed: int = 0) -> MultitaskDataset:
    """Rings whose edges carry four random numbers, and two random targets."""
    rng = np.random.default_rng(seed)
    return MultitaskDataset(
        name="rings",
        domain="crystals",
        ids=tuple(f"ring-{i}" for i in range(num)),
        structures=tuple(range(num)),
        graphs=tuple(ring(3, rng.lognormal(size=(6, 4))) for _ in range(num)),
        targets=rng.normal(5.0, 2.0, size=(num, 2)),
        tasks=TASKS,
        groups=np.arange(num),
        elements=(1, 6, 8),
    )


def lacking(num: int, first: int, second: int) -> np.ndarray:
    """Targets of which "a" is known of the first so many examples, "b" of the last so many."""
    targets = crystals(num).targets.copy()
    targets[first:, 0] = np.nan
    targets[: num - second, 1] = np.nan
    return targets


def test_a_split_has_the_size_asked_for_and_covers_every_example_once():
    split = crystals(57).split(seed=3)
    assert split.test.size == round(0.3 * 57)
    np.testing.assert_array_equal(np.sort(np.r_[split.train, split.test]), np.arange(57))


def test_a_split_never_separates_a_group():
    groups = np.random.default_rng(0).integers(0, 30, size=100)
    for seed in range(20):
        split = group_split(groups, seed)
        assert not set(groups[split.train]) & set(groups[split.test])
        assert 30 <= split.test.size < 30 + np.bincount(groups).max()


def test_the_seed_decides_the_split():
    groups = np.arange(100)
    first, again, other = (group_split(groups, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_a_split_with_an_empty_side_is_refused():
    with pytest.raises(ValueError, match="`test_fraction` must leave examples on both sides"):
        group_split(np.zeros(10, np.int64), seed=0)


def test_a_larger_subset_contains_a_smaller_one_of_the_same_seed():
    small, large = subset_indices(100, 10, seed=7), subset_indices(100, 40, seed=7)
    assert set(small) <= set(large)
    assert (np.diff(large) > 0).all()


def test_a_subset_beyond_the_data_set_is_refused():
    with pytest.raises(
        ValueError, match=r"`n` \(--num-examples\), the size of a subset, must lie in \[1, 5\]"
    ):
        crystals(5).subset(6, seed=0)


def test_take_moves_every_field_together():
    dataset = crystals(6)
    taken = dataset.take(np.array([4, 1]))
    assert taken.ids == ("ring-4", "ring-1")
    assert taken.structures == (4, 1)
    assert taken.graphs == (dataset.graphs[4], dataset.graphs[1])
    np.testing.assert_array_equal(taken.targets, dataset.targets[[4, 1]])
    np.testing.assert_array_equal(taken.groups, [4, 1])


def test_training_targets_have_mean_zero_and_sample_deviation_one():
    encoded = crystals(40).encode(crystals(40).split(seed=0))
    np.testing.assert_allclose(encoded.train.targets.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(encoded.train.targets.std(axis=0, ddof=1), 1.0, rtol=1e-6)


def test_standardised_targets_have_mean_0_and_sample_deviation_1():
    """With n - 1 degrees of freedom, as the paper's table of targets has them."""
    targets = np.array([[1.0, -5.0], [2.0, 0.0], [6.0, 50.0]])
    standard = fit_standardisation(targets, TASKS[:2]).apply(targets)
    np.testing.assert_allclose(standard.mean(axis=0), 0.0, atol=1e-15)
    np.testing.assert_allclose((standard**2).sum(axis=0), len(targets) - 1, rtol=1e-14)


def test_standardisation_undoes_itself():
    targets = crystals(10).targets
    standardisation = fit_standardisation(targets, TASKS)
    np.testing.assert_allclose(
        standardisation.undo(standardisation.apply(targets)), targets, rtol=1e-14
    )


def test_nothing_that_is_fitted_depends_on_the_test_side():
    """Changing every test graph and target beyond recognition moves no training feature."""
    dataset = crystals(20)
    split = dataset.split(seed=0)
    other = crystals(20, seed=1)
    graphs, targets = list(dataset.graphs), dataset.targets.copy()
    for i in split.test:
        graphs[i] = other.graphs[i]
        targets[i] = 1e6
    changed = MultitaskDataset(
        **{**dataset.__dict__, "graphs": tuple(graphs), "targets": targets}
    ).encode(split)
    expected = dataset.encode(split)
    np.testing.assert_array_equal(changed.encoder.boundaries, expected.encoder.boundaries)
    np.testing.assert_array_equal(changed.train.targets, expected.train.targets)
    for one, two in zip(changed.train.graphs, expected.train.graphs, strict=True):
        np.testing.assert_array_equal(one.edges, two.edges)


def test_feature_counts_are_elements_and_forty_deciles():
    encoded = crystals(20).encode(crystals(20).split(seed=0))
    assert (encoded.node_features, encoded.edge_features) == (3, 40)
    graph = encoded.test.graphs[0]
    assert graph.nodes.shape == (3, 3)
    assert graph.edges.shape == (6, 40)
    np.testing.assert_array_equal(graph.nodes, [[0, 1, 0]] * 3)
    np.testing.assert_array_equal(graph.edges.reshape(6, 4, 10).sum(axis=2), 1.0)


def test_a_constant_task_is_named():
    dataset = crystals(10)
    dataset.targets[:, 1] = 4.0
    with pytest.raises(ValueError, match=r"`targets` of \['b'\] are constant on the training"):
        dataset.encode(dataset.split(seed=0))


def test_one_training_example_cannot_be_standardised():
    with pytest.raises(ValueError, match="at least 2 training examples"):
        crystals(5).encode(Split(train=np.array([0]), test=np.array([1, 2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("x",) * 4}, r"`ids` must be unique, got \['x'\]"),
        ({"ids": ("x",)}, "must have one length"),
        ({"tasks": TASKS[:1]}, "`targets` must have one column for each of 1 tasks, got 2"),
        ({"targets": np.full((4, 2), np.nan)}, "got nan for 'ring-0', task 'a'"),
        ({"targets": np.full((4, 2), np.inf)}, "got inf for 'ring-0', task 'a'"),
        ({"targets": lacking(4, 3, 2), "published": "QM8"}, "got nan for 'ring-0', task 'b'"),
    ],
)
def test_a_data_set_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MultitaskDataset(**{**crystals(4).__dict__, **change})


def test_a_data_set_without_graphs_can_be_split_but_not_encoded():
    bare = MultitaskDataset(**{**crystals(10).__dict__, "graphs": ()})
    assert len(bare.subset(5, seed=0)) == 5
    with pytest.raises(ValueError, match="loaded with `graphs=False`"):
        bare.encode(bare.split(seed=0))


def test_missing_targets_are_left_out_of_mean_and_deviation():
    targets = lacking(20, 15, 12)
    found = fit_standardisation(targets, TASKS)
    np.testing.assert_allclose(found.mean, [targets[:15, 0].mean(), targets[8:, 1].mean()])
    np.testing.assert_allclose(found.std, [targets[:15, 0].std(ddof=1), targets[8:, 1].std(ddof=1)])
    np.testing.assert_array_equal(np.isnan(found.apply(targets)), np.isnan(targets))


def test_statistics_over_a_complete_table_are_numpys_to_the_last_bit():
    """What the paper's tables were made with: all columns in one sum."""
    targets = np.random.default_rng(0).normal(5, 2, size=(1000, 4))
    np.testing.assert_array_equal(over_examples(np.mean, targets), targets.mean(axis=0))
    found = fit_standardisation(targets, (*TASKS, Task("c", "c", ""), Task("d", "d", "")))
    np.testing.assert_array_equal(found.std, targets.std(axis=0, ddof=1))


def test_a_data_set_counts_the_examples_of_each_task():
    dataset = replace(crystals(10), targets=lacking(10, 7, 8))
    assert not dataset.complete
    assert dataset.counts().tolist() == [7, 8]
    assert dataset.counts(np.array([0, 8, 9])).tolist() == [1, 2]
    assert crystals(10).complete


def test_a_task_without_test_examples_is_named_with_what_to_do():
    dataset = replace(crystals(10), targets=lacking(10, 10, 3))
    split = Split(train=np.array([2, 3, 4, 5, 6, 7, 8, 9]), test=np.array([0, 1]))
    message = (
        r"`targets` of \['b'\] are known of \[3\] training examples and of no test example; "
        r"leave .* hold out others \(--test-fraction\)"
    )
    with pytest.raises(ValueError, match=message):
        dataset.encode(split)
    with pytest.raises(ValueError, match=r"at least 2 training examples .* got {'b': 1}; leave"):
        dataset.encode(Split(train=np.arange(8), test=np.array([8, 9])))


def test_targets_beyond_what_can_be_squared_are_named():
    targets = crystals(10).targets.copy()
    targets[3, 1] = 1e300
    with pytest.raises(ValueError, match=r"`targets` of \['b'\] are too large .* 1e\+300"):
        fit_standardisation(targets, TASKS)


def test_an_outlier_among_the_test_examples_is_named():
    """In standard deviations of the training targets its square is no number in float32."""
    dataset = crystals(10)
    dataset.targets[9, 0] = 1e25
    with pytest.raises(ValueError, match=r"target 'a' of 'ring-9' is 1e\+25, which lies .* from"):
        dataset.encode(Split(train=np.arange(8), test=np.array([8, 9])))
