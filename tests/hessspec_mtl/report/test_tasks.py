"""What the report says of tasks alone and together."""

import jax
import numpy as np

from hessspec_mtl.figures.alignment import (
    conflict_table,
)
from hessspec_mtl.report.tasks import findings, pair_table, single_task_results
from hessspec_mtl.study.comparison import (
    paired_table,
)


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
