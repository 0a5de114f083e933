"""Compute the embedded data sets again: `python -m hessspec_mtl.datasets.generate all --out DIR`.

A run that was stopped continues where it was when the same command is given again.
"""

import shutil
from pathlib import Path
from typing import Annotated

import tyro

from hessspec_mtl.datasets.computed import EMBEDDED

from .crystals import compute_crystals, write_crystals
from .elasticity import ElasticitySettings
from .excitations import ExcitationSettings
from .molecules import compute_molecules, write_molecules
from .statistics import data_card_tables

Install = Annotated[bool, tyro.conf.arg(help="also replace the files of the package")]


def molecules(
    out: Path,
    processes: int = 1,
    seed: int = 0,
    num_molecules: int = 1000,
    install: Install = False,
) -> None:
    """Small molecules with their two lowest excitations, to OUT/molecules.jsonl.gz.

    About 2 s a molecule on one core.

    Args:
        out: working folder; keeps a log of finished molecules.
        processes: worker processes, one thread each; the results do not depend on it.
        seed: of the draw from the molecules with 5 heavy atoms.
        num_molecules: how many to try; those with at most 4 heavy atoms come first.
    """
    settings = ExcitationSettings()
    records = compute_molecules(
        out, num_molecules=num_molecules, seed=seed, processes=processes, settings=settings
    )
    path = write_molecules(out, records, num_molecules=num_molecules, seed=seed, settings=settings)
    finish(path, install)


def crystals(
    out: Path,
    processes: int = 1,
    install: Install = False,
) -> None:
    """Ordered metals with their elastic moduli, to OUT/crystals.jsonl.gz. Nothing is random here.

    About 0.5 s a crystal on one core.

    Args:
        out: working folder; keeps a log of finished crystals.
        processes: worker processes, one thread each; the results do not depend on it.
    """
    settings = ElasticitySettings()
    records = compute_crystals(out, processes=processes, settings=settings)
    finish(write_crystals(out, records, settings=settings), install)


def everything(out: Path, processes: int = 1, seed: int = 0, install: Install = False) -> None:
    """Both data sets, exactly as they are shipped.

    Args:
        out: working folder; keeps a log of what is finished.
        processes: worker processes, one thread each; the results do not depend on it.
        seed: of the draw from the molecules with 5 heavy atoms.
    """
    crystals(out, processes, install=install)
    molecules(out, processes, seed, install=install)


def statistics() -> None:
    """Print the tables of the data card, computed from the files of the package."""
    print(data_card_tables())


def finish(path: Path, install: bool) -> None:
    """Say where the file is, and put it into the package if that was asked."""
    if install:
        path = Path(shutil.copyfile(path, EMBEDDED / path.name))
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    tyro.extras.subcommand_cli_from_dict(
        {
            "molecules": molecules,
            "crystals": crystals,
            "all": everything,
            "statistics": statistics,
        },
        prog="python -m hessspec_mtl.datasets.generate",
        description=__doc__,
        args=arguments,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
