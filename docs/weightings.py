"""What came of the weightings of tasks: `python -m docs.weightings [OUT]` writes tables and figure.

From the rows that `python -m hessspec_mtl.weigh` has left, which are kept in
`docs/studies/weighting`. With the folder of its runs the weights along training are taken from
there first.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from docs.made import ROOT, STUDIES, write_tables
from hessspec_mtl.study.delta_m import Decision, decision_table, decisions, named, verdicts
from hessspec_mtl.study.why import (
    PRIMARY,
    correlations,
    measured_path,
    predictors,
    read_measured,
)

SETS = ("qm8", "mp")
EPOCHS = (1, 6, 16, 40)
SHOWN = (6, 40)  # the epoch of the questions named beforehand, and the last
GIVEN = ("fixed", "random")  # nothing of the tasks decides their weights
PAIR = ["curvature", "lost"]  # that are held against each other
IMAGES = ROOT / "docs" / "images"


def decided(name: str) -> Decision:
    """The finished stage 2 of a set."""
    (found,) = decisions(STUDIES, [name])
    return found


def in_short() -> list[str]:
    """Of both sets, what each role's weighting is against equal weights."""
    lines = ["| | QM8 | | Materials Project | |", "|---|---|---|---|---|"]
    tables = [verdicts(decided(name)).to_dict("records") for name in SETS]
    for both in zip(*tables, strict=True):  # the roles of stage 2, in its order
        if both[0]["weighting"] != "equal":
            cells = (cell for row in both for cell in (named(row), _against_equal(row)))
            lines.append(f"| {both[0]['role']} | " + " | ".join(cells) + " |")
    return lines


def _against_equal(row: dict[Any, Any]) -> str:
    numbers = (row[f"against_{end}"] for end in ("equal", "low_95", "high_95"))
    value, low, high = (f"{number:+.1f}".replace("-", "−") for number in numbers)
    return f"{value} ({low} to {high}): {row['verdict'].split(',')[0]}"


def delta_m(name: str) -> list[str]:
    """Differences from equal weights, with their verdicts."""
    return decision_table(decided(name)).to_markdown().rstrip("\n").splitlines()


def why(name: str) -> list[str]:
    """Correlations of curvature along training with what a task lost in the end.

    Those named beforehand with their intervals; all others by their value, in bold where the
    interval excludes 0.
    """
    table = correlations(decided(name), read_measured(measured_path(STUDIES, name)))
    lines = [f"- {words}" for words in predictors(table)]
    epochs = sorted(table["epoch"].unique())
    for question, mine in table.groupby("question", sort=False):
        heads = " | ".join(f"epoch {epoch}" for epoch in epochs)
        lines += ["", f"| {question} | {heads} |", "|---|" + "---|" * len(epochs)]
        for quantity, of in mine.groupby("quantity", sort=False):
            cells = (_correlation(row) for row in of.sort_values("epoch").to_dict("records"))
            lines.append(f"| {quantity} | " + " | ".join(cells) + " |")
    return lines


def _correlation(row: dict[str, Any]) -> str:
    value = f"{row['r']:+.2f}".replace("-", "−")
    return f"**{value}**" if row["low"] * row["high"] > 0 else value


def apart(name: str) -> list[str]:
    """Where "beyond what is usual of the task" comes from: seeds of one weighting, or weightings.

    Both numbers less their means over the network's tasks; between seeds, less what is usual of a
    task under its weighting; between weightings, means over seeds less what is usual of the task.
    """
    found, table = decided(name), read_measured(measured_path(STUDIES, name))
    lost = {m.weighting: np.log1p(found.relative(m.weighting) / 100) for m in found.methods}
    keys = zip(table["weighting"], table["seed"], table["task"], strict=True)
    table = table.assign(lost=[lost[weighting].loc[seed, task] for weighting, seed, task in keys])
    rows: dict[str, list[str]] = {}
    for quantity in PRIMARY:
        for _, here in table.groupby("epoch"):
            pair = here.assign(curvature=np.log(here[quantity]))
            network = pair.groupby(["weighting", "seed"])[PAIR].transform("mean")
            pair[PAIR] -= network
            usual = pair.groupby(["weighting", "task"])[PAIR]
            means = usual.mean()
            kinds = {
                "between seeds": pair[PAIR] - usual.transform("mean"),
                "between weightings": means - means.groupby("task").transform("mean"),
            }
            for kind, both in kinds.items():
                r = both["curvature"].corr(both["lost"])
                cells = rows.setdefault(f"{quantity}, {kind}", [])
                cells.append(f"{r:+.2f}".replace("-", "−"))
    heads = " | ".join(f"epoch {epoch}" for epoch in sorted(table["epoch"].unique()))
    lines = [f"| | {heads} |", "|---|" + "---|" * table["epoch"].nunique()]
    return [*lines, *(f"| {head} | " + " | ".join(cells) + " |" for head, cells in rows.items())]


def along(name: str) -> list[str]:
    """The largest eigenvalue (in size) of each task along training, and the least cosine."""
    found, table = decided(name), read_measured(measured_path(STUDIES, name))
    heads = " | ".join(f"λ of {task}" for task in found.tasks)
    lines = [
        f"| | rate | after epoch | {heads} | least cosine with another task |",
        "|---|---|---|" + "---|" * (len(found.tasks) + 1),
    ]
    for method in found.methods:
        mine = table[(table["weighting"] == method.weighting) & table["epoch"].isin(SHOWN)]
        for epoch, here in mine.groupby("epoch"):
            sharp = np.exp(np.log(here.set_index("task")["sharpness"]).groupby(level=0).mean())
            label = " ".join([f"`{method.weighting}`", *(f"{w:.2g}" for w in method.task_weights)])
            head = f"| {label} | {method.learning_rate:g} | {epoch} | "
            cells = (f"{sharp[task]:.3g}" for task in found.tasks)
            cosine = f"{here['conflict'].mean():+.2f}".replace("-", "−")
            lines.append(head + " | ".join((*cells, cosine)) + " |")
    return lines


def weights(name: str) -> list[str]:
    """What the weightings that change did, over seeds."""
    table = pd.read_csv(_weights_path(name))
    tasks = decided(name).tasks
    lines = ["| | after epoch | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    for (weighting, epoch), mine in table.groupby(["weighting", "epoch"], sort=False):
        of = mine.set_index("task")
        cells = (f"{of['weight'][task]:.2f} ×/÷ {of['factor'][task]:.2f}" for task in tasks)
        lines.append(f"| `{weighting}` | {epoch} | " + " | ".join(cells) + " |")
    return lines


def collect(out: Path, name: str) -> bool:
    """Keep the weights after some epochs: geometric means over seeds, and their spread as a factor.

    Of each network as multiples of the geometric mean of its tasks: Adam does not see a factor that
    all of them share. Returns whether there were any.
    """
    rows = []
    for method in decided(name).methods:
        paths = sorted((out / f"weighting-{method.weighting}" / name).glob("seed-*/*/weights.csv"))
        if not paths or method.weighting in GIVEN:
            continue
        tables = [pd.read_csv(path).pivot(index="epoch", columns="task") for path in paths]
        logs = np.log(np.stack([table.loc[list(EPOCHS)]["weight"] for table in tables]))
        logs -= logs.mean(axis=2, keepdims=True)
        for number, epoch in enumerate(EPOCHS):
            for task, one in zip(tables[0]["weight"].columns, logs[:, number].T, strict=True):
                spread = np.exp(one.std(ddof=1))
                rows.append((method.weighting, epoch, task, np.exp(one.mean()), spread, len(one)))
    if rows:
        table = pd.DataFrame(
            rows, columns=["weighting", "epoch", "task", "weight", "factor", "seeds"]
        )
        table.to_csv(_weights_path(name), index=False, float_format="%.6g")
    return bool(rows)


def _weights_path(name: str) -> Path:
    return STUDIES / "weighting" / f"weights_{name}.csv"


def draw(folder: Path) -> None:
    """The figure of both sets."""
    from hessspec_mtl.figures import delta_m_figure
    from hessspec_mtl.figures.style import house_style

    plot = delta_m_figure(decisions(STUDIES, SETS), name="weightings")
    assert plot is not None
    with house_style():
        plot.figure.savefig(folder / f"{plot.name}.png", dpi=110, metadata={"Software": None})


TABLES = {
    f"{kind.__name__}-{name}": partial(kind, name)
    for name in SETS
    for kind in (delta_m, weights, along, why)
} | {"apart-qm8": partial(apart, "qm8"), "in-short": in_short}
PAGES = {
    "weighting.md": tuple(name for name in TABLES if name != "in-short"),
    "results.md": ("in-short",),
}

if __name__ == "__main__":
    for given in sys.argv[1:]:
        if not sum(collect(Path(given), one) for one in SETS):  # each set, whatever the first has
            raise SystemExit(
                f"{given} holds no weights along training; give the `--out` of "
                "`python -m hessspec_mtl.weigh --stage 2`."
            )
    write_tables(PAGES, TABLES)
    draw(IMAGES)
