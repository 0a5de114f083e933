"""The molecules: which ones, and what is computed of each."""

import dataclasses
import functools
from importlib.metadata import version
from pathlib import Path

from .enumeration import explicit_smiles, molecule_queue
from .excitations import ExcitationSettings, MoleculeFailed, excite
from .worklog import Record, run_jobs

PACKAGES = ("rdkit", "ase", "tblite", "pyscf", "numpy", "scipy")


def molecule_record(smiles: str, settings: ExcitationSettings) -> Record:
    """Everything computed of one molecule, or the reason why there is nothing.

    Energies in hartree, positions in angstrom; rounded to what the method's own tolerances
    justify, so that the last bits of another processor do not show.
    """
    record: Record = {"smiles": smiles, "explicit": explicit_smiles(smiles)}
    try:
        geometry, excitations = excite(smiles, settings)
    except MoleculeFailed as failure:
        return {**record, "failed": str(failure)}
    return {
        **record,
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
    """The records of the first `num_molecules` of the queue, kept in `out`/molecules.jsonl."""
    return run_jobs(
        functools.partial(molecule_record, settings=settings),
        molecule_queue(num_molecules, seed),
        out / "molecules.jsonl",
        {
            "seed": seed,
            "settings": dataclasses.asdict(settings),
            "versions": {package: version(package) for package in PACKAGES},
        },
        processes=processes,
        description="molecules",
        progress=progress,
    )
