"""Multi-task data sets as frozen records: structures, graphs, targets; splits and encodings.

The path is one-way: a `MultitaskDataset` holds everything in raw units; `split` chooses indices;
`encode` fits deciles and standardisation on the training part and applies them to both parts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from hessspec_mtl.datasets.sources import Source
from hessspec_mtl.featurize.one_hot import GraphEncoder, fit_bond_encoder, fit_decile_encoder
from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.graphs import MultiGraph

NUM_BOND_TYPES = 4

# Subsets and splits draw from different streams, so that equal seeds do not tie one to the other.
_SUBSET_STREAM, _SPLIT_STREAM = 1, 2


@dataclass(frozen=True)
class Task:
    """One target: `name` for columns and files, `label` for axes, `unit` of the raw values."""

    name: str
    label: str
    unit: str


@dataclass(frozen=True)
class LeftOut:
    """A record of a source that is not in the data set.

    Attributes:
        id: which record, in the words of its source.
        reason: why, in words shared by all records left out for it, so that they can be counted.
        detail: what this record held, and what to do.
    """

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the training and the test examples, each in increasing order."""

    train: Int[np.ndarray, " n_train"]
    test: Int[np.ndarray, " n_test"]


@dataclass(frozen=True, eq=False)
class Standardisation:
    """The affine map of each task to mean 0 and standard deviation 1 on the training split."""

    mean: Float[np.ndarray, " T"]
    std: Float[np.ndarray, " T"]

    def apply(self, targets: Float[np.ndarray, "n T"]) -> Float[np.ndarray, "n T"]:
        """Raw units to standard units."""
        return (targets - self.mean[None, :]) / self.std[None, :]

    def undo(self, standardised: Float[np.ndarray, "n T"]) -> Float[np.ndarray, "n T"]:
        """Standard units to raw units."""
        return standardised * self.std[None, :] + self.mean[None, :]


def fit_standardisation(
    targets: Float[np.ndarray, "n T"], tasks: Sequence[Task]
) -> Standardisation:
    """Mean and sample standard deviation (ddof = 1) of each column.

    Raises:
        ValueError: for fewer than two examples, or a task that is constant on them.
    """
    if targets.shape[0] < 2:
        raise ValueError(
            f"`targets` must hold at least 2 training examples to be standardised, "
            f"got {targets.shape[0]}; use more examples (--num-examples)."
        )
    constant = [
        task.name for task, column in zip(tasks, targets.T, strict=True) if np.ptp(column) == 0
    ]
    if constant:
        raise ValueError(
            f"`targets` of {constant} are constant on the training split and cannot be "
            "standardised; leave them out (of --targets, or of --columns for crystals) or use more "
            "examples (--num-examples)."
        )
    return Standardisation(targets.mean(axis=0), targets.std(axis=0, ddof=1))


@dataclass(frozen=True, eq=False)
class Examples:
    """One side of a split as the network sees it; targets are standardised, in float32."""

    ids: tuple[str, ...]
    graphs: tuple[MultiGraph, ...]
    targets: Float[np.ndarray, "n T"]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """A split data set with features and standardised targets, fitted on its training side only."""

    name: str
    tasks: tuple[Task, ...]
    train: Examples
    test: Examples
    standardisation: Standardisation
    encoder: GraphEncoder

    @property
    def node_features(self) -> int:
        return self.encoder.node_features

    @property
    def edge_features(self) -> int:
        return self.encoder.edge_features


@dataclass(frozen=True, eq=False)
class MultitaskDataset:
    """Molecules or crystals with T targets each, in raw units.

    Attributes:
        name: short name, as used in reports and file names.
        domain: what the structures are; decides how edges are encoded.
        ids: one unique name an example.
        structures: SMILES strings, or `featurize.crystals.Crystal` records.
        graphs: one an example, or none at all where a loader was told `graphs=False`.
        targets: raw units, as `tasks` states them; no missing values.
        tasks: what the columns of `targets` are.
        groups: examples of the same group are never separated by a split.
        elements: atomic numbers that get a node feature.
        left_out: records of the source that are not examples, each with the reason.
        sources: the files that all this was read from.
        published: which of the paper's two data sets this is, set by its loader alone; None for
            every other set, whatever its name.
    """

    name: str
    domain: Literal["molecules", "crystals"]
    ids: tuple[str, ...]
    structures: tuple[Any, ...]
    graphs: tuple[RawGraph, ...]
    targets: Float[np.ndarray, "N T"]
    tasks: tuple[Task, ...]
    groups: Int[np.ndarray, " N"]
    elements: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    sources: tuple[Source, ...] = ()
    published: Literal["QM8", "Materials Project"] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "ids": len(self.ids),
            "structures": len(self.structures),
            "graphs": len(self.graphs) if self.graphs else len(self.ids),
            "targets": self.targets.shape[0],
            "groups": self.groups.shape[0],
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the fields of a data set must have one length, got {lengths}.")
        if self.targets.shape[1] != len(self.tasks):
            raise ValueError(
                f"`targets` must have one column for each of {len(self.tasks)} tasks, "
                f"got {self.targets.shape[1]}."
            )
        if len(set(self.ids)) != len(self.ids):
            repeated = [name for name, count in Counter(self.ids).most_common(5) if count > 1]
            raise ValueError(f"`ids` must be unique, got {repeated} more than once.")
        if not np.isfinite(self.targets).all():
            row, column = np.argwhere(~np.isfinite(self.targets))[0]
            raise ValueError(
                f"`targets` must be finite, got {self.targets[row, column]} for "
                f"{self.ids[row]!r}, task {self.tasks[column].name!r}; leave the example out."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    def take(self, indices: Int[np.ndarray, " n"]) -> "MultitaskDataset":
        """The examples at `indices`, in that order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            structures=tuple(self.structures[i] for i in chosen),
            graphs=tuple(self.graphs[i] for i in chosen) if self.graphs else (),
            targets=self.targets[chosen],
            groups=self.groups[chosen],
        )

    def subset(self, n: int, seed: int) -> "MultitaskDataset":
        """`n` examples chosen at random, in their original order (`subset_indices`)."""
        return self.take(subset_indices(len(self), n, seed))

    def split(self, seed: int, test_fraction: float = 0.3) -> Split:
        """A random split that keeps groups together (`group_split`)."""
        return group_split(self.groups, seed, test_fraction)

    def encode(self, split: Split) -> EncodedDataset:
        """Features and standardised targets of both sides, fitted on `split.train` alone.

        Raises:
            ValueError: if a task is constant on the training split, an element has no feature, or
                the data set was loaded without graphs.
        """
        if not self.graphs:
            raise ValueError(
                f"the data set {self.name!r} was loaded with `graphs=False` and cannot be encoded; "
                "load it with graphs."
            )
        standardisation = fit_standardisation(self.targets[split.train], self.tasks)
        if self.domain == "molecules":
            encoder = fit_bond_encoder(self.elements, NUM_BOND_TYPES)
        else:
            encoder = fit_decile_encoder(self.elements, [self.graphs[i] for i in split.train])

        def examples(indices: Int[np.ndarray, " n"]) -> Examples:
            return Examples(
                ids=tuple(self.ids[i] for i in indices),
                graphs=tuple(encoder.encode(self.graphs[i]) for i in indices),
                targets=standardisation.apply(self.targets[indices]).astype(np.float32),
            )

        return EncodedDataset(
            name=self.name,
            tasks=self.tasks,
            train=examples(split.train),
            test=examples(split.test),
            standardisation=standardisation,
            encoder=encoder,
        )


def count_reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """How many records were left out for each reason, the most frequent first."""
    return dict(Counter(record.reason for record in left_out).most_common())


def subset_indices(num_examples: int, n: int, seed: int) -> Int[np.ndarray, " n"]:
    """`n` of `num_examples` indices drawn without replacement, in increasing order.

    The draw is the head of one permutation, so a larger `n` with the same seed keeps all of a
    smaller one.
    """
    if not 1 <= n <= num_examples:
        raise ValueError(
            f"`n` (--num-examples), the size of a subset, must lie in [1, {num_examples}], "
            f"that of the data set, got {n}."
        )
    generator = np.random.default_rng([_SUBSET_STREAM, seed])
    return np.sort(generator.permutation(num_examples)[:n])


def group_split(groups: Int[np.ndarray, " N"], seed: int, test_fraction: float = 0.3) -> Split:
    """Whole groups, in random order, join the test side until it holds its share of the examples.

    The test side has at least `round(test_fraction * N)` examples, and exceeds that by less than
    the size of its last group: with groups of one it is exact.

    Raises:
        ValueError: if `test_fraction` leaves either side empty.
    """
    num_examples = groups.shape[0]
    num_test = round(test_fraction * num_examples)
    generator = np.random.default_rng([_SPLIT_STREAM, seed])
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = generator.permutation(names.shape[0])
    # Number of test examples before each group, in the drawn order: a group joins while short.
    before = np.cumsum(sizes[order]) - sizes[order]
    is_test = np.isin(members, order[before < num_test])
    split = Split(train=np.flatnonzero(~is_test), test=np.flatnonzero(is_test))
    if split.train.size == 0 or split.test.size == 0:
        raise ValueError(
            f"`test_fraction` must leave examples on both sides, got {test_fraction} of "
            f"{num_examples} examples in {names.shape[0]} groups. Copies of one structure are a "
            "group, which is never separated: add examples that differ."
        )
    return split
