"""The command that makes the shipped files, and what it keeps and leaves out."""

import numpy as np
import pytest

pytest.importorskip("pyscf", reason="computing data needs PySCF (extra `generate`)")
pytest.importorskip("tblite", reason="computing data needs tblite (extra `generate`)")
pytest.importorskip("ase", reason="computing data needs ASE (extra `generate`)")

from hessspec_mtl.datasets.computed import EMBEDDED, read_embedded
from hessspec_mtl.datasets.generate.__main__ import main
from hessspec_mtl.datasets.generate.crystals import copies
from hessspec_mtl.datasets.generate.molecules import verdict
from hessspec_mtl.datasets.generate.release import accounting, write_release
from hessspec_mtl.datasets.generate.statistics import (
    absolute_error_over_median,
    data_card_tables,
    held_out_predictions,
    r_squared,
)


def test_the_command_gives_the_same_bytes_for_any_number_of_processes(tmp_path, capfd):
    files = []
    for processes in ("1", "2"):
        out = tmp_path / processes
        arguments = ["--out", str(out), "--processes", processes, "--num-molecules", "4"]
        assert main(["molecules", *arguments]) == 0
        files.append(out / "molecules.jsonl.gz")
    assert files[0].read_bytes() == files[1].read_bytes()
    file = read_embedded(files[0])
    assert [entry["id"] for entry in file.entries] == ["N", "O"]
    # Methane's first excitations are threefold, hydrogen fluoride's twofold degenerate.
    assert [name for name, _ in file.metadata["left_out"]] == ["C", "F"]
    assert "--num-molecules 4 --seed 0" in file.metadata["command"]
    assert "100%" in capfd.readouterr().err


def test_results_are_kept_or_left_out_for_a_stated_reason():
    assert verdict({"energies": [0.2, 0.3], "strengths": [0.0, 0.1]}) == ""
    assert verdict({"failed": "no conformer"}) == "no conformer"
    assert "below 0.05 hartree" in verdict({"energies": [0.04, 0.3]})
    assert "within 0.0002 hartree" in verdict({"energies": [0.3, 0.3001]})


def test_the_same_crystal_in_another_cell_is_a_copy():
    edge = 3.9
    primitive = edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    entries = {
        "L1_0": {
            "lattice": np.diag([edge / 2**0.5, edge / 2**0.5, edge]).tolist(),
            "atomic_numbers": [29, 79],
            "fractional": [[0, 0, 0], [0.5, 0.5, 0.5]],
        },
        "fcc copper": {
            "lattice": primitive.tolist(),
            "atomic_numbers": [29],
            "fractional": [[0, 0, 0]],
        },
        "L1_0, four atoms": {
            "lattice": np.diag([edge, edge, edge]).tolist(),
            "atomic_numbers": [29, 29, 79, 79],
            "fractional": [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        },
    }
    assert copies(entries) == {"L1_0, four atoms": "L1_0"}


def test_equal_content_gives_equal_bytes(tmp_path):
    content = {"counts": {"kept": 1}}, [{"id": "a", "value": 0.1}]
    first = write_release(tmp_path / "first.gz", *content).read_bytes()
    assert first == write_release(tmp_path / "second.gz", *content).read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_release(tmp_path / "third.gz", {}, [{"value": float("nan")}])


def test_every_structure_tried_is_accounted_for():
    counts = accounting(9, 3, [("a", "failed"), ("b", "failed")], 1)
    assert counts == {"enumerated": 9, "tried": 3, "left_out": {"failed": 2}, "kept": 1}
    with pytest.raises(AssertionError, match="3 tried, but 2 kept and 0 left out"):
        accounting(9, 3, [], 2)


def test_a_target_that_is_linear_in_composition_is_predicted_exactly():
    generator = np.random.default_rng(0)
    features = generator.random((50, 4))
    targets = features @ generator.random((4, 2))
    predictions = held_out_predictions(features, targets)
    np.testing.assert_allclose(predictions, targets, atol=1e-12)
    np.testing.assert_allclose(r_squared(predictions, targets), 1.0)
    constant = np.broadcast_to(np.median(targets, axis=0), targets.shape)
    np.testing.assert_allclose(absolute_error_over_median(constant, targets), 1.0)


def test_the_data_card_prints_the_tables_of_the_files():
    """Row by row: the card says what is in the files now."""
    card = EMBEDDED.joinpath("README.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in data_card_tables().splitlines() if line.startswith("|")]
    assert len(rows) > 30
    assert [row for row in rows if row not in card] == []


def test_the_tables_of_the_data_card_stand_beside_the_papers_numbers():
    tables = data_card_tables()
    assert tables.count("| mean | paper |") == 2
    assert "0.2201" in tables  # mean of E1 in the paper's Table 3
    assert "3.5507" in tables  # mean of log G in its Table 2
