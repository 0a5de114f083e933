"""The crystals: which ones, what is computed of each, and which results are kept."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from .elasticity import CrystalFailed, ElasticitySettings, elastic_crystal, voigt_reuss_hill
from .orderings import enumerate_orderings
from .release import LICENCE, accounting, write_release
from .worklog import Record, run_jobs

PACKAGES = ("ase", "pymatgen", "numpy", "scipy")

COLUMNS = {
    "id": "prototype, then the elements of its sites of kind A, B, C",
    "lattice": "cell vectors as rows, angstrom",
    "atomic_numbers": "Z of each site",
    "fractional": "coordinates of each site in units of the cell vectors",
    "stiffness": "elastic tensor, upper triangle row by row, order xx yy zz yz xz xy, GPa",
    "K_VRH": "bulk modulus, Voigt-Reuss-Hill average, GPa",
    "G_VRH": "shear modulus, Voigt-Reuss-Hill average, GPa",
    "poisson": "Poisson ratio (3 K - 2 G) / (6 K + 2 G), no unit",
}


def crystal_record(name: str, settings: ElasticitySettings) -> Record:
    """Everything computed of one ordering, or the reason why there is nothing.

    Lattice in angstrom; moduli and the upper triangle of the elastic tensor, row by row in Voigt's
    order, in GPa.
    """
    (ordering,) = (each for each in enumerate_orderings() if each.name == name)
    try:
        crystal = elastic_crystal(ordering, settings)
    except CrystalFailed as failure:
        return {"failed": str(failure)}
    moduli = voigt_reuss_hill(crystal.stiffness)
    return {
        "lattice": crystal.atoms.cell.array.round(6).tolist(),
        "atomic_numbers": crystal.atoms.numbers.tolist(),
        "fractional": (crystal.atoms.get_scaled_positions().round(8) % 1.0).tolist(),
        "stiffness": (crystal.stiffness[np.triu_indices(6)].round(3) + 0.0).tolist(),
        "K_VRH": round(moduli.bulk, 3),
        "G_VRH": round(moduli.shear, 3),
        "poisson": round(moduli.poisson, 5),
    }


def compute_crystals(
    out: Path, *, processes: int, settings: ElasticitySettings, progress: bool = True
) -> tuple[Record, ...]:
    """The records of all orderings, kept in `out`/crystals.log.jsonl."""
    return run_jobs(
        functools.partial(crystal_record, settings=settings),
        [ordering.name for ordering in enumerate_orderings()],
        out / "crystals.log.jsonl",
        {
            "settings": dataclasses.asdict(settings),
            "versions": {package: version(package) for package in PACKAGES},
        },
        processes=processes,
        description="crystals",
        progress=progress,
    )


def copies(entries: Mapping[str, Record]) -> dict[str, str]:
    """Crystals that relaxed to the same structure as an earlier one: copy -> original.

    Orderings can relax into one another (along the Bain path, say). Two crystals of one composition
    are the same if pymatgen's StructureMatcher, at its default tolerances, maps one on the other.
    """
    matcher = StructureMatcher()
    originals: defaultdict[str, list[tuple[str, Structure]]] = defaultdict(list)
    found = {}
    for name, entry in entries.items():
        structure = Structure(entry["lattice"], entry["atomic_numbers"], entry["fractional"])
        same = originals[structure.composition.reduced_formula]
        twin = next((other for other, each in same if matcher.fit(structure, each)), None)
        if twin is None:
            same.append((name, structure))
        else:
            found[name] = twin
    return found


def write_crystals(out: Path, records: Sequence[Record], *, settings: ElasticitySettings) -> Path:
    """Write what is kept of the records to `out`/crystals.jsonl.gz; returns its path."""
    names = [ordering.name for ordering in enumerate_orderings()]
    by_name = dict(zip(names, records, strict=True))
    stable = {name: record for name, record in by_name.items() if "failed" not in record}
    twins = copies(stable)
    left_out = [
        (name, record.get("failed") or "relaxed to the same structure as another ordering")
        for name, record in by_name.items()
        if name not in stable or name in twins
    ]
    entries = [{"id": name, **record} for name, record in stable.items() if name not in twins]
    metadata: dict[str, Any] = {
        "title": "Ordered metals: elastic moduli",
        "method": "effective-medium theory (ASE), relaxed cell and atoms, relaxed-ion elastic "
        "tensor by central differences, 0 K",
        "columns": COLUMNS,
        "command": "python -m hessspec_mtl.datasets.generate crystals",
        "settings": dataclasses.asdict(settings),
        "versions": {package: version(package) for package in PACKAGES},
        "licence": LICENCE,
        "counts": accounting(len(names), len(names), left_out, len(entries)),
        "left_out": left_out,
        "same_structure": twins,
    }
    return write_release(out / "crystals.jsonl.gz", metadata, entries)
