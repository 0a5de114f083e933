"""What the entries of a diagonal are like, leaf by leaf."""

import jax
import numpy as np
from jaxtyping import PyTree

from hessspec._base.space import leaf_paths
from hessspec._base.tasks import task_labels
from hessspec._pictures.intervals import Estimates

_MIDDLE = (0.05, 0.95)


def layers(value: PyTree, num_tasks: int | None) -> list[Estimates]:
    """For each task the mean of every leaf's entries, and the range of the middle nine tenths."""
    names = list(leaf_paths(value))
    count = 1 if num_tasks is None else num_tasks
    leaves = [np.asarray(leaf, np.float64).reshape(count, -1) for leaf in jax.tree.leaves(value)]
    found = []
    for task, label in enumerate(task_labels(None, num_tasks)):
        means = np.array([leaf[task].mean() for leaf in leaves])
        low, high = np.array([np.quantile(leaf[task], _MIDDLE) for leaf in leaves]).T
        found.append(Estimates(names, means, low, high, label))
    return found
