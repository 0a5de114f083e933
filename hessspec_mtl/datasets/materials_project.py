"""Elastic moduli and Poisson ratios of crystals of the Materials Project, as in the paper.

The paper's set of October 2020 was never published. Three substitutes are read, in this order of
preference: the API with a user's key (today's database), a file of the 2020 values with structures,
and matbench's two files, which anyone can download. `MultitaskDataset.sources` says which it was.
"""

import math
import os
from collections.abc import Sequence

import numpy as np

from hessspec_mtl.datasets.base import (
    LeftOut,
    MultitaskDataset,
    Task,
    count_reasons,
    subset_indices,
)
from hessspec_mtl.datasets.elastic_records import (
    ElasticRecord,
    Records,
    read_elastic_records,
    read_matbench,
)
from hessspec_mtl.datasets.grouping import equal_names
from hessspec_mtl.datasets.paper import BULK_RANGE, POISSON_RANGE, SHEAR_RANGE
from hessspec_mtl.datasets.sources import (
    MATBENCH_G,
    MATBENCH_K,
    MP_API,
    MP_ELASTIC,
    DataError,
    Source,
    fetch,
    find,
    not_at_hand,
)
from hessspec_mtl.datasets.voronoi import with_voronoi_graphs
from hessspec_mtl.featurize.crystals import MAX_ATOMIC_NUMBER

TASKS = (
    Task("log_G", "log G", "log GPa"),
    Task("log_K", "log K", "log GPa"),
    Task("poisson", "Poisson ratio", "1"),
)

ELEMENTS = tuple(range(1, MAX_ATOMIC_NUMBER + 1))
"""Hydrogen to copernicium: the 112 node features of the paper."""

# Moduli that were stored as log10 come back from it to about 12 digits.
_MODULUS_DECIMALS = 6
# The Materials Project gives Poisson ratios to two decimals; computed ones are compared as such.
_POISSON_DECIMALS = 2

_SNAPSHOT = "2020-07"


def load_materials_project(
    directory: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    api_key: str | None = None,
    num_examples: int | None = None,
    seed: int = 0,
    graphs: bool = True,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> MultitaskDataset:
    """Crystals with log G_VRH, log K_VRH (natural logarithms, GPa) and Poisson ratio.

    Kept are crystals with 14 <= K <= 233, 1 <= G <= 124 and 0.18 <= Poisson <= 0.50, the ranges
    that the paper prints; all others are in `left_out`. The 2020 file gives 9,983 crystals.

    Args:
        directory: folder with `mp_elastic_structures.jsonl.gz`, or with `matbench_log_gvrh.json.gz`
            and `matbench_log_kvrh.json.gz`; None for the one in HESSSPEC_DATA, then the cache.
        download: whether to fetch matbench's files if none of these is at hand.
        api_key: query the Materials Project with this key instead (package `mp-api`).
        num_examples: keep this many crystals: `subset(num_examples, seed)` of the whole, chosen
            before the graphs are made.
        seed: of that choice.
        graphs: False leaves the graphs out, for statistics of the targets in a few seconds.
        num_workers: processes that make graphs; None for one a core.
        progress: whether to show progress bars; None for "if standard error is a terminal".

    Raises:
        DataError: if no file can be had, or one is not what it should be.

    Cost: reading takes a few seconds; the graphs 0.1 to 0.2 s of one core a crystal the first time,
    and are then read from the cache (`datasets.voronoi`).
    """
    (records, left_out), sources = _read_source(directory, download, api_key, progress)
    kept, outside = _in_range(records)
    if not kept:
        reasons = count_reasons((*left_out, *outside))
        raise DataError(f"no crystal of {sources[0].file_name} can be used: {reasons}.")
    dataset = MultitaskDataset(
        name="MP",
        domain="crystals",
        ids=tuple(record.id for record in kept),
        structures=tuple(record.crystal for record in kept),
        graphs=(),
        targets=np.array(
            [(math.log(r.shear_modulus), math.log(r.bulk_modulus), r.poisson_ratio) for r in kept]
        ),
        tasks=TASKS,
        groups=equal_names([record.crystal.key for record in kept]),
        elements=ELEMENTS,
        left_out=(*left_out, *outside),
        sources=sources,
        published="Materials Project",
    )
    if num_examples is not None:
        dataset = dataset.take(subset_indices(len(dataset), num_examples, seed))
    if not graphs:
        return dataset
    return with_voronoi_graphs(dataset, num_workers=num_workers, progress=progress)


def _in_range(records: Sequence[ElasticRecord]) -> Records:
    """Records within the paper's ranges, and the others with the first range they miss."""
    kept: list[ElasticRecord] = []
    outside: list[LeftOut] = []
    for record in records:
        ranges = (
            ("K_VRH", record.bulk_modulus, BULK_RANGE, _MODULUS_DECIMALS, " GPa"),
            ("G_VRH", record.shear_modulus, SHEAR_RANGE, _MODULUS_DECIMALS, " GPa"),
            ("Poisson ratio", record.poisson_ratio, POISSON_RANGE, _POISSON_DECIMALS, ""),
        )
        for name, value, (lowest, highest), decimals, unit in ranges:
            if not lowest <= round(value, decimals) <= highest:
                reason = f"{name} outside {lowest:g} to {highest:g}{unit}"
                outside.append(LeftOut(record.id, reason, f"{name} = {value:g}{unit}"))
                break
        else:
            kept.append(record)
    return kept, outside


def _read_source(
    directory: str | os.PathLike[str] | None,
    download: bool,
    api_key: str | None,
    progress: bool | None,
) -> tuple[Records, tuple[Source, ...]]:
    """Everything that the first source at hand holds."""
    if api_key is not None:
        # mp-api is optional, and slow to import.
        from hessspec_mtl.datasets.materials_project_api import query_elasticity

        return read_elastic_records(query_elasticity(api_key, progress=progress)), (MP_API,)
    path = find(MP_ELASTIC, directory)
    if path is not None:
        return read_elastic_records(path, snapshot=_SNAPSHOT), (MP_ELASTIC,)
    shear, bulk = find(MATBENCH_G, directory), find(MATBENCH_K, directory)
    if (shear is None or bulk is None) and not download:
        hint = " With an account there, `api_key` (--api-key) asks the Materials Project itself."
        raise not_at_hand([MP_ELASTIC, MATBENCH_G, MATBENCH_K], directory, hint)
    return read_matbench(shear or fetch(MATBENCH_G), bulk or fetch(MATBENCH_K)), (
        MATBENCH_G,
        MATBENCH_K,
    )
