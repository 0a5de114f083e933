"""Pictures of a crystal and a molecule hold all their edges."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.datasets.base import MultitaskDataset, Task
from hessspec_mtl.featurize.molecules import graph_of
from hessspec_mtl.figures import crystal_figure, molecule_figure, own_molecule_figure


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


def own(smiles: list[str], add_hydrogens: bool = True) -> MultitaskDataset:
    graphs = tuple(graph_of(text, add_hydrogens=add_hydrogens) for text in smiles)
    count = len(smiles)
    return MultitaskDataset(
        name="mine",
        domain="molecules",
        ids=tuple(f"line-{i + 2}" for i in range(count)),
        structures=tuple(smiles),
        graphs=graphs,
        targets=np.zeros((count, 1)),
        tasks=(Task("gap", "gap", "eV"),),
        groups=np.arange(count),
        elements=(1, 6, 7, 8),
        left_out=(),
        sources=(),
    )


def test_of_own_molecules_the_one_of_median_size_is_drawn_as_the_network_has_it():
    smiles = ["O", "c1ccccc1", "CCO", "C[NH3+]", "C" * 40]  # three can be drawn: 12, 9 and 8 atoms
    plot = own_molecule_figure(own(smiles))
    assert plot.caption.startswith("(a) Structural formula of CCO, the example line-4 of mine;")
    assert "hydrogens included" in plot.caption
    assert len(plot.data) == 16
    bare = own_molecule_figure(own(smiles, add_hydrogens=False))
    assert "formula of c1ccccc1," in bare.caption  # the only one with 4 to 30 nodes
    assert "hydrogens left to their neighbours" in bare.caption
    assert (bare.data["bond"] == "aromatic").all()


def test_written_hydrogens_are_atoms_of_the_graph_and_none_of_the_skeleton():
    plot = own_molecule_figure(own(["[H]C([H])([H])O[H]"]))
    assert "hydrogens included" in plot.caption
    formula, graph = plot.figure.axes
    assert [text.get_text() for text in formula.texts] == ["OH"]
    assert len([text for text in graph.texts if text.get_text() == "H"]) == 4


def test_rings_have_double_bonds_in_turn_and_charges_are_written():
    benzene, ammonium = (own_molecule_figure(own([s])) for s in ("c1ccccc1", "C[NH3+]"))
    assert len(benzene.figure.axes[0].lines) == 3 * 1 + 3 * 2
    assert [text.get_text() for text in ammonium.figure.axes[0].texts] == ["NH$_3$$^{+}$"]


def test_nothing_is_drawn_of_a_set_without_structures_or_with_large_ones_alone():
    dataset = own(["CCO"])
    assert own_molecule_figure(replace(dataset, structures=())) is None
    assert own_molecule_figure(own(["C" * 40])) is None
