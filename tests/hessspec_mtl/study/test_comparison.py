"""Tasks alone and together, compared example by example, seed by seed and spectrum by spectrum."""

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hessspec_mtl.curvature.spectra import task_distances
from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.figures.alignment import (
    conflict_table,
    distance_table,
    eigenspace_table,
    overlap_reach,
)
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.report.tasks import findings, pair_table, single_task_results
from hessspec_mtl.study.comparison import (
    holm,
    paired_p_value,
    paired_table,
    single_task_table,
    student_interval,
)
from hessspec_mtl.study.records import error_curve
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import paired_log_ratio, predictions
from hessspec_mtl.training.train import train


def test_the_interval_over_seeds_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(2, 5))
    mean, low, high = student_interval(left - right)
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    np.testing.assert_allclose((low, high), (expected.low, expected.high))
    assert mean == pytest.approx((left - right).mean())
    assert student_interval(np.array([0.3])) == (0.3, -np.inf, np.inf)


def test_p_values_are_those_of_the_paired_t_test_and_corrected_for_their_number():
    values = np.random.default_rng(0).normal(size=5)
    assert paired_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)
    assert paired_p_value(values[:1]) == 1.0
    # 3 x 0.01, 2 x 0.02, 1 x 0.03 made monotone; never above 1.
    np.testing.assert_allclose(holm(np.array([0.02, 0.01, 0.03])), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])


def table_of(errors, task):
    ids = [f"e{i:04d}" for i in range(len(errors))]
    return pd.DataFrame({"id": ids, "task": task, "target": 0.0, "predicted": errors})


def test_the_error_of_a_ratio_is_its_deviation_over_test_sets():
    """Errors that both networks share do not count, because examples are paired."""
    generator = np.random.default_rng(1)
    values, errors, ignoring_pairs = [], [], []
    for _ in range(300):
        hard = generator.gamma(1.0, size=200)
        noise = generator.gamma(4.0, size=(2, 200))
        both = [hard * noise[0], 0.8 * hard * noise[1]]
        value, error = paired_log_ratio(table_of(both[0], "a"), {"a": table_of(both[1], "a")}, "a")
        values.append(value)
        errors.append(error)
        ignoring_pairs.append(np.hypot(*(b.std() / b.mean() / b.size**0.5 for b in both)))
    spread = np.std(values)
    # 300 draws leave 4 % on the deviation.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.15)
    assert np.mean(ignoring_pairs) > 1.3 * spread
    assert np.mean(values) == pytest.approx(-np.log(0.8), abs=4 * spread / 300**0.5 + 0.01)


def test_predictions_are_those_whose_errors_stand_in_the_history(tmp_path):
    dataset = load_molecules(num_examples=40, seed=0)
    encoded = dataset.encode(dataset.split(0))
    network = NetworkConfig(
        encoded.node_features, encoded.edge_features, ("f1", "E1"), num_steps=1, width=2
    )
    history = train(
        TrainConfig(num_epochs=1, batch_size=40), network, encoded, tmp_path, progress=False
    )
    table = predictions(network, encoded, tmp_path, 1)
    assert set(table["id"]) == set(encoded.test.ids)
    for task in network.tasks:
        rows = table[table["task"] == task]
        error = (rows["predicted"] - rows["target"]).abs().mean()
        assert error == pytest.approx(error_curve(history, "test", task)[1][-1], rel=1e-5)
    names = [task.name for task in encoded.tasks]
    column = encoded.test.targets[:, names.index("f1")]
    f1 = table[table["task"] == "f1"].set_index("id")["target"]
    np.testing.assert_array_equal(f1[list(encoded.test.ids)].to_numpy(np.float32), column)
    # Kept, and read back bit for bit.
    pd.testing.assert_frame_equal(predictions(network, encoded, tmp_path, 1), table)


def test_distances_are_what_it_takes_to_move_the_resolved_eigenvalues(records):
    """Outliers at ±1, ..., all simple, and a bulk in the cell about 0 that counts as 0."""
    far = np.array([8.0, 6.0, 4.0, 2.0, -3.0, -5.0])
    diagonals = np.zeros((2, 400))
    diagonals[0, :6], diagonals[1, :6] = far, far + np.array([1.0, 0.0, -0.5, 0.0, 0.0, 0.25])
    diagonals[:, 6:] = 1e-4 * np.random.default_rng(0).uniform(-1, 1, 394)
    found = task_distances(records.density(diagonals))
    np.testing.assert_allclose(found.moved, 1.75 * (1 - np.eye(2)), atol=1e-3)
    # Between 8 and 9, and again elsewhere, one eigenvalue more lies below.
    np.testing.assert_allclose(found.miscounted, 1 - np.eye(2), atol=1e-3)
    assert found.moved_error[0, 1] < 1e-3
    assert found.cell < 2.0


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


def test_the_paired_table_says_which_side_the_interval_leaves(records):
    study = records.study("MP", 3, single_task=True)
    table = paired_table([study]).set_index("task")
    # The made-up histories end at 0.25, 0.35, 0.45 together and at 0.2 alone.
    np.testing.assert_allclose(table["difference"], [0.05, 0.15, 0.25], rtol=0.01)
    np.testing.assert_allclose(table["multi_task_train_mae"], 0.1, rtol=0.02)
    assert (table["p_corrected"] >= table["p_value"]).all()
    shown = single_task_results([study])
    assert shown is not None
    assert {row[-1] for row in shown.rows} == {"alone"}
    assert any("better alone" in text for text in findings([study]))


def test_nothing_is_said_where_nothing_was_compared(records):
    study = records.study("QM8")
    assert single_task_results([study]) is None
    assert pair_table([study]) is None
    assert findings([study]) == []
    assert jax.tree.leaves(conflict_table([study]).to_dict()) == []
