"""Seconds of finished work, kept beside it."""

import pytest

from hessspec_mtl.files.timing import timed, unit_seconds


def test_the_time_of_a_unit_is_that_of_the_attempt_that_finished(tmp_path):
    with timed(tmp_path, "trace"):
        pass
    first = unit_seconds(tmp_path)["trace"]
    with timed(tmp_path, "density"):
        pass
    with pytest.raises(KeyboardInterrupt), timed(tmp_path, "trace"):
        raise KeyboardInterrupt
    assert unit_seconds(tmp_path)["trace"] == first
    assert unit_seconds(tmp_path).keys() == {"trace", "density"}
    (tmp_path / "seconds.json").write_text('{"trace": 1')
    assert unit_seconds(tmp_path) == {}
