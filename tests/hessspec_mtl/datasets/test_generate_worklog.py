"""Jobs that can be stopped, continued and spread over processes without changing their results."""

import json

import pytest

from hessspec_mtl.datasets.generate.worklog import read_log, run_jobs

NAMES = ("a", "bb", "ccc")
HEADER = {"settings": {"depth": 1.5}}


def length(name: str) -> dict:
    return {"length": len(name)}


def refuse(name: str) -> dict:
    raise AssertionError(f"{name} was computed again")


def run(log, job=length, header=HEADER, processes=1):
    return run_jobs(
        job, NAMES, log, header, processes=processes, description="jobs", progress=False
    )


@pytest.fixture
def finished(tmp_path):
    """A log as a complete run leaves it, without the cost of starting a process."""
    log = tmp_path / "jobs.jsonl"
    lines = [{"header": HEADER}, *({"name": n, "record": length(n)} for n in NAMES)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return log


def test_records_come_in_the_order_of_the_names_whatever_the_number_of_processes(tmp_path):
    expected = tuple(length(name) for name in NAMES)
    assert run(tmp_path / "one" / "log", processes=1) == expected
    assert run(tmp_path / "two" / "log", processes=2) == expected


def test_what_is_finished_is_not_computed_again(finished):
    assert run(finished, job=refuse) == tuple(length(name) for name in NAMES)


def test_a_line_cut_short_by_an_interruption_is_dropped(finished):
    whole = finished.read_bytes()
    finished.write_bytes(whole[:-7])
    assert set(read_log(finished, HEADER)) == {"a", "bb"}
    assert run(finished) == tuple(length(name) for name in NAMES)
    assert finished.read_bytes() == whole


def test_other_settings_are_not_mixed_with_those_of_the_log(finished):
    with pytest.raises(ValueError, match=r"differ in: settings.*choose an empty folder"):
        run(finished, header={"settings": {"depth": 2.0}})


def test_no_process_is_too_few(tmp_path):
    with pytest.raises(ValueError, match="`processes` must be at least 1, got 0"):
        run(tmp_path / "log", processes=0)
