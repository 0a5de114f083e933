"""The molecules: which ones, what is computed of each, and which results are kept."""

import dataclasses
import functools
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .enumeration import enumerate_molecules, molecule_queue, written_out
from .excitations import ExcitationSettings, MoleculeFailed, excite
from .release import LICENCE, accounting, write_release
from .worklog import Record, run_jobs

PACKAGES = ("rdkit", "ase", "tblite", "pyscf", "numpy", "scipy")

MIN_ENERGY = 0.05
"""Hartree. Below it the closed-shell reference is a poor one and the result is not kept."""

MIN_GAP = 2e-4
"""Hartree. States that are closer are degenerate by symmetry, broken by the coarse grid and the
finite relaxation alone: f1 and f2 then depend on an arbitrary rotation."""

COLUMNS = {
    "id": "canonical SMILES",
    "smiles": "the same with hydrogens as atoms, in the order of the atoms below",
    "E1": "first singlet excitation energy, hartree",
    "E2": "second singlet excitation energy, hartree",
    "f1": "oscillator strength of the first, no unit",
    "f2": "oscillator strength of the second, no unit",
    "atomic_numbers": "Z of each atom",
    "positions": "relaxed Cartesian coordinates, angstrom",
}


def molecule_record(smiles: str, settings: ExcitationSettings) -> Record:
    """Everything computed of one molecule, or the reason why there is nothing.

    Energies in hartree, positions in angstrom; rounded to what the method's own tolerances
    justify, so that the last bits of another processor do not show.
    """
    try:
        geometry, excitations = excite(smiles, settings)
    except MoleculeFailed as failure:
        return {"failed": str(failure)}
    return {
        "energies": excitations.energies.round(6).tolist(),
        "strengths": (excitations.strengths.round(6) + 0.0).tolist(),
        "atomic_numbers": geometry.atomic_numbers.tolist(),
        "positions": geometry.positions.round(4).tolist(),
    }


def compute_molecules(
    out: Path,
    *,
    num_molecules: int,
    seed: int,
    processes: int,
    settings: ExcitationSettings,
    progress: bool = True,
) -> tuple[Record, ...]:
    """The records of the first `num_molecules` of the queue, kept in `out`/molecules.log.jsonl."""
    return run_jobs(
        functools.partial(molecule_record, settings=settings),
        molecule_queue(num_molecules, seed),
        out / "molecules.log.jsonl",
        {
            "seed": seed,
            "settings": dataclasses.asdict(settings),
            "versions": {package: version(package) for package in PACKAGES},
        },
        processes=processes,
        description="molecules",
        progress=progress,
    )


def verdict(record: Record) -> str:
    """Why a record is not kept; empty if it is."""
    if "failed" in record:
        return record["failed"]
    first, second = record["energies"]
    if first < MIN_ENERGY:
        return f"first excitation below {MIN_ENERGY:g} hartree"
    if second - first < MIN_GAP:
        return f"first two excitations within {MIN_GAP:g} hartree"
    return ""


def molecule_entry(smiles: str, record: Record) -> Record:
    """The shipped form of one record: atoms in the order in which the SMILES names them."""
    explicit, order = written_out(smiles)
    return {
        "id": smiles,
        "smiles": explicit,
        "E1": record["energies"][0],
        "E2": record["energies"][1],
        "f1": record["strengths"][0],
        "f2": record["strengths"][1],
        "atomic_numbers": [record["atomic_numbers"][atom] for atom in order],
        "positions": [record["positions"][atom] for atom in order],
    }


def write_molecules(
    out: Path,
    records: Sequence[Record],
    *,
    num_molecules: int,
    seed: int,
    settings: ExcitationSettings,
) -> Path:
    """Write what is kept of the records to `out`/molecules.jsonl.gz; returns its path."""
    names = molecule_queue(num_molecules, seed)
    verdicts = [verdict(record) for record in records]
    left_out = [(name, why) for name, why in zip(names, verdicts, strict=True) if why]
    entries = [
        molecule_entry(name, record)
        for name, record, why in zip(names, records, verdicts, strict=True)
        if not why
    ]
    metadata: dict[str, Any] = {
        "title": "Small molecules: two lowest singlet excitations",
        "method": "TDA-DFT with density fitting at GFN2-xTB geometries, gas phase, vertical",
        "columns": COLUMNS,
        "command": "python -m hessspec_mtl.datasets.generate molecules "
        f"--num-molecules {num_molecules} --seed {seed}",
        "settings": dataclasses.asdict(settings),
        "versions": {package: version(package) for package in PACKAGES},
        "licence": LICENCE,
        "counts": accounting(len(enumerate_molecules(5)), len(names), left_out, len(entries)),
        "left_out": left_out,
    }
    return write_release(out / "molecules.jsonl.gz", metadata, entries)
