"""Other readings of the paper, and other recipes: `python -m hessspec_mtl.readings`.

`docs/readings.md` says what is asked and was fixed before it was run.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before NumPy is imported: with other numbers of threads sums end in other digits.
    from hessspec_mtl.files.threads import keep_to_one_thread

    keep_to_one_thread()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hessspec_mtl.network.ways import full_precision
from hessspec_mtl.study.loading import named
from hessspec_mtl.study.options import command_line, ended
from hessspec_mtl.study.presets import PRESETS
from hessspec_mtl.study.readings import (
    READINGS,
    RECIPES,
    missing,
    read_rows,
    readings_table,
    recipes_table,
    run_readings,
    run_recipes,
)
from hessspec_mtl.study.tables import write_table

SETS: tuple[Literal["qm8", "mp"], ...] = ("qm8", "mp")


@dataclass(frozen=True)
class Options:
    """Judge claims under other readings of the paper, or compare errors of other recipes.

    Attributes:
        what: "readings" judges claims 4 to 7 and 11 on a data set; "recipes" asks why QM8's
            oscillator strengths are hardly predicted better than by their median.
        dataset: of the readings: qm8 or mp. Recipes are of qm8.
        seeds: training runs of each; five are the fewest by whose spread claims are decided.
        data_dir: folder with the data; by default the variable HESSSPEC_DATA, then a cache.
        encoded_dir: folder with encoded data sets, which are read at once.
        out: folder of all runs; rows go to `readings/` or `recipes/` in it.
        most: stop after so many variants, to go on another time.
        progress: progress bars; by default shown in a terminal only.
    """

    what: Literal["readings", "recipes"] = "readings"
    dataset: Literal["qm8", "mp"] = "qm8"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    data_dir: Path | None = None
    encoded_dir: Path | None = None
    out: Path = Path("runs")
    most: int | None = None
    progress: bool | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing and write its table; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = command_line(Options, arguments, "python -m hessspec_mtl.readings")

    def work() -> None:
        with full_precision():
            _readings(options) if options.what == "readings" else _recipes(options)

    return ended(work, "The same command goes on.")


def _readings(options: Options) -> None:
    # Imported late: claims need SciPy's distributions, which take a second.
    from hessspec_mtl.claims import judge

    config = PRESETS["compare"].studies[options.dataset]
    dataset = _load(options, options.dataset, config.num_examples)
    how = {"most": options.most, "progress": options.progress}
    table = run_readings(
        config, dataset, judge, options.out, options.dataset, seeds=options.seeds, **how
    )
    if left := missing(READINGS, table):
        print(f"{len(left)} readings are left; the same command goes on.")
        return
    folder = options.out / "readings"
    found = {name.upper(): read_rows(folder / f"readings_{name}.csv") for name in SETS}
    made = readings_table({name: rows for name, rows in found.items() if len(rows)})
    write_table(made, folder)
    print(made.to_markdown())


def _recipes(options: Options) -> None:
    config = PRESETS["compare"].studies["qm8"]
    load = partial(_load, options, "qm8")
    how = {"most": options.most, "progress": options.progress}
    table = run_recipes(config, load, options.out, "qm8", seeds=options.seeds, **how)
    if left := missing(RECIPES, table):
        print(f"{len(left)} recipes are left; the same command goes on.")
        return
    made = recipes_table(table)
    write_table(made, options.out / "recipes")
    print(made.to_markdown())


def _load(options: Options, name: Literal["qm8", "mp"], num_examples: int | None):
    return named(
        name,
        num_examples,
        data_dir=options.data_dir,
        encoded_dir=options.encoded_dir,
        progress=options.progress,
    )[1]


if __name__ == "__main__":
    raise SystemExit(main())
