"""Elastic data of crystals, from each of its sources."""

import gzip
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from hessspec_mtl.datasets import materials_project, sources
from hessspec_mtl.datasets.base import MultitaskDataset, count_reasons
from hessspec_mtl.datasets.elastic_records import poisson_ratio_of, read_matbench
from hessspec_mtl.datasets.materials_project import load_materials_project
from hessspec_mtl.datasets.sources import MATBENCH_G, MATBENCH_K, MP_ELASTIC, DataError


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A simple cubic metal with invented moduli, in the form of the 2020 file."""
    a = 3.0 + number / 10
    return {
        "material_id": f"x-{number}",
        "snapshot": "2020-07",
        "K_VRH": 100 + number,
        "G_VRH": 40,
        "poisson_ratio": 0.31,
        "cell": [a, a, a, 90.0, 90.0, 90.0],
        "species": ["Po"],
        "frac": [[0.0, 0.0, 0.0]],
        **changes,
    }


def write_lines(folder: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows as a file that passes for the 2020 one."""
    path = folder / MP_ELASTIC.file_name
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    pass_for(path, "MP_ELASTIC", MP_ELASTIC, monkeypatch)
    return path


def pass_for(
    path: Path, name: str, source: sources.Source, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(materials_project, name, replace(source, sha256=digest, **changes))


def structure(number: int) -> dict[str, Any]:
    return Structure(Lattice.cubic(3.0 + number / 10), ["Po"], [[0.0, 0.0, 0.0]]).as_dict()


def write_matbench(
    folder: Path, moduli: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> None:
    """Tables of (K, G) that pass for matbench's."""
    for place, (name, column, source) in enumerate(
        [
            ("MATBENCH_K", "log10(K_VRH)", MATBENCH_K),
            ("MATBENCH_G", "log10(G_VRH)", MATBENCH_G),
        ]
    ):
        table = {
            "index": list(range(len(moduli))),
            "columns": ["structure", column],
            "data": [[structure(i), math.log10(pair[place])] for i, pair in enumerate(moduli)],
        }
        path = folder / source.file_name
        path.write_bytes(gzip.compress(json.dumps(table).encode()))
        pass_for(path, name, source, monkeypatch, **changes)


@pytest.fixture(autouse=True)
def own_cache(cache):
    """No test sees the files of another, or of the user."""


def test_targets_are_natural_logarithms_of_moduli_and_the_poisson_ratio(tmp_path, monkeypatch):
    write_lines(tmp_path, [row(1), row(2)], monkeypatch)
    dataset = load_materials_project(tmp_path, num_workers=1)
    assert dataset.published == "Materials Project"
    assert [(task.name, task.unit) for task in dataset.tasks] == [
        ("log_G", "log GPa"),
        ("log_K", "log GPa"),
        ("poisson", "1"),
    ]
    np.testing.assert_allclose(dataset.targets[0], [math.log(40), math.log(101), 0.31])
    assert [graph.num_edges for graph in dataset.graphs] == [6, 6]
    assert dataset.elements == tuple(range(1, 113))


def test_the_ranges_of_the_paper_are_inclusive_and_what_is_outside_is_counted(
    tmp_path, monkeypatch
):
    rows = [
        row(1, K_VRH=14, G_VRH=1, poisson_ratio=0.5),
        row(2, K_VRH=233, G_VRH=124, poisson_ratio=0.18),
        row(3, K_VRH=13),
        row(4, K_VRH=234),
        row(5, G_VRH=0),
        row(6, poisson_ratio=0.51),
        row(7, snapshot="2019"),
    ]
    write_lines(tmp_path, rows, monkeypatch)
    dataset = load_materials_project(tmp_path, graphs=False)
    assert dataset.ids == ("x-1", "x-2")
    assert count_reasons(dataset.left_out) == {
        "K_VRH outside 14 to 233 GPa": 2,
        "not in the database of 2020-07": 1,
        "G_VRH outside 1 to 124 GPa": 1,
        "Poisson ratio outside 0.18 to 0.5": 1,
    }
    (first, *_) = [record for record in dataset.left_out if record.id == "x-3"]
    assert first.detail == "K_VRH = 13 GPa"


def test_records_of_no_use_are_left_out_each_with_its_reason(tmp_path, monkeypatch):
    sites = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    rows = [
        row(1),
        row(2, K_VRH=None),
        row(3, G_VRH="forty"),
        row(4, species=["Xx"]),
        row(5, cell=[1.0, 2.0]),
        row(1, K_VRH=50),
        row(6, species=["Cu", "Cu"], frac=sites),
    ]
    write_lines(tmp_path, rows, monkeypatch)
    dataset = load_materials_project(tmp_path, num_workers=1)
    assert dataset.ids == ("x-1",)
    assert [(record.id, record.reason) for record in dataset.left_out] == [
        ("x-2", "missing target"),
        ("x-3", "non-numeric target"),
        ("x-4", "unreadable structure"),
        ("x-5", "unreadable structure"),
        ("x-1", "duplicate id"),
        ("x-6", "unreadable structure"),
    ]
    assert "K_VRH is missing" in dataset.left_out[0].detail
    assert "G_VRH is 'forty'" in dataset.left_out[1].detail


def test_a_file_without_any_crystal_of_use_says_why(tmp_path, monkeypatch):
    write_lines(tmp_path, [row(1, K_VRH=None), row(2, species=["Xx"])], monkeypatch)
    with pytest.raises(DataError, match=r"no crystal of mp_.*'missing target': 1, 'unreadable str"):
        load_materials_project(tmp_path)


def test_a_part_is_the_subset_of_the_whole_and_only_its_graphs_are_made(tmp_path, monkeypatch):
    write_lines(tmp_path, [row(i) for i in range(1, 9)], monkeypatch)
    part = load_materials_project(tmp_path, num_examples=3, seed=2, num_workers=1)
    whole = load_materials_project(tmp_path, graphs=False)
    assert part.ids == whole.subset(3, seed=2).ids
    assert len(part.graphs) == 3
    assert whole.graphs == ()


def test_an_altered_file_is_named(tmp_path, monkeypatch):
    path = write_lines(tmp_path, [row(1)], monkeypatch)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"jsonl.gz is truncated or altered: its SHA-256 is"):
        load_materials_project(tmp_path)


def test_a_broken_line_is_named(tmp_path, monkeypatch):
    """Even where the hash is right: the answer of the API, which has none, is read the same way."""
    path = tmp_path / MP_ELASTIC.file_name
    path.write_bytes(gzip.compress(json.dumps(row(1)).encode() + b"\n{not json}\n"))
    pass_for(path, "MP_ELASTIC", MP_ELASTIC, monkeypatch)
    with pytest.raises(DataError, match=r"jsonl.gz, after line 1: .* replace it by a fresh copy"):
        load_materials_project(tmp_path)


def test_matbench_gives_moduli_and_a_computed_poisson_ratio(tmp_path, monkeypatch):
    write_matbench(
        tmp_path, [(100.0, 40.0), (14.0, 1.0), (233.0, 124.0), (300.0, 40.0)], monkeypatch
    )
    dataset = load_materials_project(tmp_path, num_workers=1)
    # The ends of the ranges stay within them on the way through log10 and back.
    assert dataset.ids == ("matbench-00001", "matbench-00002", "matbench-00003")
    np.testing.assert_allclose(
        dataset.targets,
        [
            [math.log(40), math.log(100), (300 - 80) / (600 + 80)],
            [math.log(1), math.log(14), (42 - 2) / (84 + 2)],
            [math.log(124), math.log(233), (699 - 248) / (1398 + 248)],
        ],
        atol=1e-12,
    )
    assert [record.detail for record in dataset.left_out] == ["K_VRH = 300 GPa"]
    assert [source.name for source in dataset.sources] == [
        "matbench v0.1 log_gvrh",
        "matbench v0.1 log_kvrh",
    ]


def test_matbench_is_downloaded_if_nothing_is_at_hand(tmp_path, monkeypatch, server):
    write_matbench(tmp_path, [(100.0, 40.0)], monkeypatch)
    for name in ("MATBENCH_G", "MATBENCH_K"):
        source = getattr(materials_project, name)
        server.send(f"/{source.file_name}", (tmp_path / source.file_name).read_bytes())
        monkeypatch.setattr(
            materials_project, name, replace(source, url=server.url(f"/{source.file_name}"))
        )
    assert len(load_materials_project(graphs=False)) == 1
    assert len(load_materials_project(graphs=False)) == 1
    assert len(server.requests) == 2


def test_without_files_and_without_download_the_error_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no `mp_elastic_.* allow the download\. With an account"):
        load_materials_project(tmp_path, download=False)


def test_two_tables_of_matbench_must_hold_the_same_crystals(tmp_path, monkeypatch):
    write_matbench(tmp_path, [(100.0, 40.0), (90.0, 30.0)], monkeypatch)
    shear, bulk = (tmp_path / source.file_name for source in (MATBENCH_G, MATBENCH_K))
    table = json.loads(gzip.decompress(bulk.read_bytes()))
    table["data"][1][0] = structure(7)
    bulk.write_bytes(gzip.compress(json.dumps(table).encode()))
    with pytest.raises(DataError, match=r"row 2 of .* hold different structures"):
        read_matbench(shear, bulk)
    del table["data"][1]
    bulk.write_bytes(gzip.compress(json.dumps(table).encode()))
    with pytest.raises(DataError, match=r"has 2 rows and .* has 1"):
        read_matbench(shear, bulk)


@pytest.mark.parametrize("content", [b"{}", b"[1, 2]", b'{"columns": ["structure"], "data": []}'])
def test_a_table_of_another_form_is_named(tmp_path, content):
    path = tmp_path / "table.json.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"is not a matbench table with the columns 'structure'"):
        read_matbench(path, path)
    path.write_bytes(gzip.compress(content)[:-3])
    with pytest.raises(DataError, match=r"is not a matbench table"):
        read_matbench(path, path)


def test_the_poisson_ratio_of_an_incompressible_solid_is_a_half():
    assert poisson_ratio_of(10.0, 0.0) == 0.5
    assert poisson_ratio_of(1.0, 1.5) == 0.0


@pytest.fixture(scope="module")
def whole(real_data) -> MultitaskDataset:
    return load_materials_project(real_data, graphs=False)


def test_table_2_reads_as_its_source_says(whole):
    """Not the paper's crystals, but its ranges: minima and maxima are those that it prints."""
    targets = whole.targets
    assert len(whole) == 9_983
    np.testing.assert_array_equal(targets.mean(axis=0).round(4), [3.5396, 4.3748, 0.3009])
    np.testing.assert_array_equal(targets.std(axis=0, ddof=1).round(4), [0.7314, 0.6743, 0.0591])
    np.testing.assert_allclose(targets.min(axis=0), [0.0, 2.63905733, 0.18], atol=1e-8)
    np.testing.assert_allclose(targets.max(axis=0)[:2], [4.82028157, 5.45103845], atol=1e-8)


def test_real_crystals_have_the_feature_counts_of_table_1(real_data):
    dataset = load_materials_project(real_data, num_examples=8, num_workers=1)
    encoded = dataset.encode(dataset.split(seed=0))
    assert (encoded.node_features, encoded.edge_features) == (112, 40)
    assert len(encoded.train) + len(encoded.test) == 8


def test_poisson_ratios_of_the_database_follow_from_its_moduli(whole):
    """The two-decimal value is that of the unrounded moduli, so integers reproduce it roughly."""
    log_shear, log_bulk, poisson = whole.targets.T
    computed = poisson_ratio_of(np.exp(log_bulk), np.exp(log_shear))  # type: ignore[arg-type]
    stiff = np.exp(log_shear) >= 20
    assert np.mean(np.abs(computed - poisson)[stiff] < 0.02) > 0.99
