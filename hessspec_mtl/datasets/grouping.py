"""Which examples belong together in a split: what is one structure to the network.

A network that has seen a structure in training is not tested by the same structure under another
name. Node and edge features know neither stereochemistry nor isotopes nor charges, so molecules
that differ in these alone are one graph; a crystal is the same whatever cell, origin or setting it
is written in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt64

from hessspec_mtl.datasets.base import MultitaskDataset, Split
from hessspec_mtl.datasets.paper import is_users_dataset
from hessspec_mtl.featurize.raw_graph import RawGraph

if TYPE_CHECKING:
    from hessspec_mtl.featurize.crystals import Crystal

# Neighbours of each element around each atom whose distances tell crystals apart. Close packings
# that differ in the order of their layers differ from the third shell on, after 18 neighbours.
_NEIGHBOURS = 48

# Crystals are one if no mean distance differs by more (angstrom). Coordinates printed with three
# decimals of a 30 angstrom cell move a pair of atoms by that much. In the Materials Project, pairs
# below it have the same moduli, and polytypes and distorted perovskites begin at twice as much.
_TOLERANCE = 0.03

# Cells of one crystal have one volume an atom, to more than this share if distances agree.
_VOLUME_TOLERANCE = 0.02


def equal_names(names: Sequence[str]) -> Int[np.ndarray, " N"]:
    """One group number an example: equal names, equal numbers."""
    return np.unique(np.array(names, dtype=str), return_inverse=True)[1]


def with_whole_groups(dataset: MultitaskDataset) -> MultitaskDataset:
    """The data set whose splits never separate what is one structure to the network.

    Data of one's own are read so. They stay as they are, and so do their splits, which go by the
    numbers of the groups.
    """
    if is_users_dataset(dataset) and has_whole_groups(dataset):
        return dataset
    return replace(dataset, groups=one_to_the_network(dataset))


def has_whole_groups(dataset: MultitaskDataset) -> bool:
    """Whether the data set's own groups keep together what is one structure to the network."""
    joined = one_to_the_network(dataset)  # nowhere finer: as many groups are the same groups
    return np.unique(joined).size == np.unique(dataset.groups).size


def one_to_the_network(dataset: MultitaskDataset) -> Int[np.ndarray, " N"]:
    """One group number an example: equal numbers for structures that are one to the network.

    The groups of the data set are kept together too.
    """
    if dataset.domain == "molecules":
        found = indistinguishable_graphs(dataset.graphs)
    elif dataset.twins is None:
        found = equal_crystals(dataset.structures)
    else:
        found = _components(dataset.twins, len(dataset))
    return _joined(dataset.groups, found)


@dataclass(frozen=True)
class Copies:
    """How often one structure stands in a data set under several names.

    Attributes:
        groups: structures that do.
        examples: all of their names.
        crossing: structures with names on both sides of the split.
        test_examples: test examples whose structure is in the training split too.
    """

    groups: int
    examples: int
    crossing: int
    test_examples: int


def count_copies(groups: Int[np.ndarray, " N"], split: Split) -> Copies:
    """What `groups` say of `split`."""
    _, members = np.unique(groups, return_inverse=True)
    size = np.bincount(members)
    in_train = np.bincount(members[split.train], minlength=size.size)
    in_test = np.bincount(members[split.test], minlength=size.size)
    crossing = (in_train > 0) & (in_test > 0)
    return Copies(
        groups=int((size > 1).sum()),
        examples=int(size[size > 1].sum()),
        crossing=int(crossing.sum()),
        test_examples=int(in_test[crossing].sum()),
    )


def indistinguishable_graphs(graphs: Sequence[RawGraph]) -> Int[np.ndarray, " N"]:
    """One group number a graph of bonds: equal for graphs that message passing cannot tell apart.

    Colours of the nodes, at first the elements, are refined by the multiset of colours and bond
    types around each until no more appear (Weisfeiler and Leman 1968); a graph is the multiset of
    its colours. Equal graphs have equal colours. The reverse fails for few pairs (decalin and
    bicyclopentyl), which are one to every network that passes messages, and so to this one.

    Multisets are sums of 64-bit hashes: two of n differ in vain with probability n² / 2⁶⁵, 1e-8
    for the atoms of QM8.
    """
    sizes = np.array([graph.num_nodes for graph in graphs])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    edges = np.repeat(first, [graph.num_edges for graph in graphs])
    senders = np.concatenate([graph.senders for graph in graphs]) + edges
    receivers = np.concatenate([graph.receivers for graph in graphs]) + edges
    kinds = np.concatenate([graph.edge_attributes for graph in graphs]).astype(np.uint64)
    elements = np.concatenate([graph.atomic_numbers for graph in graphs]).astype(np.uint64)
    colours, known = _hashed(elements), 0
    while (count := np.unique(colours).size) > known:
        known = count
        around = _sums(_hashed(colours[senders], kinds), receivers, colours.size)
        colours = _hashed(colours, around)
    whole = _sums(_hashed(colours), np.repeat(np.arange(sizes.size), sizes), sizes.size)
    return np.unique(whole, return_inverse=True)[1]


def equal_crystals(crystals: Sequence[Crystal]) -> Int[np.ndarray, " N"]:
    """One group number a crystal: equal for cells, origins and settings of one crystal.

    Crystals of one reduced formula and one volume an atom are compared by `mean_distances`. The
    comparison has a tolerance, so that digits do not matter; what is equal to a third crystal is
    equal.

    Cost: a few milliseconds for each crystal that shares its formula and volume with another.
    """
    return _components(equal_pairs(crystals), len(crystals))


def equal_pairs(crystals: Sequence[Crystal]) -> Int[np.ndarray, "m 2"]:
    """The pairs of crystals that `equal_crystals` takes for one, by their indices.

    Whether two are a pair depends on these two alone, so the pairs of a subset are those of the
    whole that lie in it; its groups may be finer, where a third crystal connects two.
    """
    pairs = [(i, j) for i, j, difference in _compared(crystals) if difference <= _TOLERANCE]
    return np.array(pairs, np.int64).reshape(-1, 2)


def mean_distances(crystal: Crystal) -> Float[np.ndarray, "pairs 2 k"]:
    """How far the k nearest atoms of element b are from an atom of element a, for all a and b.

    For each pair (a, b), in order of atomic numbers, the mean and the root mean square over the
    atoms a of the distance to the first, second, ... nearest atom b, in angstrom. They are the same
    for every cell, origin and orientation, and no distance moves by more than its atoms do, which
    makes them continuous where a reduced cell is not.

    Source: the average minimum distance of Widdowson and Kurlin, MATCH 87, 529 (2022), resolved by
    elements.
    """
    # Imported late: pymatgen takes seconds to load, and molecules do not need it.
    from hessspec_mtl.featurize.crystals import structure_of

    structure = structure_of(crystal)
    elements = np.unique(crystal.atomic_numbers)
    rarest = min((crystal.atomic_numbers == z).sum() for z in elements)
    # The sphere that holds so many of the rarest element on average, and then some.
    radius = (2 * _NEIGHBOURS * structure.volume / rarest * 3 / (4 * np.pi)) ** (1 / 3)
    while True:
        centres, others, _, distances = structure.get_neighbor_list(radius)
        found = [
            _nearest(centres, distances, crystal.atomic_numbers[others] == z, len(structure))
            for z in elements
        ]
        if all(nearest is not None for nearest in found):
            break
        radius *= 1.25
    return np.array(
        [
            [nearest[of_a].mean(axis=0), np.sqrt((nearest[of_a] ** 2).mean(axis=0))]
            for of_a in (crystal.atomic_numbers == z for z in elements)
            for nearest in found
            if nearest is not None
        ]
    )


def _nearest(
    centres: Int[np.ndarray, " m"],
    distances: Float[np.ndarray, " m"],
    chosen: np.ndarray,
    num_atoms: int,
) -> Float[np.ndarray, "n k"] | None:
    """The sorted distances of each atom to its nearest of the chosen; None if some are too few."""
    centres, distances = centres[chosen], distances[chosen]
    counts = np.bincount(centres, minlength=num_atoms)
    if counts.min() < _NEIGHBOURS:
        return None
    order = np.lexsort((distances, centres))
    first = np.cumsum(counts) - counts
    return distances[order][first[:, None] + np.arange(_NEIGHBOURS)]


def _compared(crystals: Sequence[Crystal]) -> Iterator[tuple[int, int, float]]:
    """Every two crystals of one formula and volume, with the largest difference of distances."""
    known: dict[int, Float[np.ndarray, "pairs 2 k"]] = {}

    def distances(i: int) -> Float[np.ndarray, "pairs 2 k"]:
        if i not in known:
            known[i] = mean_distances(crystals[i])
        return known[i]

    volumes = [
        abs(np.linalg.det(crystal.lattice)) / crystal.atomic_numbers.size for crystal in crystals
    ]
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, crystal in enumerate(crystals):
        alike.setdefault(_reduced_formula(crystal), []).append(i)
    for members in alike.values():
        ordered = sorted(members, key=lambda i: volumes[i])
        for place, i in enumerate(ordered):
            for j in ordered[place + 1 :]:
                if volumes[j] > volumes[i] * (1 + _VOLUME_TOLERANCE):
                    break
                yield i, j, float(np.abs(distances(i) - distances(j)).max())


def _reduced_formula(crystal: Crystal) -> tuple[int, ...]:
    """Elements and their smallest whole numbers."""
    elements, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    return (*elements.tolist(), *(counts // np.gcd.reduce(counts)).tolist())


def _components(pairs: Int[np.ndarray, "m 2"], num: int) -> Int[np.ndarray, " num"]:
    """One number for all that chains of pairs connect."""
    # Imported late: only sets whose structures repeat need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(pairs.shape[0])
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(num, num))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _joined(one: Int[np.ndarray, " N"], other: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """The finest grouping that separates nothing that either keeps together."""
    _, a = np.unique(one, return_inverse=True)
    _, b = np.unique(other, return_inverse=True)
    size = a.size
    # Examples are nodes, and so is every group of either, after them.
    pairs = np.concatenate(
        [
            np.stack([np.arange(size), size + a], axis=1),
            np.stack([np.arange(size), 2 * size + b], axis=1),
        ]
    )
    return np.unique(_components(pairs, 3 * size)[:size], return_inverse=True)[1]


_Hash = UInt64[np.ndarray, " n"]


def _hashed(*parts: _Hash) -> _Hash:
    """A hash of the numbers side by side: the finaliser of SplitMix64 after each."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total = total + part + np.uint64(0x9E3779B97F4A7C15)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total = total ^ (total >> np.uint64(31))
    return total


def _sums(hashes: _Hash, places: Int[np.ndarray, " n"], num: int) -> UInt64[np.ndarray, " num"]:
    """The sum, modulo 2⁶⁴, of the hashes of each place."""
    sums = np.zeros(num, np.uint64)
    np.add.at(sums, places, hashes)
    return sums
