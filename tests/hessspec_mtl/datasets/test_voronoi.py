"""The cache of Voronoi graphs: made once, whatever happens to it."""

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from hessspec_mtl.datasets import voronoi
from hessspec_mtl.datasets.base import LeftOut, MultitaskDataset, Task
from hessspec_mtl.datasets.voronoi import (
    voronoi_directory,
    voronoi_graphs,
    with_voronoi_graphs,
)
from hessspec_mtl.featurize.crystals import Crystal, crystal_from_cell
from hessspec_mtl.featurize.raw_graph import NoGraph, RawGraph


def simple_cubic(a: float) -> Crystal:
    return crystal_from_cell((a, a, a, 90.0, 90.0, 90.0), ["Po"], [[0.0, 0.0, 0.0]])


CRYSTALS = [simple_cubic(3.0 + i / 10) for i in range(5)]
# No reader of files hands this on.
COINCIDING = Crystal(np.eye(3) * 4.0, np.array([29, 29]), np.full((2, 3), 0.5))


def lattice_constants(graphs) -> list[float]:
    return [float(2 * graph.edge_attributes[0, 1]) for graph in graphs]


@pytest.fixture
def no_new_graphs(monkeypatch):
    """Call it, and from then on nothing may be featurised."""

    def refuse(crystals):
        raise AssertionError("featurised again")

    return lambda: monkeypatch.setattr(voronoi, "graphs_or_reasons", refuse)


@pytest.fixture(autouse=True)
def chunks_of_two(cache, monkeypatch):
    monkeypatch.setattr(voronoi, "_CHUNK", 2)


def test_graphs_come_in_the_order_of_the_crystals():
    np.testing.assert_allclose(
        lattice_constants(voronoi_graphs(CRYSTALS, num_workers=1)), [3.0, 3.1, 3.2, 3.3, 3.4]
    )


def test_spawned_processes_give_the_same_graphs_as_this_one():
    together = voronoi_graphs(CRYSTALS, num_workers=2)
    assert lattice_constants(together) == lattice_constants(
        voronoi_graphs(CRYSTALS, directory=voronoi_directory().parent / "other", num_workers=1)
    )


def test_nothing_is_made_twice(no_new_graphs):
    first = voronoi_graphs(CRYSTALS, num_workers=1)
    no_new_graphs()
    again = voronoi_graphs(CRYSTALS[::-1], num_workers=1)[::-1]
    for one, two in zip(first, again, strict=True):
        assert isinstance(one, RawGraph)
        assert isinstance(two, RawGraph)
        for field in ("atomic_numbers", "edge_attributes", "senders", "receivers"):
            np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_copies_of_a_crystal_share_a_graph():
    one, two = voronoi_graphs([CRYSTALS[0], simple_cubic(3.0)], num_workers=1)
    assert one is two


def test_that_a_crystal_has_no_graph_is_remembered(no_new_graphs):
    first = voronoi_graphs([COINCIDING, CRYSTALS[0]], num_workers=1)
    no_new_graphs()
    again = voronoi_graphs([COINCIDING, CRYSTALS[0]], num_workers=1)
    assert isinstance(first[0], NoGraph)
    assert first[0] == again[0]
    assert isinstance(again[1], RawGraph)


def test_an_interruption_loses_at_most_the_chunk_it_was_in(monkeypatch):
    made = []
    real = voronoi.graphs_or_reasons

    def interrupted(crystals):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.extend(crystals)
        return real(crystals)

    monkeypatch.setattr(voronoi, "graphs_or_reasons", interrupted)
    with pytest.raises(KeyboardInterrupt):
        voronoi_graphs(CRYSTALS, num_workers=1)
    made.clear()
    assert len(voronoi_graphs(CRYSTALS, num_workers=1)) == 5
    assert made == [CRYSTALS[4]]


@pytest.mark.parametrize("damage", ["truncated", "altered", "emptied", "not ours"])
def test_a_damaged_file_is_named_and_made_again(damage, caplog):
    expected = lattice_constants(voronoi_graphs(CRYSTALS, num_workers=1))
    path = min(voronoi_directory().glob("*.npz"))
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "truncated": content[:-100],
            "altered": content[: middle - 20] + bytes(40) + content[middle + 20 :],
            "emptied": b"",
            "not ours": b"PK and nothing else",
        }[damage]
    )
    assert lattice_constants(voronoi_graphs(CRYSTALS, num_workers=1)) == expected
    assert f"damaged cache file {path} is made again" in caplog.text
    caplog.clear()
    voronoi_graphs(CRYSTALS, num_workers=1)
    assert caplog.text == ""


def test_another_version_of_pymatgen_starts_afresh(monkeypatch):
    folder = voronoi_directory()
    monkeypatch.setattr(voronoi, "version", lambda package: "1.2.3")
    assert voronoi_directory() != folder
    assert voronoi_directory().name.endswith("pymatgen-1.2.3")


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    graphs = voronoi_graphs(CRYSTALS[:1], directory=tmp_path / "file" / "cache", num_workers=1)
    assert isinstance(graphs[0], RawGraph)
    assert "set HESSSPEC_CACHE to one that is" in caplog.text


def test_a_dead_worker_is_explained(monkeypatch):
    class DyingPool(ThreadPoolExecutor):
        def __init__(self, workers, mp_context):
            super().__init__(workers)

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool("a child process terminated abruptly"))
            return future

    monkeypatch.setattr(voronoi, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(RuntimeError, match=r"a worker process died .* `num_workers=1`"):
        voronoi_graphs(CRYSTALS, num_workers=2)


def test_crystals_without_a_graph_move_to_left_out():
    dataset = MultitaskDataset(
        name="three",
        domain="crystals",
        ids=("a", "b", "c"),
        structures=(CRYSTALS[0], COINCIDING, CRYSTALS[1]),
        graphs=(),
        targets=np.array([[1.0], [2.0], [3.0]]),
        tasks=(Task("t", "t", "1"),),
        groups=np.arange(3),
        elements=(84,),
        left_out=(LeftOut("z", "earlier"),),
    )
    whole = with_voronoi_graphs(dataset, num_workers=1)
    assert whole.ids == ("a", "c")
    assert whole.targets.tolist() == [[1.0], [3.0]]
    assert len(whole.graphs) == 2
    assert [(record.id, record.reason) for record in whole.left_out] == [
        ("z", "earlier"),
        ("b", "no Voronoi graph"),
    ]
