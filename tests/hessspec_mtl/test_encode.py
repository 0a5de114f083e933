"""The command that encodes data sets, and the other command's way to what it wrote."""

import numpy as np
import pytest
import tyro

from hessspec_mtl import encode, reproduce
from hessspec_mtl.datasets.sources import DataError
from hessspec_mtl.study.loading import named


def test_molecules_of_ones_own_are_read_from_their_encoded_file(tmp_path, capsys):
    """By the same words, but the table itself need not be where they are typed then."""
    table = tmp_path / "mine.csv"
    rows = [f"C{'C' * i}{end},{i},{0.5 * i if i else ''}" for i in range(4) for end in "ON"]
    table.write_text("smiles,a,b\n" + "\n".join(rows) + "\nno,1,2\n")
    words = [str(table), "--targets", "a", "b", "--units", "eV", "1"]
    assert encode.main(["molecules", *words, "--to", str(tmp_path), "--no-progress"]) == 0
    assert "mine.npz: 8 examples" in capsys.readouterr().out
    source = tyro.cli(reproduce.OwnMolecules, args=words)
    ((name, load),) = reproduce._sources(source)
    whole, _ = load(None)
    table.unlink()
    encoded = tyro.cli(reproduce.OwnMolecules, args=[*words, "--encoded-dir", str(tmp_path)])
    ((name, load),) = reproduce._sources(encoded)
    assert name == "mine"
    read, part = load(5)
    assert (read.ids, read.tasks, read.left_out) == (whole.ids, whole.tasks, whole.left_out)
    assert len(read.left_out) == 1
    np.testing.assert_array_equal(read.targets, whole.targets)
    assert part.ids == whole.subset(5, 0).ids
    assert reproduce._command(encoded).endswith(
        f"molecules {table} --encoded-dir {tmp_path} --targets a b --units eV 1"
    )
    other = [str(table), "--targets", "a", "--encoded-dir", str(tmp_path)]
    ((_, load),) = reproduce._sources(tyro.cli(reproduce.OwnMolecules, args=other))
    with pytest.raises(DataError, match=r"mine.npz holds the targets a, b, not a; encode"):
        load(None)
    (tmp_path / "mine.npz").rename(tmp_path / "crystals.npz")
    with pytest.raises(DataError, match="must hold the data set crystals, it holds mine"):
        named("crystals", None, encoded_dir=tmp_path)


def test_a_set_that_cannot_be_had_is_told_in_a_sentence(tmp_path, capsys):
    words = ["--sets", "qm8", "--data-dir", str(tmp_path / "none"), "--to", str(tmp_path / "out")]
    assert encode.main(words) == 1
    assert "Stopped: `directory` (--data-dir) must name an existing folder" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
