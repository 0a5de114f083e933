"""Steps on a borrowed device: written after each measurement, resumed, bounded, never mixed up."""

import json
import threading

import jax
import numpy as np
import pytest

from benchmarks.gpu.clock import first_calls, seconds_each
from benchmarks.gpu.decoder import Decoder
from benchmarks.gpu.expected import Program, Row, count_kernels, table
from benchmarks.gpu.precision import _w1
from benchmarks.gpu.step import Measurement, Step, shown

pytestmark = pytest.mark.any_dtype


def content(folder):
    return json.loads((folder / "step.json").read_text())


def counted(calls, name, seconds=0.0):
    def run():
        calls.append(name)
        return {"count": len(calls)}

    return Measurement(name, seconds, run)


def broken():
    raise RuntimeError("out of memory,\n  or so")


def test_a_second_call_measures_only_what_is_missing(tmp_path):
    calls = []
    Step("step", tmp_path, 60, True).take([counted(calls, "a")])
    assert content(tmp_path)["measurements"]["a"]["count"] == 1
    Step("step", tmp_path, 60, True).take([counted(calls, "a"), counted(calls, "b")])
    assert calls == ["a", "b"]
    assert list(content(tmp_path)["measurements"]) == ["a", "b"]


def test_each_measurement_is_in_the_file_before_the_next_one_begins(tmp_path):
    """A call that is cut keeps what it had: here the second measurement reads the file."""
    seen = {}
    look = Measurement("b", 0.0, lambda: seen.update(content(tmp_path)["measurements"]) or {})
    Step("step", tmp_path, 60, True).take([counted([], "a"), look])
    assert list(seen) == ["a"]


def test_what_no_longer_fits_is_left_out_and_said_so_and_what_fits_is_not(tmp_path):
    calls = []
    Step("step", tmp_path, 10, True).take([counted(calls, "long", 1000.0), counted(calls, "short")])
    assert calls == ["short"]
    assert content(tmp_path)["left_out"]["long"].startswith("expected to take 1000 s, ")
    Step("step", tmp_path, 2000, True).take([counted(calls, "long", 1000.0)])
    assert content(tmp_path)["left_out"] == {}
    assert calls == ["short", "long"]


def test_a_failure_is_noted_and_tried_again_by_the_next_call(tmp_path):
    calls = []
    Step("step", tmp_path, 60, True).take([Measurement("a", 0.0, broken), counted(calls, "b")])
    found = content(tmp_path)
    assert found["failed"]["a"]["error"] == "RuntimeError: out of memory, or so"
    assert "in broken" in found["failed"]["a"]["trace"]
    assert list(found["measurements"]) == ["b"]
    Step("step", tmp_path, 60, True).take([counted(calls, "a"), counted(calls, "b")])
    assert content(tmp_path)["failed"] == {}
    assert calls == ["b", "a"]


def test_a_file_of_another_size_or_device_is_not_continued(tmp_path):
    Step("step", tmp_path, 60, True).take([counted([], "a")])
    with pytest.raises(ValueError, match="tiny sizes, this call is on"):
        Step("step", tmp_path, 60, False)
    path = tmp_path / "step.json"
    path.write_text(path.read_text().replace(content(tmp_path)["environment"]["device"], "Abacus"))
    with pytest.raises(ValueError, match="holds measurements of Abacus, tiny sizes"):
        Step("step", tmp_path, 60, True)


def test_times_are_those_of_calls_after_the_first():
    calls = []
    found = seconds_each(lambda: calls.append(0), rounds=3)
    assert len(calls) == 2 + found["rounds"] * found["calls"]
    assert 0 < found["lower_s"] <= found["median_s"] <= found["upper_s"]


def test_first_calls_run_side_by_side_and_each_is_timed():
    both = threading.Barrier(2, timeout=30)  # each waits until the other has begun
    times = first_calls({"a": both.wait, "b": both.wait})
    assert set(times) == {"a", "b"}


def test_figures_are_shown_in_a_line():
    assert shown({"a": 0.123456, "b": [1, True], "c": {"d": "x"}}) == "a 0.1235, b [1, True], c d x"


def test_kernels_are_counted_outside_of_fusions():
    text = """
HloModule jit_f

%fused_computation (a: f32[4]) -> f32[4] {
  %b = f32[4]{0} dot(%a, %a)
}

%body (x: f32[4]) -> f32[4] {
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %z = f32[4]{0} bitcast(%y)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %w = f32[4]{0} while(%x), condition=%cond, body=%body
  %c = f32[4]{0} copy(%w)
}
"""
    assert count_kernels(text) == 2


def test_expected_time_is_that_of_flops_launches_and_compilation():
    row = Row("a", runs=1000, flops=18e9, program=Program(1000, 10.0), compilations=2)
    # 1 ms of flops and 3 ms of launches each, and two compilations of 10 s.
    assert row.seconds(18.0, 3.0) == pytest.approx(1000 * 4e-3 + 20)
    assert "| a | 1,000 | 18 | 1000 | 10 x 2 | 24 |" in table([row], 18.0, 3.0)


def test_the_decoder_is_a_causal_one_of_the_size_that_is_said():
    """Another token leaves the logits of the places before it as they were, and no others."""
    model = Decoder(20, 6, 8, 2, 2, 1)
    params = model.params()
    assert Decoder().dim == 123_849_984
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.dim
    tokens = model.batch()[:, :-1]
    other = tokens.at[0, 3].set((tokens[0, 3] + 1) % 20)
    logits = jax.jit(model.logits)
    before, after = (np.asarray(logits(params, text)) for text in (tokens, other))
    changed = np.any(before != after, axis=(0, 2))
    assert changed.tolist() == [False, False, False, True, True, True]


def test_a_measure_is_as_far_from_another_as_its_mass_must_travel():
    half = (np.array([0.0, 2.0]), np.array([0.5, 0.5]))
    one = (np.array([1.0]), np.array([1.0]))
    assert _w1(half, one) == pytest.approx(1.0)
    assert _w1(half, half) == 0.0
