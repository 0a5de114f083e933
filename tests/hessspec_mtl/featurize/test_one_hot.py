"""One-hot encodings and deciles."""

import numpy as np
import pytest

from hessspec_mtl.featurize.one_hot import (
    decile_boundaries,
    decile_index,
    fit_bond_encoder,
    fit_decile_encoder,
    one_hot,
)
from hessspec_mtl.featurize.raw_graph import RawGraph


def test_one_hot_picks_rows_of_the_identity():
    np.testing.assert_array_equal(one_hot(np.array([2, 0]), 3), np.eye(3)[[2, 0]])


def test_one_hot_of_an_unknown_category_is_refused():
    with pytest.raises(ValueError, match=r"`indices` must lie in \[0, 2\] for 3 categories"):
        one_hot(np.array([3]), 3)


def test_every_decile_holds_a_tenth_of_what_it_was_fitted_on():
    values = np.random.default_rng(0).lognormal(size=(1000, 4))
    index = decile_index(values, decile_boundaries(values))
    for column in index.T:
        np.testing.assert_array_equal(np.bincount(column), np.full(10, 100))


def test_deciles_are_unchanged_by_any_increasing_map():
    # Order statistics at exact ranks map to themselves; 501 values put every decile on one.
    values = np.sort(np.random.default_rng(1).normal(size=(501, 1)), axis=0)
    plain = decile_index(values, decile_boundaries(values))
    mapped = decile_index(np.exp(values), decile_boundaries(np.exp(values)))
    np.testing.assert_array_equal(plain, mapped)


def test_values_beyond_the_fitted_range_fall_into_the_outer_deciles():
    boundaries = decile_boundaries(np.linspace(0.0, 1.0, 101)[:, None])
    outside = np.array([[-5.0], [5.0]])
    np.testing.assert_array_equal(decile_index(outside, boundaries), [[0], [9]])


def test_deciles_of_no_edges_are_refused():
    with pytest.raises(ValueError, match="deciles need at least one edge"):
        decile_boundaries(np.zeros((0, 4)))


def dimer(attributes: np.ndarray, atomic_numbers=(1, 8)) -> RawGraph:
    return RawGraph(np.array(atomic_numbers), attributes, np.array([0, 1]), np.array([1, 0]))


def test_bond_types_become_one_hot_edges():
    graph = fit_bond_encoder((1, 8), 4).encode(dimer(np.array([3, 3])))
    np.testing.assert_array_equal(graph.nodes, np.eye(2))
    np.testing.assert_array_equal(graph.edges, np.eye(4)[[3, 3]])
    np.testing.assert_array_equal(graph.senders, [0, 1])
    np.testing.assert_array_equal(graph.receivers, [1, 0])


def test_each_attribute_has_its_own_block_of_ten_features():
    training = [dimer(np.array([[i, -i], [i, -i]], float)) for i in range(10)]
    encoder = fit_decile_encoder((1, 8), training)
    for i, graph in enumerate(training):
        (first, second), _ = np.argwhere(encoder.encode(graph).edges)[:, 1].reshape(2, 2)
        assert (first, second) == (i, 10 + 9 - i)


def test_an_element_without_a_feature_is_named():
    with pytest.raises(ValueError, match=r"Z = \[8\], which have no node feature"):
        fit_bond_encoder((1, 6), 4).encode(dimer(np.array([0, 0])))
