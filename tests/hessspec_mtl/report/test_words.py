"""Numbers, durations and lists in words."""

from hessspec_mtl.report.words import duration, flat_settings, listed
from hessspec_mtl.study.tables import slug


def test_words():
    assert duration(75) == "75 seconds"
    assert duration(600) == "10 minutes"
    assert duration(7200) == "2.0 hours"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert slug("My data, v2") == "my-data-v2"
    assert flat_settings({"a": {"b": 1}, "c": (2, 3)}) == [("a.b", "1"), ("c", "(2, 3)")]
