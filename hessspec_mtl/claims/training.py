"""Claims that the training history decides: 1, 2, 3, 8 and 12.

Errors within a run come from epoch to epoch: the standard deviation over the last epochs says how
much a number would differ had training stopped a little earlier. To this, test errors add the
sampling of the test set: another test set of the same size would give another mean. Seed to seed
comes on top; seeds share the test set, so that more of them do not make it larger.

Two tasks' errors on the same example are taken as independent when they are subtracted or divided,
which is on the safe side as long as examples that are hard for one task are hard for the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from hessspec_mtl.claims.statements import STATEMENTS
from hessspec_mtl.claims.statistics import (
    LEVEL,
    Bounded,
    Judgement,
    Statistic,
    ends,
    largest,
    smallest,
)
from hessspec_mtl.curvature.spectra import Measured
from hessspec_mtl.datasets.paper import is_papers_dataset
from hessspec_mtl.study.records import SeedRun, Study, error_curve, final_window
from hessspec_mtl.training.predictions import paired_log_ratio

ROUGHLY_EQUAL = 1.5  # largest over smallest error: "rough equality" below, "variety" above
REGRESSION = 1.1  # epochs on end with an error this much above the best so far: one regression
RELATIVELY_SMOOTH = 0.1  # share of epochs that may begin a regression
FALLEN = 0.5  # final over first training error
EPOCHS = "last epochs"
EPOCHS_AND_SAMPLING = "last epochs and test set"
COUNTING = "chance in a count"


def error_matrix(history: pd.DataFrame, split: str, tasks: list[str]) -> np.ndarray:
    """Standardised MAE, one row an epoch in order, one column a task."""
    return np.stack([error_curve(history, split, task)[1] for task in tasks], axis=1)


def at_the_end(errors: np.ndarray, functional: Callable[[np.ndarray], float]) -> Measured:
    """A functional of the tasks' errors at the end of training, with its spread over epochs."""
    window = errors[-final_window(errors.shape[0]) :]
    values = np.array([functional(row) for row in window])
    error = float(values.std(ddof=1)) if values.size > 1 else float("nan")
    return Measured(float(values.mean()), error, max(values.size - 1, 1))


def sampling_errors(
    history: pd.DataFrame, split: str, tasks: Sequence[str], sizes: Mapping[str, int]
) -> Float[np.ndarray, " tasks"]:
    """Standard error that the choice of its `sizes[task]` examples leaves on a task's final MAE.

    The variance of |error| over examples is MSE - MAE²; its root over √size, mean over the last
    epochs.
    """
    result = []
    for task in tasks:
        mae, mse = (error_curve(history, split, task, measure)[1] for measure in ("mae", "mse"))
        variance = (mse - mae**2)[-final_window(mae.size) :]
        result.append(np.sqrt(np.maximum(variance, 0.0)).mean() / max(sizes[task], 1) ** 0.5)
    return np.array(result)


def with_sampling(measured: Measured, sampling: float) -> Measured:
    """The spread over epochs and the sampling of the test set, in quadrature.

    Degrees of freedom by Welch and Satterthwaite, those of the sampling error taken as many.
    """
    error = float(np.hypot(measured.error, sampling))
    known = measured.error > 0
    dof = measured.dof * (error / measured.error) ** 4 if known else float("inf")
    return Measured(measured.value, error, dof)


def shared(measured: Measured) -> Bounded:
    """The number with its interval fixed: the mean over seeds must not shrink what they share."""
    low, high = ends(measured)
    return Bounded(measured.value, measured.error, measured.dof, low, high)


class FinalErrors:
    """Errors of several tasks at the end of one run, compared two by two."""

    def __init__(self, study: Study, run: SeedRun, split: str, tasks: list[str]) -> None:
        self._errors = error_matrix(run.history, split, tasks)
        window = final_window(self._errors.shape[0])
        self.means = self._errors[-window:].mean(axis=0)
        # What is said of the training set is said of that very set.
        self.sampling = (
            sampling_errors(run.history, split, tasks, _test_sizes(study, run))
            if split == "test"
            else np.zeros(len(tasks))
        )

    def difference(self, i: int, j: int) -> Measured:
        """Error of task i minus that of task j."""
        sampling = float(np.hypot(self.sampling[i], self.sampling[j]))
        return with_sampling(at_the_end(self._errors, lambda row: row[i] - row[j]), sampling)

    def ratio(self, i: int, j: int) -> Measured:
        """Error of task i over that of task j."""
        measured = at_the_end(self._errors, lambda row: row[i] / row[j])
        relative = np.hypot(*(self.sampling[[i, j]] / self.means[[i, j]]))
        return with_sampling(measured, measured.value * float(relative))


def _names(study: Study) -> list[str]:
    return [task.name for task in study.tasks]


def _test_sizes(study: Study, run: SeedRun) -> dict[str, int]:
    """How many test examples have each target."""
    counts = study.dataset.counts(run.split.test)
    return {name: int(count) for name, count in zip(_names(study), counts, strict=True)}


def _other_data(study: Study) -> str:
    """What a reader must know where a claim about one of the paper's sets meets another set."""
    if is_papers_dataset(study.dataset):
        return ""
    return f"The claim is about the paper's data set; {study.name} has the same targets."


def rough_equality(study: Study) -> Judgement:
    """Claim 1: the ratio of the largest to the smallest error over tasks, training and test."""

    pairs = list(itertools.permutations(range(len(study.tasks)), 2))

    def statistic(split: str, side: str) -> Statistic:
        errors = [FinalErrors(study, run, split, _names(study)) for run in study.runs]
        ratios = [tuple(e.ratio(i, j) for e in errors) for i, j in pairs]
        shown = Statistic(
            f"largest / smallest final {side} error over tasks",
            tuple(largest(of_run) for of_run in zip(*ratios, strict=True)),
            ROUGHLY_EQUAL,
            above=split == "test",
            within=EPOCHS_AND_SAMPLING if split == "test" else EPOCHS,
            support=(1.0, np.inf),
        )
        # Seeds share the test set, whose sampling does not average out; nothing else they share.
        return largest_over_seeds(shown, ratios) if split == "train" and len(errors) > 1 else shown

    statistics = (statistic("train", "training"), statistic("test", "test")) if pairs else ()
    return Judgement(
        1,
        STATEMENTS[1],
        study.name,
        statistics,
        f"Reproduced if the ratio is below {ROUGHLY_EQUAL} in training and above it in test.",
        "figure3",
    )


def largest_over_seeds(shown: Statistic, items: Sequence[tuple[Measured, ...]]) -> Statistic:
    """`shown` with the values and the interval of the item that is largest on average over seeds.

    Each item has its mean over seeds, with the error between them or that within, the larger.
    Items whose plain interval stays below that of the largest cannot have been taken for it by
    chance: the interval of the largest is widened for the others only.

    Args:
        shown: what the number is called and judged by.
        items: of each item, its values by seed; seeds must be independent.
    """
    candidates = [replace(shown, values=values) for values in items]
    means = [candidate.over_seeds for candidate in candidates]
    best = max(range(len(means)), key=lambda index: means[index].value)
    floor = ends(means[best])[0]
    picked = largest([mean for mean in means if not ends(mean)[1] < floor])
    return replace(candidates[best], fixed=(picked.low, picked.high))


def poisson_ratio(study: Study) -> Judgement | None:
    """Claim 2: the test error of the Poisson ratio minus the larger of the two moduli's."""
    names = _names(study)
    poisson = [name for name in names if name.lower().startswith("poisson")]
    moduli = [name for name in names if name.lower().replace("_", "") in {"logg", "logk"}]
    if len(poisson) != 1 or len(moduli) != 2:
        return None
    order = [poisson[0], *moduli]

    def gap(run: SeedRun) -> Measured:
        errors = FinalErrors(study, run, "test", order)
        return smallest([errors.difference(0, 1), errors.difference(0, 2)])

    return Judgement(
        2,
        STATEMENTS[2],
        study.name,
        (
            Statistic(
                "final test error of the Poisson ratio minus the larger of log G and log K",
                tuple(gap(run) for run in study.runs),
                0.0,
                above=True,
                within=EPOCHS_AND_SAMPLING,
            ),
        ),
        "Reproduced if the difference (in standard deviations of each target) is positive.",
        "figure3",
        remark=_other_data(study),
    )


def oscillator_strengths(study: Study) -> Judgement | None:
    """Claim 3: f1 against the lowest other task, f2 against the highest other task."""
    names = _names(study)
    if not {"f1", "f2"} <= set(names) or len(names) < 3:
        return None
    first, second = names.index("f1"), names.index("f2")

    errors = [FinalErrors(study, run, "test", names) for run in study.runs]
    others_of = [[i for i in range(len(names)) if i != mine] for mine in (first, second)]
    lowest = tuple(smallest([e.difference(i, first) for i in others_of[0]]) for e in errors)
    highest = tuple(smallest([e.difference(second, i) for i in others_of[1]]) for e in errors)
    return Judgement(
        3,
        STATEMENTS[3],
        study.name,
        (
            Statistic(
                "lowest other final test error minus that of f1",
                lowest,
                0.0,
                above=True,
                within=EPOCHS_AND_SAMPLING,
            ),
            Statistic(
                "final test error of f2 minus the highest other",
                highest,
                0.0,
                above=True,
                within=EPOCHS_AND_SAMPLING,
            ),
        ),
        "Reproduced if both differences are positive.",
        "figure3",
        remark=_other_data(study),
    )


def multi_against_single(study: Study) -> Judgement:
    """Claim 8: multi-task over single-task test error, the geometric mean over tasks.

    Seeds are paired: both sides start from the same shared weights, on the same split. So are test
    examples, where predictions were kept; else their sampling errors count as independent.
    """
    names = _names(study)
    runs = [run for run in study.runs if set(names) <= set(run.single_task)]

    def ratio(run: SeedRun) -> Measured:
        together = error_matrix(run.history, "test", names)
        alone = np.stack(
            [error_curve(run.single_task[name], "test", name)[1] for name in names], axis=1
        )
        length = min(together.shape[0], alone.shape[0])
        measured = at_the_end(
            together[-length:] / alone[-length:], lambda row: float(np.exp(np.log(row).mean()))
        )
        sampling = sampling_of_ratio(study, run, names)
        # Seeds share the test set: its sampling does not average out over them.
        return shared(with_sampling(measured, measured.value * sampling))

    statistics = (
        (
            Statistic(
                "multi-task / single-task final test error, geometric mean over tasks",
                tuple(ratio(run) for run in runs),
                1.0,
                above=True,
                within=EPOCHS_AND_SAMPLING,
                support=(0.0, np.inf),
            ),
        )
        if runs
        else ()
    )
    return Judgement(
        8,
        STATEMENTS[8],
        study.name,
        statistics,
        "Reproduced if the ratio, same seed, split and test examples on both sides, is above 1.",
        "figure8" if runs else "none",
        remark="The paper quotes this from elsewhere and does not measure it.",
        how_to_measure="the same command with --single-task",
    )


def sampling_of_ratio(study: Study, run: SeedRun, names: list[str]) -> float:
    """Relative error that the choice of test examples leaves on the ratio of `run`."""
    if run.predictions is not None and set(names) <= set(run.single_predictions):
        return paired_log_ratio(run.predictions, run.single_predictions, names)[1]
    sizes = _test_sizes(study, run)
    relative = [
        np.hypot(
            *(
                sampling_errors(history, "test", [name], sizes)[0]
                / error_curve(history, "test", name)[1][-1]
                for history in (run.history, run.single_task[name])
            )
        )
        for name in names
    ]
    # Tasks share their examples: the error of the mean over tasks is at most the mean error.
    return float(np.mean(relative))


def above_best(curve: Float[np.ndarray, " epochs"]) -> Bool[np.ndarray, " epochs_but_one"]:
    """Which epochs after the first have an error over `REGRESSION` times the best before them."""
    return curve[1:] > REGRESSION * np.minimum.accumulate(curve)[:-1]


def regressions(curve: Float[np.ndarray, " epochs"]) -> int:
    """How often the error rises over `REGRESSION` times its best; epochs on end count once."""
    above = above_best(curve)
    return int(above[0]) + int((above[1:] & ~above[:-1]).sum())


def share_interval(count: int, trials: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a chance of which `count` of `trials` came true."""
    z2 = float(stats.norm.isf(0.5 * (1.0 - LEVEL))) ** 2
    share = count / trials
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * (share * (1 - share) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    return max(middle - half, 0.0) if count else 0.0, float(middle + half)


def smooth_training(study: Study) -> Judgement:
    """Claim 12: how far the mean training error falls, and how often it rises again.

    A regression is a run of epochs on end above `REGRESSION` times the best error so far: an
    error that rises once and takes ten epochs to come down again has risen once.
    """
    curves = [error_matrix(run.history, "train", _names(study)).mean(axis=1) for run in study.runs]
    enough = all(curve.size > 10 for curve in curves)
    rule = (
        f"Reproduced if the error falls below {FALLEN:g} of the first and regressions begin at "
        f"fewer than {RELATIVELY_SMOOTH:.0%} of the epochs. Epochs on end with an error over "
        f"{REGRESSION:g} times the best so far are one regression. Interval of their share: "
        "Wilson's for the epochs of all seeds together, or Student's over seeds where that reaches "
        "further"
    )
    if study.dataset.domain == "crystals":
        rule += (
            "; there must be at least one, but that so few epochs saw none would not speak against "
            "the claim"
        )
    return Judgement(
        12,
        STATEMENTS[12],
        study.name,
        _smoothness(curves, occasional=study.dataset.domain == "crystals") if enough else (),
        rule + ".",
        "figure3",
        remark=_regressions_in_words(curves) if enough else "",
    )


def _smoothness(curves: Sequence[np.ndarray], *, occasional: bool) -> tuple[Statistic, ...]:
    counts = [regressions(curve) for curve in curves]
    trials = [curve.size - 1 for curve in curves]

    def fallen(curve: np.ndarray) -> Measured:
        return at_the_end(curve[:, None] / curve[0], lambda row: float(row[0]))

    def share(count: int, size: int) -> Measured:
        low, high = share_interval(count, size)
        return Measured(count / size, (high - low) / (2 * stats.norm.isf(0.5 * (1.0 - LEVEL))))

    rate = Statistic(
        "share of epochs at which a regression begins",
        tuple(map(share, counts, trials)),
        RELATIVELY_SMOOTH,
        above=False,
        within=COUNTING,
        support=(0.0, 1.0),
    )
    low, high = share_interval(sum(counts), sum(trials))
    if len(curves) > 1:
        between = float(np.std([value.value for value in rate.values], ddof=1))
        spread = ends(Measured(rate.value, between / len(curves) ** 0.5, len(curves) - 1))
        low, high = min(low, spread[0]), max(high, spread[1])
    statistics = [
        Statistic(
            "final / first training error, mean over tasks",
            tuple(map(fallen, curves)),
            FALLEN,
            above=False,
            within=EPOCHS,
            support=(0.0, np.inf),
        ),
        replace(rate, fixed=(low, high)),
    ]
    if occasional:
        # What was seen has happened; what was not seen may happen in another run.
        statistics.append(
            Statistic(
                "number of regressions in a run",
                tuple(Measured(float(count), 0.0) for count in counts),
                0.0,
                above=True,
                within="exact",
                fixed=(float(np.mean(counts)), high * float(np.mean(trials))),
            )
        )
    return tuple(statistics)


def _regressions_in_words(curves: Sequence[np.ndarray]) -> str:
    """How many regressions there were and how many epochs they took, all seeds together."""
    count = sum(map(regressions, curves))
    epochs = sum(int(above_best(curve).sum()) for curve in curves)
    of_all = sum(curve.size - 1 for curve in curves)
    if not count:
        return f"No regression in {of_all:,} epochs."
    return (
        f"{count:,} regression{'' if count == 1 else 's'} in {of_all:,} epochs, which took "
        f"{epochs:,} of them."
    )
