"""Figures 1 and 2: a crystal and a molecule, each beside the graph that the network reads."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.featurize import molecules
from hessspec_mtl.featurize.crystals import Crystal, crystal_from_cell, graph_of, structure_of
from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.figures.style import INK, MUTED, Plot, house_style, new_figure, panel_title

# Cubic perovskite; the cell edge is that of Materials Project entry mp-2998.
BARIUM_TITANATE_EDGE = 4.008  # angstrom
BARIUM_TITANATE_SITES = (
    ("Ba", (0.0, 0.0, 0.0)),
    ("Ti", (0.5, 0.5, 0.5)),
    ("O", (0.5, 0.5, 0.0)),
    ("O", (0.5, 0.0, 0.5)),
    ("O", (0.0, 0.5, 0.5)),
)
# 1-(trifluoromethyl)cyclopropan-1-amine, one of the seven isomers of C4H6F3N in QM8.
EXAMPLE_MOLECULE = "NC1(C(F)(F)F)CC1"
EXAMPLE_WORDS = "1-(trifluoromethyl)cyclopropan-1-amine, one of the isomers of C₄H₆F₃N in QM8"
_DRAWN_ATOMS = (4, 30)  # of a molecule in a figure: fewer show nothing, of more no label is read

# The graph of BaTiO3 without its parallel edges is planar; these places show it without crossings.
_PEROVSKITE_PLACES = np.array([[0.0, 1.75], [0.0, -0.62], [0.0, 0.42], [-1.7, -1.2], [1.7, -1.2]])

_TABLE = Chem.GetPeriodicTable()
_COLOURS = {  # Okabe-Ito again, light elements light
    "H": "#f2f2f2",
    "C": "#7f7f7f",
    "N": "#56B4E9",
    "O": "#D55E00",
    "F": "#F0E442",
    "Ti": "#0072B2",
    "Ba": "#009E73",
}


def barium_titanate() -> Crystal:
    """Cubic BaTiO3, titanium in the middle of the cell."""
    edge = BARIUM_TITANATE_EDGE
    return crystal_from_cell(
        (edge, edge, edge, 90.0, 90.0, 90.0),
        [symbol for symbol, _ in BARIUM_TITANATE_SITES],
        [list(place) for _, place in BARIUM_TITANATE_SITES],
    )


def crystal_figure(*, name: str = "figure1") -> Plot:
    """Figure 1: the unit cell of BaTiO3 and its Voronoi multigraph, parallel edges side by side."""
    crystal = barium_titanate()
    graph = graph_of(crystal)
    symbols = [_TABLE.GetElementSymbol(int(z)) for z in graph.atomic_numbers]
    with house_style():
        figure = new_figure(3.3)
        left, right = figure.subplots(1, 2)
        _draw_cell(left, crystal)
        _draw_multigraph(right, graph, _PEROVSKITE_PLACES, symbols)
        titles = ("unit cell of BaTiO$_3$", "its multigraph")
        for panel, letter, title in zip((left, right), "ab", titles, strict=True):
            panel.set_axis_off()
            panel.set_aspect("equal")
            panel_title(panel, letter, title)
    faces = graph.num_edges // 2
    return Plot(
        name=name,
        title="From a crystal to a multigraph",
        caption=(
            f"(a) Cubic BaTiO₃ (cell edge {BARIUM_TITANATE_EDGE} Å; atoms on the faces, edges and "
            "corners of the cell are repeated). (b) The graph that the network reads: one node for "
            "each of the five atoms of the cell and one line for each of the "
            f"{faces} faces of their Voronoi cells. Two atoms share several faces, one for each "
            "periodic image that touches, hence parallel edges (×n). Each line stands for two "
            "directed edges with the same feature."
        ),
        figure=figure,
        data=_edge_table(graph, symbols),
    )


def own_molecule_figure(dataset: MultitaskDataset, *, name: str = "figure2") -> Plot | None:
    """Figure 2 with a molecule of this set: the one of median size among those that can be drawn.

    None where the set has no structures (it was read encoded) or none of a size to be drawn.
    """
    if dataset.domain != "molecules" or not dataset.structures:
        return None
    sizes = np.array([graph.num_nodes for graph in dataset.graphs])
    fitting = np.flatnonzero((sizes >= _DRAWN_ATOMS[0]) & (sizes <= _DRAWN_ATOMS[1]))
    if fitting.size == 0:
        return None
    chosen = int(fitting[np.argsort(sizes[fitting], kind="stable")[(fitting.size - 1) // 2]])
    smiles = str(dataset.structures[chosen])
    bare = molecules.graph_of(smiles, add_hydrogens=False).num_nodes
    return molecule_figure(
        smiles,
        name=name,
        said=f"{smiles}, the example {dataset.ids[chosen]} of {dataset.name}",
        add_hydrogens=bare < sizes[chosen],
    )


def molecule_figure(
    smiles: str = EXAMPLE_MOLECULE,
    *,
    name: str = "figure2",
    said: str = EXAMPLE_WORDS,
    add_hydrogens: bool = True,
) -> Plot:
    """Figure 2: the skeletal formula of a molecule, called as `said`, and its graph."""
    full = molecules.structure_of(smiles, add_hydrogens=add_hydrogens)
    molecule = Chem.RemoveHs(full)  # written ones too: the formula is a skeleton
    for structure in (molecule, full):
        rdDepictor.SetPreferCoordGen(True)
        rdDepictor.Compute2DCoords(structure)
    graph = molecules.graph_of(smiles, add_hydrogens=add_hydrogens)
    symbols = [atom.GetSymbol() for atom in full.GetAtoms()]
    formula = re.sub(r"(\d+)", r"$_{\1}$", CalcMolFormula(molecule))
    implicit = any(atom.GetTotalNumHs() for atom in full.GetAtoms())  # those that are no atoms
    hydrogens = "hydrogens left to their neighbours" if implicit else "hydrogens included"
    with house_style():
        figure = new_figure(3.0)
        left, right = figure.subplots(1, 2, width_ratios=(0.8, 1))
        _draw_formula(left, molecule)
        _draw_multigraph(right, graph, _places(full), symbols)
        for panel, letter, title in zip((left, right), "ab", (formula, "its graph"), strict=True):
            panel.set_axis_off()
            panel.set_aspect("equal")
            panel_title(panel, letter, title)
    return Plot(
        name=name,
        title="From a molecule to a graph",
        caption=(
            f"(a) Structural formula of {said}; coordinates by rdkit. (b) The graph that the "
            f"network reads: a node for every atom, {hydrogens}, a line for every bond. Each line "
            "stands for two directed edges with the same feature, the bond type."
        ),
        figure=figure,
        data=_edge_table(graph, symbols).assign(
            bond=[str(molecules.BOND_TYPES[i]).lower() for i in graph.edge_attributes]
        ),
    )


def _edge_table(graph: RawGraph, symbols: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sender": graph.senders,
            "receiver": graph.receivers,
            "sender_element": [symbols[i] for i in graph.senders],
            "receiver_element": [symbols[i] for i in graph.receivers],
        }
    )


def _places(molecule: Chem.Mol) -> Float[np.ndarray, "n 2"]:
    return np.asarray(molecule.GetConformer().GetPositions(), np.float64)[:, :2]


def _ball(axes: Axes, place: np.ndarray, radius: float, symbol: str, order: float) -> None:
    """A shaded disc: discs shrink and lighten towards the upper left."""
    colour = _COLOURS.get(symbol, "#CC79A7")
    axes.add_patch(
        Circle(tuple(place), radius, facecolor=colour, edgecolor=INK, lw=0.7, zorder=order)
    )
    for step in range(1, 7):
        share = 1 - step / 7
        centre = place + 0.32 * radius * (1 - share) * np.array([-1.0, 1.0])
        axes.add_patch(
            Circle(
                tuple(centre),
                radius * share * 0.92,
                facecolor="#ffffff",
                alpha=0.10,
                edgecolor="none",
                zorder=order + 1e-4 * step,
            )
        )


def _draw_cell(axes: Axes, crystal: Crystal) -> None:
    """The cell in oblique view, every atom with its images on the boundary, far ones first."""
    structure = structure_of(crystal)
    turn, tilt = np.radians(-24.0), np.radians(16.0)
    yaw = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    view = crystal.lattice @ yaw.T @ pitch.T

    def project(fractional: np.ndarray) -> tuple[np.ndarray, float]:
        x, depth, y = fractional @ view
        return np.array([x, y]), float(depth)

    atoms = []
    for site in structure:
        home = np.asarray(site.frac_coords)
        for shift in product((0, 1), repeat=3):
            image = home + np.array(shift)
            if np.all(image <= 1.0 + 1e-9):
                atoms.append((site.specie.symbol, image))
    depths = [project(place)[1] for _, place in atoms]
    span = max(depths) - min(depths) or 1.0

    def layer(depth: float) -> float:
        return 2.0 + (max(depths) - depth) / span  # nearer is drawn later

    corners = [np.array(corner, float) for corner in product((0, 1), repeat=3)]
    for a in corners:
        for b in corners:
            if np.isclose(np.abs(a - b).sum(), 1.0) and tuple(a) < tuple(b):
                (start, near), (end, far) = project(a), project(b)
                axes.plot(
                    *np.stack([start, end]).T,
                    color=MUTED,
                    linewidth=0.8,
                    zorder=layer((near + far) / 2) - 0.3,
                )
    radius = {"Ba": 0.62, "Ti": 0.42, "O": 0.34}
    titanium = [place for symbol, place in atoms if symbol == "Ti"]
    oxygen = [place for symbol, place in atoms if symbol == "O"]
    for a, b in product(titanium, oxygen):
        length = float(np.linalg.norm((a - b) @ crystal.lattice))
        if length < 0.55 * BARIUM_TITANATE_EDGE:
            # From surface to surface: what is inside a ball would shine through it.
            inner = a + (b - a) * radius["Ti"] / length
            outer = b - (b - a) * radius["O"] / length
            (start, near), (end, far) = project(inner), project(outer)
            axes.plot(
                *np.stack([start, end]).T,
                color="#8c8c8c",
                linewidth=3.2,
                solid_capstyle="butt",
                zorder=layer((near + far) / 2),
            )
    for symbol, place in atoms:
        flat, depth = project(place)
        _ball(axes, flat, radius.get(symbol, 0.4), symbol, layer(depth))
    named: set[str] = set()
    for (symbol, place), _ in sorted(zip(atoms, depths, strict=True), key=lambda pair: pair[1]):
        if symbol in named:
            continue
        named.add(symbol)
        flat, depth = project(place)
        axes.text(
            flat[0],
            flat[1],
            symbol,
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            color=INK,
            zorder=9,
        )
    axes.autoscale_view()
    axes.margins(0.04)


def _draw_multigraph(
    axes: Axes, graph: RawGraph, places: Float[np.ndarray, "n 2"], symbols: Sequence[str]
) -> None:
    """Nodes as labelled discs, parallel edges as a fan of arcs with their number beside them."""
    together: dict[tuple[int, int], int] = defaultdict(int)
    for sender, receiver in zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True):
        if sender <= receiver:
            together[sender, receiver] += 1
    gaps = [np.linalg.norm(places[a] - places[b]) for a, b in together if a != b]
    radius = min(0.19 * float(np.median(gaps)), 0.26 * float(min(gaps))) if gaps else 0.3
    for (a, b), count in together.items():
        if a == b:
            continue  # both directions of a self-edge: none in the two structures drawn here
        # An arc of `rad` has its top half that share of the chord away from the chord.
        chord = float(np.linalg.norm(places[a] - places[b]))
        bends = (np.arange(count) - (count - 1) / 2) * 2 * 0.45 * radius / chord
        for bend in bends:
            axes.add_patch(
                FancyArrowPatch(
                    tuple(places[a]),
                    tuple(places[b]),
                    arrowstyle="-",
                    connectionstyle=f"arc3,rad={bend:.4f}",
                    color="#555555",
                    linewidth=1.0,
                    shrinkA=0,
                    shrinkB=0,
                    zorder=1,
                )
            )
        if count > 1:
            middle = 0.5 * (places[a] + places[b])
            axes.text(
                middle[0],
                middle[1],
                f"×{count}",
                fontsize=7,
                ha="center",
                va="center",
                color=INK,
                zorder=3,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )
    for place, symbol in zip(places, symbols, strict=True):
        colour = _COLOURS.get(symbol, "#CC79A7")
        axes.add_patch(
            Circle(tuple(place), radius, facecolor=colour, edgecolor=INK, lw=0.8, zorder=4)
        )
        axes.text(
            place[0],
            place[1],
            symbol,
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color="white" if symbol in {"Ti", "Ba", "O", "C"} else INK,
            zorder=5,
        )
    low, high = places.min(axis=0) - 1.8 * radius, places.max(axis=0) + 1.8 * radius
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


def _draw_formula(axes: Axes, molecule: Chem.Mol) -> None:
    """Skeletal formula: carbons are corners, other atoms carry their symbol and hydrogens."""
    places = _places(molecule)
    # An aromatic ring is drawn as chemists do, single and double bonds in turn.
    molecule = Chem.Mol(molecule)
    Chem.Kekulize(molecule)
    for bond in molecule.GetBonds():
        a, b = places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()]
        across = np.array([a[1] - b[1], b[0] - a[0]]) / np.linalg.norm(b - a) * 0.12
        lines = round(bond.GetBondTypeAsDouble())
        for shift in np.linspace(-(lines - 1) / 2, (lines - 1) / 2, lines):
            axes.plot(
                *np.stack([a + shift * across, b + shift * across]).T,
                color=INK,
                linewidth=1.6,
                solid_capstyle="round",
                zorder=1,
            )
    for atom, place in zip(molecule.GetAtoms(), places, strict=True):
        symbol, charge = atom.GetSymbol(), atom.GetFormalCharge()
        if symbol == "C" and not charge and atom.GetDegree() > 0:
            continue
        hydrogens = atom.GetTotalNumHs()
        suffix = "" if hydrogens == 0 else "H" if hydrogens == 1 else f"H$_{hydrogens}$"
        if charge:
            count = "" if abs(charge) == 1 else str(abs(charge))
            suffix += f"$^{{{count}{'+' if charge > 0 else '-'}}}$"
        axes.text(
            place[0],
            place[1],
            symbol + suffix,
            ha="center",
            va="center",
            fontsize=11,
            color=INK,
            zorder=2,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"},
        )
    low, high = places.min(axis=0) - 0.9, places.max(axis=0) + 0.9
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
