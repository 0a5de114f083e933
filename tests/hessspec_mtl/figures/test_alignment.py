"""Tables and reaches behind the pictures of pairs of tasks."""

import numpy as np

from hessspec_mtl.figures.alignment import (
    conflict_table,
    distance_table,
    eigenspace_table,
    overlap_reach,
)
from hessspec_mtl.report.tasks import pair_table
from hessspec_mtl.study.comparison import (
    single_task_table,
)


def test_an_overlap_moves_no_further_than_its_reach():
    """Spaces turned by known angles, small and large."""
    generator = np.random.default_rng(5)
    for turn in (0.01, 0.1, 0.5):
        for _ in range(20):
            k = int(generator.integers(1, 5))
            spaces = [np.linalg.qr(generator.normal(size=(9, k)))[0] for _ in range(2)]
            turned = [np.linalg.qr(q + turn * generator.normal(size=q.shape))[0] for q in spaces]
            sines = [
                np.linalg.norm(new - q @ (q.T @ new)) for q, new in zip(spaces, turned, strict=True)
            ]
            before, after = (float(np.linalg.norm(a.T @ b)) ** 2 / k for a, b in (spaces, turned))
            assert abs(after - before) <= overlap_reach(after, k, *sines) + 1e-12


def test_tables_hold_every_seed_epoch_and_pair(records):
    study = records.study("QM8", 2, single_task=True)
    assert len(single_task_table([study])) == 2 * 4
    assert len(conflict_table([study])) == len(distance_table([study])) == 2 * 4 * 6
    spaces = eigenspace_table([study])
    assert len(spaces) == 2 * 4 * 6 * 5
    assert (spaces["overlap"] >= 1 / spaces["k"] - 1e-9).all()  # all share the first eigenvector
    pairs = pair_table([study])
    assert pairs is not None
    assert len(pairs.rows) == 6
