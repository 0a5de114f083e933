"""Predictions of single examples, and two networks compared by them."""

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.study.records import error_curve
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.predictions import paired_log_ratio, predictions
from hessspec_mtl.training.train import train


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


def test_ratios_of_tasks_without_common_examples_have_independent_errors():
    """Mean of two logarithms of ratios, each over its own test examples: variances add to 1/4."""
    generator = np.random.default_rng(4)
    both = {"a": generator.normal(size=(2, 40)), "b": generator.normal(size=(2, 15))}
    together, alone, each = [], {}, []
    for task, (shared, separate) in both.items():
        tables = [table_of(errors, task) for errors in (shared, separate)]
        for table in tables:
            table["id"] = task + table["id"]
        together.append(tables[0])
        alone[task] = tables[1]
        each.append(paired_log_ratio(tables[0], {task: tables[1]}, [task]))
    value, error = paired_log_ratio(pd.concat(together), alone, ["a", "b"])
    assert value == pytest.approx(np.mean([single[0] for single in each]))
    # (n - 1)/n of each sample's own variance, and 55/54 of all: what ddof = 1 makes of the counts.
    variance = sum(e**2 * (n - 1) / n for (_, e), n in zip(each, (40, 15), strict=True))
    assert error == pytest.approx((0.25 * variance * 55 / 54) ** 0.5)
