"""What came of stage 2: Delta_m of each weighting, by seed, with intervals and verdicts in words.

Delta_m of a seed is the mean over tasks of (error - error alone) / error alone, in per cent,
"alone" being the network of that task with the same seed. So the spread of the single-task networks
is in its interval. What decides is its difference from that of equal weights, seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hessspec_mtl.study.comparison import CONFIDENCE, holm, paired_p_value, student_interval
from hessspec_mtl.study.decision import (
    ALONE,
    SEEDS,
    Method,
    decided_path,
    methods,
    read_decided,
    runs,
)
from hessspec_mtl.study.screening import read_screen
from hessspec_mtl.study.tables import Table, slug

MATTERS = 2.0  # per cent of Delta_m: the smallest effect that would matter, named beforehand


@dataclass(frozen=True)
class Decision:
    """The finished stage 2 of one data set.

    Attributes:
        dataset: its name.
        tasks: its tasks, in their order.
        methods: the five weightings, equal weights first.
        table: rows of all runs, as `decision.decide` returns them.
    """

    dataset: str
    tasks: tuple[str, ...]
    methods: tuple[Method, ...]
    table: pd.DataFrame

    def relative(self, weighting: str) -> pd.DataFrame:
        """(error - error alone) / error alone in per cent, a row a seed and a column a task.

        Infinite where the run of the weighting diverged, NaN where that of the task alone did.
        """
        alone = self._errors(ALONE).replace(np.inf, np.nan)
        return 100 * (self._errors(weighting) / alone - 1)

    def delta_m(self, weighting: str) -> pd.Series:
        """Delta_m by seed; infinite where the run diverged, NaN where a task alone did."""
        return self.relative(weighting).mean(axis=1, skipna=False)

    def seconds(self, weighting: str) -> float:
        """Processor seconds of a run, the median over seeds: the first one compiles.

        Of tasks alone, those of all of them.
        """
        mine = self.table[self.table["weighting"] == weighting]
        found = mine.groupby("task")["seconds"].median().agg(self._added(weighting))
        return max(float(found), 0.1)  # the tenth to which they are kept

    def _added(self, weighting: str) -> str:
        return "sum" if weighting == ALONE else "max"  # the rows of one run have its seconds each

    def _errors(self, weighting: str) -> pd.DataFrame:
        mine = self.table[self.table["weighting"] == weighting]
        return mine.pivot(index="seed", columns="task", values="mae")[list(self.tasks)]


def decisions(out: Path, names: Sequence[str]) -> tuple[Decision, ...]:
    """Of the sets called `names`, those whose two stages are complete below `out`."""
    found = []
    for name in names:
        screened = read_screen(out / "weighting" / f"screen_{name}.csv")
        table = read_decided(decided_path(out, name))
        if not len(screened) or not len(table):
            continue
        tasks, chosen = tuple(dict.fromkeys(screened["task"])), methods(screened)
        if not runs(chosen, tasks, table):
            found.append(Decision(name.upper(), tasks, chosen[:-1], table))
    return tuple(found)


def verdicts(decision: Decision) -> pd.DataFrame:
    """A row a weighting, equal weights first, then the task networks' cost as the last.

    Columns: dataset; role, weighting, task_weights, learning_rate; seeds, those of which both runs
    and all networks alone came to an end; diverged, how many runs of its own did not; delta_m with
    low_95 and high_95, Student's over these seeds; against_equal with its low_95 and high_95, of
    the differences by seed; p_value, two-sided, 1 where a run diverged, and p_corrected (Holm, over
    the weightings compared); could_see, whether half the interval's width is below `MATTERS`;
    verdict in words; seconds of a run.
    """
    base = decision.delta_m("equal")
    rows = [_row(decision, method, base) for method in decision.methods]
    table = pd.DataFrame(rows)
    compared = table["weighting"] != "equal"
    table["p_corrected"] = 1.0
    table.loc[compared, "p_corrected"] = holm(table.loc[compared, "p_value"].to_numpy(float))
    half = (table["against_high_95"] - table["against_low_95"]) / 2
    table["could_see"] = compared & (half < MATTERS)
    table["verdict"] = [_verdict(row) for _, row in table.iterrows()]
    return table


def _row(decision: Decision, method: Method, base: pd.Series) -> dict[str, object]:
    values = decision.delta_m(method.weighting)
    ended = np.isfinite(values) & np.isfinite(base)
    diverged = int(np.isinf(values).sum())
    mean, low, high = _interval(values[ended])
    differences = (values - base)[ended]
    against, against_low, against_high = _interval(differences)
    p_value = 1.0 if diverged else paired_p_value(differences.to_numpy())
    return {
        "dataset": decision.dataset,
        "role": method.role,
        "weighting": method.weighting,
        "task_weights": method.weights,
        "learning_rate": method.learning_rate,
        "seeds": int(ended.sum()),
        "diverged": diverged,
        "delta_m": mean,
        "low_95": low,
        "high_95": high,
        "against_equal": against,
        "against_low_95": against_low,
        "against_high_95": against_high,
        "p_value": p_value,
        "seconds": decision.seconds(method.weighting),
    }


def _interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean and Student's interval; unknown without any value."""
    if values.empty:
        return np.nan, -np.inf, np.inf
    return student_interval(values.to_numpy(np.float64))


def _verdict(row: pd.Series) -> str:
    """What the numbers of one weighting say against equal weights."""
    if row["weighting"] == "equal":
        return "what the others are held against"
    if row["diverged"]:
        count = row["diverged"] + row["seeds"]
        return f"not better: {row['diverged']} of {count} runs diverged"
    low, high = row["against_low_95"], row["against_high_95"]
    if row["p_corrected"] < 1 - CONFIDENCE:
        side = "better" if row["against_equal"] < 0 else "worse"
        least = min(abs(low), abs(high)) if low * high > 0 else 0.0
        if least >= MATTERS:
            return f"{side}, by more than {MATTERS:g} %"
        return f"{side}, not surely by {MATTERS:g} %"
    if low > -MATTERS and high < MATTERS:
        return f"no difference of {MATTERS:g} %"
    if row["could_see"]:
        return f"no difference told, one of {MATTERS:g} % not excluded"
    return "undecided"


def decision_table(decision: Decision) -> Table:
    """The verdicts of one set as a table to be written and read."""
    data = verdicts(decision)
    equal = decision.seconds("equal")
    rows = []
    for row in data.to_dict("records"):
        is_equal = row["weighting"] == "equal"
        rows.append(
            (
                named(row),
                row["role"],
                f"{row['learning_rate']:g}",
                _with_ends(row["delta_m"], row["low_95"], row["high_95"]),
                ""
                if is_equal
                else _with_ends(
                    row["against_equal"], row["against_low_95"], row["against_high_95"]
                ),
                "" if is_equal else f"{row['p_corrected']:.2g}",
                row["verdict"],
                f"{row['seconds']:.0f} s ({row['seconds'] / equal:.2f})",
            )
        )
    alone, seconds = len(decision.tasks), decision.seconds(ALONE)
    rows.append(
        (
            "each task alone",
            f"{alone} networks, the reference",
            f"{data['learning_rate'].iloc[0]:g}",
            *("0", "", "", ""),
            f"{seconds:.0f} s ({seconds / equal:.2f})",
        )
    )
    lacking = len(SEEDS) - int(data["seeds"].iloc[0])
    notes = [
        "Δm: mean over tasks of (test error − error alone) / error alone, in per cent, by seed; "
        f"below 0 is better than one network a task. Intervals: Student's, over {len(SEEDS)} "
        "seeds; each for itself. p: of the differences from equal weights, paired by seed, after "
        f"Holm's correction for the {len(data) - 1} comparisons. The smallest difference that "
        f"would matter, named beforehand, is {MATTERS:g} %: “undecided” is an interval too wide to "
        "have seen it. Rates were chosen on validation data. Seconds of one core for a run, the "
        "median over seeds, in brackets as a multiple of equal weights'.",
    ]
    if lacking:
        notes.append(
            f"{lacking} seeds are left out of all rows, since equal weights or a task alone "
            "diverged with them."
        )
    return Table(
        name=f"delta_m_{slug(decision.dataset)}",
        title=f"Weightings of the tasks, {decision.dataset}: Δm in per cent",
        header=(
            "Weighting",
            "why it is here",
            "learning rate",
            "Δm",
            "against equal weights",
            "p, corrected",
            "verdict",
            "time of a run",
        ),
        rows=tuple(rows),
        data=data,
        notes=tuple(notes),
    )


def decision_words(found: Sequence[Decision]) -> list[str]:
    """What the verdicts come to, a sentence or two a set."""
    return [_words(decision) for decision in found]


def _words(decision: Decision) -> str:
    data = verdicts(decision)
    text = (
        f"{decision.dataset}: five weightings of the tasks were trained with {len(SEEDS)} seeds "
        f"each. With equal weights the error is {_change(data.iloc[0])} that of one network a task"
        ". Against equal weights, "
    )
    each = [
        f"{named(row)} is {_signed(row['against_equal'])} % ({_signed(row['against_low_95'])} to "
        f"{_signed(row['against_high_95'])}): {row['verdict']}"
        for row in data.to_dict("records")[1:]
    ]
    return text + "; ".join(each) + "."


def _change(row: pd.Series) -> str:
    size = f"{abs(row['delta_m']):.1f} %"
    if row["low_95"] > 0:
        return f"{size} above"
    if row["high_95"] < 0:
        return f"{size} below"
    return f"not told apart ({_signed(row['low_95'])} to {_signed(row['high_95'])} %) from"


def named(row: Mapping[str, Any]) -> str:
    """A weighting, with its weights if it has any."""
    weights = " ".join(f"{float(weight):.2g}" for weight in row["task_weights"].split())
    return f"{row['weighting']} {weights}".strip()


def _with_ends(value: float, low: float, high: float) -> str:
    if not np.isfinite(low):
        return "unknown" if np.isnan(value) else _signed(value)
    return f"{_signed(value)} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    """To a tenth, with a sign unless that is 0.0."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")
