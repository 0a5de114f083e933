"""What a network for all tasks is beside one for each: `python -m docs.compared [RUN ...]`.

Writes the tables of the page of results from what `--preset compare` has left. With folders of
such runs it first keeps what they say in `docs/studies/compare`, and the network's errors where
`docs.quality` looks for them.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from docs.made import STUDIES, write_tables

KEPT = STUDIES / "compare"
ERRORS = STUDIES / "network_errors.csv"
SETS = ("QM8", "MP")
KINDS = ("multi_task", "single_task")  # as the columns of errors begin
SOURCES = {  # in the folder of a run, and what the copy is called
    "claims.json": "claims",
    "tables/single_against_multi.csv": "single_against_multi",
    "tables/pairs_of_tasks.csv": "pairs_of_tasks",
    "figures/figure4.csv": "traces",
}
FEW = "(with few seeds: "  # statistics that stand beside those that decide
SEEN = re.compile(r"share of runs in which this is above ([\d.]+): (.*)")
NAMES = {
    **{"E1": "QM8, E1", "E2": "QM8, E2", "f1": "QM8, f1", "f2": "QM8, f2"},
    **{"log_G": "MP, log G", "log_K": "MP, log K", "poisson": "MP, Poisson ratio"},
}
CLAIMS = {
    1: "training errors equal, test errors not",
    2: "the Poisson ratio is hardest",
    3: "f1 lowest, f2 highest test error",
    4: "traces differ by orders of magnitude, flip sign",
    5: "most density near 0, rather symmetric",
    6: "rare large outliers come and go, drive the trace",
    7: "densities spread",
    8: "multi-task does worse",
    9: "500 samples suffice",
    10: "Lanczos gives the extremes",
    11: "effective rank far below P",
    12: "training error falls smoothly",
}


def keep(run: Path) -> None:
    """Keep what the tables need of a run of one set.

    Nothing is kept of a run that lacks a file or is another one.

    Raises:
        ValueError: if the folder is not a run of `--preset compare`, of one set, with equal
            weights and with each task alone.
    """
    dataset = _dataset_of(run)
    errors = pd.read_csv(run / "test_errors.csv")
    KEPT.mkdir(exist_ok=True)
    for source, name in SOURCES.items():
        shutil.copyfile(run / source, _kept(name, dataset, Path(source).suffix))
    seeds = pd.read_csv(_kept("single_against_multi", dataset, ".csv"))["seeds"].iloc[0]
    told = pd.read_csv(ERRORS, dtype=str)
    rows = pd.DataFrame(
        {
            **{"preset": "compare", "dataset": dataset, "seeds": seeds, "task": errors["task"]},
            **{name: errors[name].map("{:.3f}".format) for name in ("mae", "mae_seed_sd")},
        }
    )
    others = told[(told["preset"] != "compare") | (told["dataset"] != dataset)]
    table = pd.concat([rows, others]).sort_values(["preset", "dataset"], ascending=[True, False])
    table.to_csv(ERRORS, index=False)


def _dataset_of(run: Path) -> str:
    """The one set of a run of which all is there that is kept."""
    needed = ("config.json", "test_errors.csv", *SOURCES)
    if missing := [name for name in needed if not (run / name).is_file()]:
        raise ValueError(
            f"{run} lacks {', '.join(missing)}; give the folder of a finished report of "
            "`python -m hessspec_mtl.reproduce --preset compare --sets SET`, with each task alone."
        )
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    weightings = {study["train"]["weighting"] for study in config["studies"].values()}
    names = list(config["studies"])
    if config["preset"] != "compare" or weightings != {"equal"} or len(names) != 1:
        raise ValueError(
            f"{run} is of the preset {config['preset']}, of {' and '.join(names)} and of weights "
            f"{' and '.join(sorted(weightings))}; what is kept is of compare, one set and equal."
        )
    return names[0]


def _kept(name: str, dataset: str, suffix: str) -> Path:
    return KEPT / f"{name}_{dataset.lower()}{suffix}"


def alone() -> list[str]:
    """Test errors of both kinds of networks, and their difference by seed."""
    lines = [
        "| | all tasks | alone | difference | its interval over seeds | p, corrected | better |",
        "|---|---|---|---|---|---|---|",
    ]
    for dataset in SETS:
        for row in pd.read_csv(_kept("single_against_multi", dataset, ".csv")).to_dict("records"):
            both = [f"{row[k + '_mae']:.3f} ± {row[k + '_seed_sd']:.3f}" for k in KINDS]
            interval = f"{row['low_95']:+.3f} to {row['high_95']:+.3f}"
            p = row["p_corrected"]
            told = "alone" if row["difference"] > 0 else "together"
            cells = (
                *(NAMES[row["task"]], *both, f"{row['difference']:+.3f}", interval),
                *("< 0.001" if p < 1e-3 else f"{p:.2g}", told if p < 0.05 else "undecided"),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def ledger() -> list[str]:
    """The verdicts of both sets, and the numbers that keep them from "reproduced"."""
    judged: dict[tuple[int, str], list[dict[str, Any]]] = {}  # claim 10 has two judgements
    for one in (judgement for name in SETS for judgement in _judgements(name)):
        judged.setdefault((one["claim"], one["dataset"]), []).append(one)
    lines = ["| claim | QM8 | MP |", "|---|---|---|"]
    for number, words in CLAIMS.items():
        verdicts = ([one["verdict"] for one in judged.get((number, n), ())] for n in SETS)
        cells = ("; ".join(dict.fromkeys(found)) for found in verdicts)
        lines.append(f"| {number} {words} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What speaks against those that are not reproduced, and what leaves others open:",
        "",
    ]
    for (number, name), several in sorted(judged.items(), key=lambda item: item[0][0]):
        if found := "; ".join(words for judgement in several for words in _against(judgement)):
            lines.append(f"- {number}, {name}: {found}.")
    return lines


def _judgements(dataset: str) -> list[dict[str, Any]]:
    return json.loads(_kept("claims", dataset, ".json").read_text(encoding="utf-8"))


def _against(judgement: dict[str, Any]) -> Iterator[str]:
    """The statistics that speak against a claim, or, if none does, those that are open."""
    whole = [s for s in judgement["statistics"] if not s["name"].startswith(FEW)]
    failing = [s for s in whole if s["holds"] is False]
    for one in failing or [s for s in whole if s["holds"] is None]:
        low, high = (_number(end) for end in one["interval_95"])
        if seen := SEEN.fullmatch(one["name"]):
            least, what = seen.groups()
            runs = f"{one['value']:.0%} of the runs, as far as was looked"
            yield f"{what}: above {least} beyond its error in {runs}"
        else:
            rule = f"{'above' if one['claim_is_above'] else 'below'} {one['threshold']:g}"
            yield f"{one['name']}: {_number(one['value'])} ({low} to {high}), asked is {rule}"


def _number(value: float | str) -> str:
    """Three digits; JSON has what is not finite as words."""
    return f"{float(value):.3g}".replace("-", "−").replace("inf", "∞")


TABLES = {"alone": alone, "ledger": ledger}
PAGES = {"results.md": tuple(TABLES)}

if __name__ == "__main__":
    for given in sys.argv[1:]:
        try:
            keep(Path(given))
        except ValueError as error:
            raise SystemExit(str(error)) from None
    write_tables(PAGES, TABLES)
