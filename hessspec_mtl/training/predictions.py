"""What a trained network says of each test example, kept beside its checkpoints.

Two networks that were trained on the same split are compared example by example: what makes an
example hard is hard for both, so that the difference of their errors is known far better than
either error. `paired_log_ratio` says how well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from hessspec._base.later import Later
from hessspec_mtl.datasets.base import EncodedDataset
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.graphs import balanced_groups, with_any_target
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.config import MATMUL_PRECISIONS
from hessspec_mtl.training.evaluation import EVALUATION_BATCH, evaluation, evaluation_batches
from hessspec_mtl.training.train import load_params, splits_of

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")  # half a second, and only tables need it


def predictions_file(training: str | os.PathLike[str], epoch: int) -> Path:
    """Where `predictions` keeps its table."""
    return Path(training) / f"predictions_{epoch:06d}.csv"


def predictions(
    network: NetworkConfig,
    encoded: EncodedDataset,
    training: str | os.PathLike[str],
    epoch: int,
) -> pd.DataFrame:
    """Targets and predictions of the test split after `epoch` of the run in `training`.

    Columns: id, task, target, predicted, both in standard deviations of the training targets. An
    example has rows for the targets that are known of it. The table is kept in `training` as CSV
    and read from there the next time.

    Cost: one forward pass a test example.
    """
    path = predictions_file(training, epoch)
    if path.exists():
        # Through strings: pandas' own parser of numbers is off by a bit in some versions.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a task may be called "NA"
        return table.astype({"target": float, "predicted": float})
    splits = splits_of(encoded, network)
    graphs, targets = splits["test"]
    names = [task.name for task in encoded.tasks]
    kept = with_any_target(encoded.test.targets[:, [names.index(t) for t in network.tasks]])
    params = jax.tree.map(jnp.asarray, load_params(training, epoch))
    batches = jax.device_put(evaluation_batches(splits, "test"))
    groups = balanced_groups(graphs, EVALUATION_BATCH)
    predicted = np.empty_like(targets)
    # The precision that training has if not told otherwise: so the same program.
    with jax.default_matmul_precision(MATMUL_PRECISIONS["highest"]):
        for batch, members in zip(batches, groups, strict=True):
            found, _ = evaluation(network)(params, batch)
            predicted[members] = np.asarray(found)[: len(members)]
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "id": [encoded.test.ids[i] for i in kept],
                    "task": task,
                    "target": targets[:, t].astype(np.float64),
                    "predicted": predicted[:, t].astype(np.float64),
                }
            )
            for t, task in enumerate(network.tasks)
        ],
        ignore_index=True,
    ).dropna(subset="target", ignore_index=True)
    write_whole(path, table.to_csv(index=False))
    return table


def paired_log_ratio(
    together: pd.DataFrame, alone: Mapping[str, pd.DataFrame], tasks: Sequence[str]
) -> tuple[float, float]:
    """Mean over `tasks` of log(MAE together / MAE alone), and its error from the test examples.

    The standard error by the delta method: with a = |error| and A its mean, the logarithm of a
    ratio of means varies as the mean of a/A - b/B over examples does. Examples are paired between
    the two networks and between tasks. Of N examples, n_t have target t: there a/A - b/B counts
    N/n_t, and nothing elsewhere, so that which examples have the target is part of the choice.
    """
    errors = [
        pd.concat(
            [_absolute_errors(table, task) for task, table in zip(tasks, sides, strict=True)],
            axis=1,
        )
        .sort_index()
        .to_numpy(np.float64)
        for sides in ([together] * len(tasks), [alone[task] for task in tasks])
    ]
    means = [np.nanmean(side, axis=0) for side in errors]
    value = float(np.mean(np.log(means[0] / means[1])))
    terms = errors[0] / means[0][None] - errors[1] / means[1][None]
    present = ~np.isnan(terms)
    share = present.mean(axis=0)
    influence = np.where(present, terms / share[None], 0.0).mean(axis=1)
    return value, float(influence.std(ddof=1) / influence.size**0.5)


def _absolute_errors(table: pd.DataFrame, task: str) -> pd.Series:
    """|error| of the examples that have this target, by id."""
    rows = table[table["task"] == task].set_index("id")
    return (rows["predicted"] - rows["target"]).abs()
