"""Records of a study, and what is read off them."""

import numpy as np
import pytest

from hessspec_mtl.study.records import median_error


def test_median_error_is_that_of_the_best_constant(records):
    data = records.dataset("MP")
    split = records.study("MP").runs[0].split
    errors = median_error(data, split)
    train, test = data.targets[split.train], data.targets[split.test]
    for t in range(3):
        constant = np.median(train[:, t])
        expected = np.abs(test[:, t] - constant).mean() / train[:, t].std(ddof=1)
        assert errors[t] == pytest.approx(expected)
