"""Pictures of a crystal and a molecule hold all their edges."""

import pytest

from hessspec_mtl.figures import (
    crystal_figure,
    molecule_figure,
)


def test_barium_titanate_has_thirty_faces_in_both_directions():
    data = crystal_figure().data
    assert len(data) == 60
    pairs = data.groupby(["sender", "receiver"]).size()
    for (sender, receiver), count in pairs.items():
        assert pairs[receiver, sender] == count
    oxygen = data[(data["sender_element"] == "Ti") & (data["receiver_element"] == "O")]
    assert len(oxygen) == 6  # the octahedron


def test_the_molecule_keeps_its_hydrogens():
    data = molecule_figure().data
    assert len(data) == 28  # 14 bonds, both directions
    assert (data["bond"] == "single").all()
    assert (data["receiver_element"] == "H").sum() == 6
    with pytest.raises(ValueError, match="rdkit cannot read the SMILES"):
        molecule_figure("C1CC")
