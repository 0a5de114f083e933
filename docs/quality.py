"""How good the network is, beside others: `python -m docs.quality` writes the tables of its pages.

All numbers of ours come from files that commands have left: errors of the median and of forests
(`benchmarks.accuracy_baselines`), of chemprop (`benchmarks.peers.accuracy_chemprop`), of the
network (`docs/studies/network_errors.csv`, from reports; the history of the run on a GPU), and of
other readings and recipes (`hessspec_mtl.readings`). Those of others stand here, as they were
read in the sources that the page names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from docs.made import ROOT, STUDIES, write_tables
from hessspec_mtl.study.readings import read_rows, readings_table, recipes_table

RESULTS = ROOT / "benchmarks" / "results"
PAGES = {
    "results.md": ("qm8", "qm8-published", "crystals"),
    "readings.md": ("readings", "recipes"),
}

LAST_EPOCH = 199  # of 512, which is how far the run on a GPU came
LOG10 = np.log(10.0)
ALL_COLUMNS = 0.0306  # MAE of the median over QM8's 16 columns; results.md has the command

# Model, molecules to train on, split, MAE and its spread, as read in chemprop's README of version 1
# and in fastprop's README and benchmarks/qm8/qm8.yml (which says what the splits are).
PUBLISHED_QM8 = (
    ("the best of MoleculeNet (MPNN)", "17,400", "random, 80/10/10", 0.0143, "± 0.0011"),
    ("chemprop 1, tuned", "17,400", "the same", 0.011, "± 0.000"),
    ("fastprop, descriptors", "not said", "random", 0.013, ""),
    ("chemprop 1, in Uni-Mol's table", "not said", "by scaffolds", 0.019, ""),
    ("Uni-Mol", "not said", "by scaffolds", 0.016, ""),
    ("fastprop, descriptors", "not said", "by scaffolds", 0.016, ""),
)
# MAE of log10 G and log10 K, both in GPa: matbench 0.1, mean of five folds.
PUBLISHED_CRYSTALS = (
    ("mean of the training set", 0.2931, 0.2897),
    ("random forest on composition and structure", 0.1040, 0.0820),
    ("CGCNN", 0.0895, 0.0712),
    ("ALIGNN", 0.0715, 0.0568),
    ("coNGN, the best", 0.0670, 0.0491),
)


@dataclass(frozen=True)
class Row:
    """One model on one split.

    Attributes:
        words: what it is.
        trained: examples to train on, in words.
        errors: test MAE of each task, in standard deviations of the training targets.
        spreads: standard deviations over seeds, where there are several.
    """

    words: str
    trained: str
    errors: Mapping[str, float]
    spreads: Mapping[str, float]

    def cell(self, task: str) -> str:
        """The error of a task, with its spread where there is one."""
        spread = self.spreads.get(task, float("nan"))
        return f"{self.errors[task]:.3f}" + (f" ± {spread:.3f}" if spread == spread else "")


def splits(dataset: str) -> dict[str, tuple[pd.DataFrame, list[Row]]]:
    """By preset: the baselines of its split and all that was run on it."""
    baselines = pd.read_csv(RESULTS / "accuracy_baselines.csv")
    network = pd.read_csv(STUDIES / "network_errors.csv")
    network = network[network["dataset"] == dataset]
    found = {}
    for preset, base in baselines[baselines["dataset"] == dataset].groupby("preset", sort=False):
        base = base.set_index("task")
        trained = f"{base['train'].iloc[0]:,}"
        rows = [
            Row("saying the median", trained, base["median_mae"], {}),
            Row("saying the mean", trained, base["mean_mae"], {}),
            Row(_FORESTS[dataset], trained, base["forest_mae"], {}),
            *_chemprop(str(preset), dataset),
        ]
        for one in (preset, *_SAME_SPLIT.get((str(preset), dataset), ())):
            mine = network[network["preset"] == one].set_index("task")
            if len(mine):
                words = f"**{_NETWORKS[str(one)]}**{_of_seeds(int(mine['seeds'].iloc[0]))}"
                rows.append(Row(words, trained, mine["mae"], mine["mae_seed_sd"]))
        if (preset, dataset) == ("gpu", "QM8"):
            words = f"**the paper's network**, {LAST_EPOCH} of 512 epochs"
            rows.append(Row(words, trained, _on_a_gpu(), {}))
        found[str(preset)] = base, rows
    return dict(sorted(found.items(), key=lambda item: list(_NETWORKS).index(item[0])))


_FORESTS = {
    "QM8": "random forest, Morgan fingerprints",
    "MP": "random forest, composition",
}
_NETWORKS = {"compare": "the reduced network", "small": "the paper's network", "gpu": ""}
_SAME_SPLIT = {("compare", "MP"): ("small",)}  # the same 1,000 crystals, split alike


def _of_seeds(count: int) -> str:
    return f", {count} seeds" if count > 1 else ", one seed"


def _chemprop(preset: str, dataset: str) -> list[Row]:
    """Its runs on the split of a preset, a row for each number of epochs."""
    path = RESULTS / "peers.accuracy_chemprop.csv"
    if dataset != "QM8" or not path.exists():
        return []
    table = pd.read_csv(path)
    rows = []
    for epochs, mine in table[table["preset"] == preset].groupby("epochs"):
        errors = mine.groupby("task")["test_mae"]
        counts = f"{mine['learnt_from'].iloc[0]:,} + {mine['validated_on'].iloc[0]:,}"
        words = f"chemprop 2, {epochs} epochs{_of_seeds(mine['seed'].nunique())}"
        rows.append(Row(words, counts, errors.mean(), errors.std(ddof=1)))
    return rows


def _on_a_gpu() -> pd.Series:
    history = pd.read_csv(RESULTS / "gpu" / "qm8_history.csv")
    last = history[(history["epoch"] == LAST_EPOCH) & (history["split"] == "test")]
    return last.set_index("task")["mae"]


def qm8() -> list[str]:
    """Errors by target, their mean in the targets' units, and what share of the median's it is."""
    lines = ["| | trained on | E1 | E2 | f1 | f2 | mean, raw | of the median's |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for base, rows in splits("QM8").values():
        whole = _raw(base["median_mae"], base)
        for row in rows:
            raw = _raw(row.errors, base)
            cells = [row.cell(task) for task in base.index]
            lines.append(_line(row.words, row.trained, *cells, f"{raw:.4f}", f"{raw / whole:.2f}"))
    return lines


def _raw(errors: Mapping[str, float], base: pd.DataFrame) -> float:
    """Mean over tasks of errors in the targets' units, as published for QM8."""
    return float(np.mean([errors[task] * base["deviation"][task] for task in base.index]))


def qm8_published() -> list[str]:
    """What others report of QM8: MAE over all its columns, and that as a share of the median's."""
    lines = ["| | trained on | split | MAE | of the median's |", "|---|---|---|---|---|"]
    for words, trained, split, error, spread in PUBLISHED_QM8:
        told = f"{error:.4g} {spread}".strip()
        lines.append(_line(words, trained, split, told, f"{error / ALL_COLUMNS:.2f}"))
    return lines


def crystals() -> list[str]:
    """Errors by target, those of the moduli as decimal logarithms too, beside matbench's."""
    lines = ["| | trained on | log G | log K | Poisson ratio | log₁₀ G | log₁₀ K |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for base, rows in splits("MP").values():
        for row in rows:
            decimal = [row.errors[t] * base["deviation"][t] / LOG10 for t in ("log_G", "log_K")]
            cells = [row.cell(task) for task in base.index]
            lines.append(_line(row.words, row.trained, *cells, *(f"{v:.3f}" for v in decimal)))
    for words, shear, bulk in PUBLISHED_CRYSTALS:
        cells = ("matbench: " + words, "8,790", "", "", "", f"{shear:.4f}", f"{bulk:.4f}")
        lines.append(_line(*cells))
    return lines


def recipes() -> list[str]:
    """The table that the command prints, of the rows that are kept here."""
    table = read_rows(STUDIES / "recipes" / "recipes_qm8.csv")
    return recipes_table(table).to_markdown().rstrip("\n").splitlines()


def readings() -> list[str]:
    """Verdicts under other readings of the paper, of the rows that are kept here."""
    folder = STUDIES / "readings"
    found = {name: read_rows(folder / f"readings_{name.lower()}.csv") for name in ("QM8", "MP")}
    tables = {name: rows for name, rows in found.items() if len(rows)}
    return readings_table(tables).to_markdown().rstrip("\n").splitlines()


TABLES = {
    "readings": readings,
    "qm8": qm8,
    "qm8-published": qm8_published,
    "crystals": crystals,
    "recipes": recipes,
}


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    write_tables(PAGES, TABLES)
