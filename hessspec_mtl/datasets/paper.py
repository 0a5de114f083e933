"""What the paper prints of its two data sets, and the same statistics of any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from hessspec_mtl.datasets.base import MultitaskDataset, over_examples
from hessspec_mtl.datasets.sources import OWN_LICENCE

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("mean", "std", "min", "max")

# The paper's printed minima and maxima are the logarithms of integer moduli: log 1 = 0 and
# log 124 = 4.8203 for G, log 14 = 2.6391 and log 233 = 5.4510 for K (its Table 2). In GPa.
BULK_RANGE = (14.0, 233.0)
SHEAR_RANGE = (1.0, 124.0)
POISSON_RANGE = (0.18, 0.50)


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper prints of one data set.

    Attributes:
        name: the data set as the paper calls it.
        number: of the table with the targets' statistics.
        sizes: data points, targets, node features, edge features (its Table 1).
        targets: the digits of each target as printed, by statistic, in the order of its columns.
        labels: what its columns are called.
    """

    name: str
    number: int
    sizes: tuple[int, int, int, int]
    targets: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]


PAPER: Mapping[str, PaperNumbers] = MappingProxyType(
    {
        "crystals": PaperNumbers(
            name="MP",
            number=2,
            sizes=(10_500, 3, 112, 40),
            labels=("log G (log GPa)", "log K (log GPa)", "Poisson ratio"),
            targets=MappingProxyType(
                {
                    "mean": ("3.55068348", "4.3697952", "0.30674381"),
                    "std": ("0.73963662", "0.67564539", "0.06501633"),
                    "min": ("0.0", "2.63905733", "0.18"),
                    "max": ("4.82028157", "5.45103845", "0.5"),
                }
            ),
        ),
        "molecules": PaperNumbers(
            name="QM8",
            number=3,
            sizes=(21_725, 4, 9, 4),
            labels=("E₁ (hartree)", "E₂ (hartree)", "f₁", "f₂"),
            targets=MappingProxyType(
                {
                    "mean": ("0.22010506", "0.24894142", "0.02289806", "0.04326408"),
                    "std": ("0.04382473", "0.0345149", "0.05336499", "0.07312536"),
                    "min": ("0.06956711", "0.10063996", "0.0", "0.0"),
                    "max": ("0.51383669", "0.51384601", "0.61611219", "0.56561272"),
                }
            ),
        ),
    }
)


def target_statistics(dataset: MultitaskDataset) -> pd.DataFrame:
    """Mean, sample standard deviation (ddof = 1), minimum and maximum of each target, raw units.

    Over the examples that have the target.
    """
    import pandas as pd  # late: the options of the command need no tables

    targets = np.asarray(dataset.targets, dtype=np.float64)
    kinds = {"mean": np.mean, "std": partial(np.std, ddof=1), "min": np.min, "max": np.max}
    rows = np.stack([over_examples(kinds[name], targets) for name in STATISTICS])
    return pd.DataFrame(rows, STATISTICS, pd.Index([task.name for task in dataset.tasks]))


def is_papers_dataset(dataset: MultitaskDataset) -> bool:
    """Whether this is one of the paper's two data sets, not the project's own or a user's."""
    return dataset.published is not None


def is_users_dataset(dataset: MultitaskDataset) -> bool:
    """Whether these are data of one's own, of which the paper says nothing."""
    return any(source.licence == OWN_LICENCE for source in dataset.sources)
