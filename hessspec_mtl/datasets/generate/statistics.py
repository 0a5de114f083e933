"""What the data card states about the shipped files: yields, statistics and baselines.

The baselines say how much of a target is decided by composition alone: a network that reads
structures should do better wherever structure matters.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.datasets.computed import (
    EMBEDDED,
    EmbeddedFile,
    load_crystals,
    load_molecules,
    read_embedded,
)
from hessspec_mtl.datasets.paper import PAPER, target_statistics

NUM_FOLDS = 5


def composition_features(
    dataset: MultitaskDataset, atomic_numbers: Sequence[Sequence[int]]
) -> Float[np.ndarray, "N features"]:
    """Crystals: share of each element. Molecules: number of atoms of each, and a constant."""
    counts = np.array(
        [[list(numbers).count(z) for z in dataset.elements] for numbers in atomic_numbers], float
    )
    if dataset.domain == "crystals":
        return counts / counts.sum(axis=1, keepdims=True)
    return np.column_stack([counts, np.ones(len(counts))])


def held_out_predictions(
    features: Float[np.ndarray, "N features"], targets: Float[np.ndarray, "N T"], seed: int = 0
) -> Float[np.ndarray, "N T"]:
    """Least squares fitted on the other folds, for each fold of a random partition."""
    folds = np.random.default_rng(seed).permutation(len(targets)) % NUM_FOLDS
    predictions = np.empty_like(targets)
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        weights = np.linalg.lstsq(features[~held_out], targets[~held_out], rcond=None)[0]
        predictions[held_out] = features[held_out] @ weights
    return predictions


def r_squared(
    predictions: Float[np.ndarray, "N T"], targets: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, " T"]:
    """1 - (mean squared error) / variance, a column."""
    return 1 - ((predictions - targets) ** 2).mean(axis=0) / targets.var(axis=0)


def absolute_error_over_median(
    predictions: Float[np.ndarray, "N T"], targets: Float[np.ndarray, "N T"]
) -> Float[np.ndarray, " T"]:
    """Mean absolute error as a share of that of the best constant, the median."""
    constant = np.abs(targets - np.median(targets, axis=0)).mean(axis=0)
    return np.abs(predictions - targets).mean(axis=0) / constant


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def yield_table(file: EmbeddedFile) -> str:
    """How many structures were enumerated, tried, left out for each reason, and kept."""
    counts = file.metadata["counts"]
    rows = [("enumerated", f"{counts['enumerated']:,}"), ("tried", f"{counts['tried']:,}")]
    rows += [(f"left out: {reason}", f"{n:,}") for reason, n in counts["left_out"].items()]
    rows.append(("kept", f"{counts['kept']:,}"))
    return markdown(("", "number"), rows)


def statistics_table(dataset: MultitaskDataset) -> str:
    """Statistics of the targets beside those that the paper prints of its own data set."""
    paper = PAPER[dataset.domain]
    ours = target_statistics(dataset)
    rows = []
    for name in ("mean", "std", "min", "max"):
        rows.append((name, "ours", *(f"{value:.4f}" for value in ours.loc[name])))
        rows.append((name, "paper", *(f"{float(value):.4f}" for value in paper.targets[name])))
    labels = [f"{task.label} ({task.unit})" for task in dataset.tasks]
    return markdown(("", "", *labels), rows)


def baseline_table(dataset: MultitaskDataset, file: EmbeddedFile) -> str:
    """What a model linear in composition reaches on molecules or crystals it has not seen."""
    features = composition_features(dataset, [entry["atomic_numbers"] for entry in file.entries])
    predictions = held_out_predictions(features, dataset.targets)
    rows = [
        ("R², held out", *(f"{x:.2f}" for x in r_squared(predictions, dataset.targets))),
        (
            "absolute error / that of the median",
            *(f"{x:.2f}" for x in absolute_error_over_median(predictions, dataset.targets)),
        ),
    ]
    return markdown(("linear in composition", *(task.label for task in dataset.tasks)), rows)


def data_card_tables() -> str:
    """All tables of the data card, as Markdown."""
    parts = []
    for dataset in (load_molecules(progress=False), load_crystals(graphs=False)):
        file = read_embedded(EMBEDDED / f"{dataset.name}.jsonl.gz")
        parts += [
            f"## {dataset.name}",
            yield_table(file),
            statistics_table(dataset),
            baseline_table(dataset, file),
        ]
    return "\n\n".join(parts)
