"""Multi-task data sets as frozen records: structures, graphs, targets; splits and encodings.

The path is one-way: a `MultitaskDataset` holds everything in raw units; `split` chooses indices;
`encode` fits deciles and standardisation on the training part and applies them to both parts.

A target that is not known of an example is NaN in every table of targets. Means and deviations are
over the examples that have it (`over_examples`); graphs that go into the network carry weights in
place of NaN (`hessspec_mtl.graphs`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from hessspec_mtl.datasets.sources import Source
from hessspec_mtl.featurize.one_hot import GraphEncoder, fit_bond_encoder, fit_decile_encoder
from hessspec_mtl.featurize.raw_graph import RawGraph
from hessspec_mtl.graphs import MultiGraph

NUM_BOND_TYPES = 4

_LEAVE_OUT = "leave them out (of --targets, or of --columns for crystals)"

# Squares of larger standardised targets, and their sums, come near the end of float32, 3e38.
_LARGEST = 1e16

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


def over_examples(
    statistic: Callable[..., Any], targets: Float[np.ndarray, "n T"]
) -> Float[np.ndarray, " T"]:
    """`statistic(numbers, axis=0)` of each column, over the examples that have it (no NaN)."""
    missing = np.isnan(targets)
    if not missing.any():
        # All columns at once: a sum over one column alone ends in other digits.
        return np.asarray(statistic(targets, axis=0))
    columns = zip(targets.T, missing.T, strict=True)
    return np.array([statistic(column[~lacks], axis=0) for column, lacks in columns])


def fit_standardisation(
    targets: Float[np.ndarray, "n T"], tasks: Sequence[Task]
) -> Standardisation:
    """Mean and sample standard deviation (ddof = 1) of each column, over the examples that have it.

    Raises:
        ValueError: for a task with fewer than two examples, one that is constant on them, or one
            whose numbers are too large for a standard deviation.
    """
    counts = np.count_nonzero(~np.isnan(targets), axis=0)
    if (counts < 2).any():
        few = {task.name: int(n) for task, n in zip(tasks, counts, strict=True) if n < 2}
        raise ValueError(
            f"`targets` must hold at least 2 training examples of each task to be standardised, "
            f"got {few}; {_LEAVE_OUT} or use more examples (--num-examples)."
        )
    ranges = over_examples(np.ptp, targets)
    constant = [task.name for task, width in zip(tasks, ranges, strict=True) if width == 0]
    if constant:
        raise ValueError(
            f"`targets` of {constant} are constant on the training split and cannot be "
            f"standardised; {_LEAVE_OUT} or use more examples (--num-examples)."
        )
    with np.errstate(over="ignore"):
        mean, std = (over_examples(f, targets) for f in (np.mean, partial(np.std, ddof=1)))
    huge = [task.name for task, width in zip(tasks, std, strict=True) if not np.isfinite(width)]
    if huge:
        raise ValueError(
            f"`targets` of {huge} are too large to be standardised (up to "
            f"{np.nanmax(np.abs(targets)):.3g}, whose square is no number); give them another "
            "unit, or remove the rows that are not meant."
        )
    return Standardisation(mean, std)


@dataclass(frozen=True, eq=False)
class Examples:
    """One side of a split as the network sees it; targets are standardised, in float32, NaN where
    an example lacks one."""

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
        structures: SMILES strings, or `featurize.crystals.Crystal` records; none at all where the
            set was read from an encoded file (`encoded`).
        graphs: one an example, or none at all where a loader was told `graphs=False`.
        targets: raw units, as `tasks` states them; NaN where it is not known, but every example has
            at least one. The paper's sets lack none.
        tasks: what the columns of `targets` are.
        groups: examples of the same group are never separated by a split.
        elements: atomic numbers that get a node feature.
        left_out: records of the source that are not examples, each with the reason.
        sources: the files that all this was read from.
        published: which of the paper's two data sets this is, set by its loader alone; None for
            every other set, whatever its name.
        twins: pairs of indices of crystals that are one in another cell (`grouping.equal_pairs`);
            None where nobody has looked. Of molecules the graphs tell.
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
    twins: Int[np.ndarray, "m 2"] | None = None

    def __post_init__(self) -> None:
        lengths = {
            "ids": len(self.ids),
            "structures": len(self.structures) if self.structures else len(self.ids),
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
        missing = np.isnan(self.targets)
        bad = np.isinf(self.targets) | (
            missing if self.published else missing.all(axis=1, keepdims=True)
        )
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"`targets` must be finite, got {self.targets[row, column]} for "
                f"{self.ids[row]!r}, task {self.tasks[column].name!r}; leave the example out."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @property
    def complete(self) -> bool:
        """Whether every example has every target."""
        return not np.isnan(self.targets).any()

    def counts(self, indices: Int[np.ndarray, " n"] | slice = slice(None)) -> Int[np.ndarray, " T"]:
        """Of the examples at `indices` (all by default), how many have each target."""
        return np.count_nonzero(~np.isnan(self.targets[indices]), axis=0)

    def take(self, indices: Int[np.ndarray, " n"]) -> "MultitaskDataset":
        """The examples at `indices`, in that order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            structures=tuple(self.structures[i] for i in chosen) if self.structures else (),
            graphs=tuple(self.graphs[i] for i in chosen) if self.graphs else (),
            targets=self.targets[chosen],
            groups=self.groups[chosen],
            twins=self._twins_among(chosen),
        )

    def _twins_among(self, chosen: Sequence[int]) -> Int[np.ndarray, "m 2"] | None:
        """The pairs whose both ends are `chosen`, by their new indices."""
        if self.twins is None:
            return None
        place = np.full(len(self), -1)
        place[chosen] = np.arange(len(chosen))
        pairs = place[self.twins]
        return pairs[(pairs >= 0).all(axis=1)]

    def subset(self, n: int, seed: int) -> "MultitaskDataset":
        """`n` examples chosen at random, in their original order (`subset_indices`)."""
        return self.take(subset_indices(len(self), n, seed))

    def split(self, seed: int, test_fraction: float = 0.3) -> Split:
        """A random split that keeps groups together (`group_split`)."""
        return group_split(self.groups, seed, test_fraction)

    def encode(self, split: Split) -> EncodedDataset:
        """Features and standardised targets of both sides, fitted on `split.train` alone.

        Raises:
            ValueError: if a task is constant on the training split or in no example of the test
                split, an element has no feature, or the data set was loaded without graphs.
        """
        if not self.graphs:
            raise ValueError(
                f"the data set {self.name!r} was loaded with `graphs=False` and cannot be encoded; "
                "load it with graphs."
            )
        standardisation = fit_standardisation(self.targets[split.train], self.tasks)
        self._check_tested(split)
        self._check_outliers(standardisation)
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

    def _check_outliers(self, standardisation: Standardisation) -> None:
        """Raise if a target is so far out that its squared error is no float32 number."""
        sizes = np.nan_to_num(np.abs(standardisation.apply(self.targets)))
        row, column = np.unravel_index(sizes.argmax(), sizes.shape)
        if sizes[row, column] > _LARGEST:
            raise ValueError(
                f"target {self.tasks[column].name!r} of {self.ids[row]!r} is "
                f"{self.targets[row, column]:g}, which lies {sizes[row, column]:.3g} standard "
                "deviations from the mean of the training examples, too far for float32; correct "
                "it or leave the example out."
            )

    def _check_tested(self, split: Split) -> None:
        """Raise if some task has no test example, so that nothing could be said of its errors."""
        counts = zip(self.tasks, self.counts(split.train), self.counts(split.test), strict=True)
        untested = {task.name: int(train) for task, train, test in counts if test == 0}
        if untested:
            raise ValueError(
                f"`targets` of {list(untested)} are known of {list(untested.values())} training "
                f"examples and of no test example; {_LEAVE_OUT}, add examples that have them, or "
                "hold out others (--test-fraction)."
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
