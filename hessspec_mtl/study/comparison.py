"""Each task alone against all tasks together: final test errors, paired seed by seed.

The two networks of a pair start from the same shared weights and see the same examples in the
same order, so that their difference varies less from seed to seed than either error does. Where
targets are missing, the network of one task sees only the examples that have its target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from hessspec._base.later import special
from hessspec_mtl.study.records import Study, error_curve, final_error, final_window, median_error
from hessspec_mtl.training.predictions import paired_log_ratio

CONFIDENCE = 0.95


def student_interval(
    values: Float[np.ndarray, " n"], level: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Mean of independent values and the ends of Student's interval; infinite for one value."""
    mean = float(values.mean())
    if values.size < 2:
        return mean, -np.inf, np.inf
    half = float(-special.stdtrit(values.size - 1, 0.5 * (1 - level)))
    half *= float(values.std(ddof=1)) / values.size**0.5
    return mean, mean - half, mean + half


def paired_p_value(values: Float[np.ndarray, " n"]) -> float:
    """Of Student's test, two-sided, that independent values have the mean 0; 1 for one value."""
    if values.size < 2:
        return 1.0
    error = float(values.std(ddof=1)) / values.size**0.5
    if error == 0:
        return 1.0 if values.mean() == 0 else 0.0
    return float(2 * special.stdtr(values.size - 1, -abs(float(values.mean())) / error))


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """P-values corrected for their number (Holm): what is below 0.05 holds at 95 % together."""
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(p_values.size, 0, -1)
    corrected = np.empty(p_values.size)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def single_task_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Final errors of the shared and of the separate networks, by data set, seed and task.

    Errors are means over the last epochs, `*_epoch_sd` the standard deviations over these, and
    that of the difference is of the difference epoch by epoch. Of the test set, except
    `*_train_mae`.
    """
    rows = []
    for study in studies:
        for run in study.runs:
            baseline = median_error(study.dataset, run.split)
            for index, task in enumerate(study.tasks):
                if task.name not in run.single_task:
                    continue
                histories = (run.history, run.single_task[task.name])
                together, alone = (final_error(h, "test", task.name) for h in histories)
                trained = [final_error(h, "train", task.name)[0] for h in histories]
                curves = [error_curve(h, "test", task.name)[1] for h in histories]
                window = min(final_window(curve.size) for curve in curves)
                difference = curves[0][-window:] - curves[1][-window:]
                rows.append(
                    {
                        "dataset": study.name,
                        "seed": run.seed,
                        "task": task.name,
                        "multi_task_mae": together[0],
                        "multi_task_epoch_sd": together[1],
                        "single_task_mae": alone[0],
                        "single_task_epoch_sd": alone[1],
                        "difference": together[0] - alone[0],
                        "difference_epoch_sd": (
                            float(difference.std(ddof=1)) if window > 1 else np.inf
                        ),
                        "multi_task_train_mae": trained[0],
                        "single_task_train_mae": trained[1],
                        "median_predictor_mae": baseline[index],
                    }
                )
    return pd.DataFrame(rows)


def paired_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Multi-task minus single-task test error of each task, with its interval over seeds.

    Columns: dataset, task, label, seeds; multi_task_mae and single_task_mae, means over seeds,
    and *_seed_sd; multi_task_train_mae and single_task_train_mae, the same of the training set;
    difference, low_95 and high_95 (Student's t on the paired differences of the seeds); p_value of
    that test, and p_corrected (Holm, for all rows); sampling_error, the standard error that the
    choice of test examples leaves on the difference (NaN where predictions were not kept; common
    to all seeds, hence not in the interval); median_predictor_mae.
    """
    data = single_task_table(studies)
    rows = []
    for study in studies:
        for task in study.tasks:
            mine = (
                data[(data["dataset"] == study.name) & (data["task"] == task.name)]
                if len(data)
                else data
            )
            if mine.empty:
                continue
            mean, low, high = student_interval(mine["difference"].to_numpy())
            many = len(mine) > 1
            rows.append(
                {
                    "dataset": study.name,
                    "task": task.name,
                    "label": task.label,
                    "seeds": len(mine),
                    "multi_task_mae": mine["multi_task_mae"].mean(),
                    "multi_task_seed_sd": mine["multi_task_mae"].std(ddof=1) if many else np.nan,
                    "single_task_mae": mine["single_task_mae"].mean(),
                    "single_task_seed_sd": mine["single_task_mae"].std(ddof=1) if many else np.nan,
                    "multi_task_train_mae": mine["multi_task_train_mae"].mean(),
                    "single_task_train_mae": mine["single_task_train_mae"].mean(),
                    "difference": mean,
                    "low_95": low,
                    "high_95": high,
                    "p_value": paired_p_value(mine["difference"].to_numpy()),
                    "sampling_error": _sampling_error(study, task.name)
                    * mine["single_task_mae"].mean(),
                    "median_predictor_mae": mine["median_predictor_mae"].mean(),
                }
            )
    table = pd.DataFrame(rows)
    if rows:
        corrected = holm(table["p_value"].to_numpy(float))
        table.insert(list(table.columns).index("p_value") + 1, "p_corrected", corrected)
    return table


def _sampling_error(study: Study, task: str) -> float:
    """Relative error of one task's ratio from the choice of test examples, mean over seeds."""
    errors = [
        paired_log_ratio(run.predictions, run.single_predictions, [task])[1]
        for run in study.runs
        if run.predictions is not None and task in run.single_predictions
    ]
    return float(np.mean(errors)) if errors else float("nan")
