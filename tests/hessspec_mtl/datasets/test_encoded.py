"""An encoded data set is the data set: to the last bit, in one checked file without chemistry."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hessspec._base.records import load_record, save_record
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset, Task
from hessspec_mtl.datasets.computed import load_crystals, load_molecules
from hessspec_mtl.datasets.encoded import read_encoded, write_encoded
from hessspec_mtl.datasets.grouping import one_to_the_network, with_whole_groups
from hessspec_mtl.datasets.sources import DataError, Source
from hessspec_mtl.featurize.crystals import Crystal
from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.graphs import MultiGraph

FIELDS = ("nodes", "edges", "senders", "receivers")


def assert_equal_bits(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


def assert_same_graphs(one: tuple[MultiGraph, ...], other: tuple[MultiGraph, ...]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in FIELDS:
            assert_equal_bits(getattr(a, name), getattr(b, name))


def assert_same_encoding(source: MultitaskDataset, read: MultitaskDataset, seed: int = 0) -> None:
    """Splits, features and standardised targets of both sides."""
    split = source.split(seed)
    np.testing.assert_array_equal(read.split(seed).test, split.test)
    ours, theirs = read.encode(read.split(seed)), source.encode(split)
    assert_equal_bits(ours.standardisation.mean, theirs.standardisation.mean)
    for side in ("train", "test"):
        a, b = getattr(ours, side), getattr(theirs, side)
        assert a.ids == b.ids
        assert_equal_bits(a.targets, b.targets)
        assert_same_graphs(a.graphs, b.graphs)


@pytest.fixture(scope="module", params=["molecules", "crystals"])
def both(request, tmp_path_factory) -> tuple[MultitaskDataset, MultitaskDataset]:
    """An embedded set from its source, and as it comes back from its encoded file."""
    if request.param == "molecules":
        source = load_molecules(progress=False)
    else:
        source = load_crystals(num_examples=24, progress=False, num_workers=1)
    path = tmp_path_factory.mktemp("encoded") / "folder" / "set.npz"
    return source, read_encoded(write_encoded(source, path))


def test_the_data_set_comes_back_as_it_was(both):
    source, read = both
    for name in (
        *("name", "domain", "ids", "tasks", "elements", "left_out", "sources", "published"),
    ):
        assert getattr(read, name) == getattr(source, name), name
    assert_equal_bits(read.targets, source.targets)
    np.testing.assert_array_equal(read.groups, source.groups)
    for a, b in zip(read.graphs, source.graphs, strict=True):
        for name in ("atomic_numbers", "edge_attributes", "senders", "receivers"):
            assert_equal_bits(getattr(a, name), getattr(b, name))


def test_splits_features_and_targets_are_the_same_bits(both):
    assert_same_encoding(*both)


def test_so_are_those_of_a_subset_with_groups_kept_whole(both):
    source, read = (with_whole_groups(dataset.subset(20, 3)) for dataset in both)
    np.testing.assert_array_equal(read.groups, source.groups)
    assert_same_encoding(source, read, seed=5)


def chain(shift: float) -> Crystal:
    """Simple cubic polonium, an angstrom fraction larger."""
    return Crystal((3.0 + shift) * np.eye(3), np.array([84]), np.zeros((1, 3)))


def three_crystals() -> MultitaskDataset:
    """The first is one with the second and the second with the third, the ends are not."""
    edge = np.array([0, 0])
    graph = RawGraph(np.array([84]), np.array([[1.0, 0.5, 2.0, 0.1]] * 2), edge, edge)
    return MultitaskDataset(
        name="three",
        domain="crystals",
        ids=("a", "b", "c"),
        structures=(chain(0.0), chain(0.008), chain(0.016)),
        graphs=(graph,) * 3,
        targets=np.array([[1.0, np.nan], [2.0, 1.0], [np.nan, 3.0]]),
        tasks=(Task("t", "t", "1"), Task("NA", "$u$", "eV")),
        groups=np.arange(3),
        elements=(84,),
        left_out=(LeftOut("z", "no good", "«ü», 3"),),
        sources=(Source("s", "f", None, "00", "none", "me"),),
    )


def test_crystals_that_a_third_connects_part_when_it_is_not_chosen(tmp_path):
    """What is kept are the pairs, so that a subset is grouped as if it had been read alone."""
    source = three_crystals()
    read = read_encoded(write_encoded(source, tmp_path / "three.npz"))
    assert read.twins.tolist() == [[0, 1], [1, 2]]
    for chosen, groups in (([0, 1, 2], [0, 0, 0]), ([0, 2], [0, 1]), ([2, 1], [0, 0])):
        for dataset in (source, read):
            found = one_to_the_network(dataset.take(np.array(chosen)))
            assert found.tolist() == groups


def test_missing_targets_stay_missing_and_a_file_is_written_from_what_was_read(tmp_path):
    source = three_crystals()
    first = write_encoded(source, tmp_path / "first.npz")
    read = read_encoded(first)
    assert_equal_bits(read.targets, source.targets)
    assert not read.complete
    second = write_encoded(read, tmp_path / "second.npz")
    assert second.read_bytes() == first.read_bytes()


def test_equal_faces_are_kept_once(tmp_path):
    write_encoded(three_crystals(), tmp_path / "three.npz")
    arrays, _ = load_record(tmp_path / "three.npz", "MultitaskDataset")
    assert arrays["faces"].shape == (3, 4)
    assert arrays["edge_kinds"].tolist() == [0] * 6


def test_a_data_set_without_graphs_is_not_encoded(tmp_path):
    with pytest.raises(ValueError, match="loaded with `graphs=False` and cannot be encoded"):
        write_encoded(replace(three_crystals(), graphs=()), tmp_path / "three.npz")
    assert not list(tmp_path.iterdir())


def altered(path, **changes) -> None:
    arrays, meta = load_record(path, "MultitaskDataset")
    for name, value in changes.items():
        if name in meta:
            meta[name] = value
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    save_record(path, "MultitaskDataset", arrays, json.loads(json.dumps(meta)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": None}, r"the array `faces` must be there"),
        ({"senders": np.zeros(6)}, r"`senders` must hold whole numbers along 1 axes, got float64"),
        ({"senders": np.zeros(5, int)}, r"`senders` must have 6 entries, one for each edge, got 5"),
        (
            {"receivers": np.array([0, 0, 1, 0, 0, 0])},
            r"`receivers` must lie in \[0, 1\) at \(2,\), got 1",
        ),
        ({"edge_kinds": np.full(6, 3)}, r"`edge_kinds` must lie in \[0, 1\) at \(0,\), got 3"),
        (
            {"num_edges": np.array([8, -2, 0])},
            "`num_edges` must hold counts, none negative, got -2",
        ),
        ({"domain": "proteins"}, "must hold molecules or crystals, got 'proteins'"),
        ({"twins": np.array([[0, 3]])}, r"`twins` must lie in \[0, 3\) at \(0, 1\), got 3"),
        ({"targets": np.zeros((3, 1))}, "`targets` must have 2 columns, one a task, got 1"),
        ({"faces": np.full((3, 4), np.nan)}, "`faces` must be finite"),
        ({"atomic_numbers": np.array([84, 84, 9])}, r"`atomic_numbers` must be among \[84\], got"),
        ({"targets": np.full((3, 2), np.inf)}, "holds what no data set can: `targets` must be"),
        ({"ids": ["a", "a", "b"]}, "holds what no data set can: `ids` must be unique"),
        ({"tasks": [{"name": "t"}]}, "lacks a part of its description"),
        ({"encoded_version": 99}, "holds a data set of version 99, this hessspec reads 1"),
    ],
)
def test_what_cannot_be_is_refused_by_file_and_array(tmp_path, changes, message):
    path = write_encoded(three_crystals(), tmp_path / "three.npz")
    altered(path, **changes)
    with pytest.raises(DataError, match=message) as refused:
        read_encoded(path)
    assert str(path) in str(refused.value)


def test_a_file_cut_short_or_missing_or_of_another_kind_is_named(tmp_path):
    path = write_encoded(three_crystals(), tmp_path / "three.npz")
    with pytest.raises(DataError, match=r"there is no encoded data set .*none.npz.*encode"):
        read_encoded(tmp_path / "none.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"three.npz cannot be read.*encode the data set again"):
        read_encoded(path)
    header = np.frombuffer(b"[]", np.uint8)
    with path.open("wb") as stream:
        np.savez(stream, **{"hessspec.json": header})
    with pytest.raises(DataError, match=r"three.npz cannot be read.*its header is not one"):
        read_encoded(path)
    save_record(path, "TraceEstimate", {})
    with pytest.raises(DataError, match="holds a TraceEstimate"):
        read_encoded(path)
