"""The harness of the benchmarks: turns, verdicts, checks, the pipe to other libraries, the page."""

import importlib
import json
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks import bench_hvp_block, bench_trace_states, bench_trace_tasks, epoch_costs
from benchmarks.__main__ import CLAIMS
from benchmarks.claims import Bar, Check, Result, Scale, as_json, write_result
from benchmarks.peers.fleet import PeerError, start
from benchmarks.problems import TanhNetwork, cache_folder, crystals
from benchmarks.render import ORDER, render
from benchmarks.timing import Compilations, Spread, Task, Timing, interleaved
from hessspec import TraceEstimate


def test_tasks_take_turns_after_one_round_that_does_not_count():
    calls = []
    tasks = {name: Task(lambda name=name: calls.append(name), 2.0) for name in "AB"}
    timings = interleaved(tasks, repeats=3)
    assert calls == ["A", "B"] * 4
    assert all(len(t.seconds) == 3 and t.units == 2.0 for t in timings.values())


def test_a_ratio_is_that_of_medians_with_quartiles_of_the_rounds():
    """A machine that slows down threefold between rounds changes no ratio."""
    drift = np.array([1.0, 3.0, 1.0, 3.0, 9.0])
    ratio = Timing(tuple(2.0 * drift)).over(Timing(tuple(drift)))
    assert (ratio.lower, ratio.median, ratio.upper) == (2.0, 2.0, 2.0)


def test_only_calls_that_compile_are_counted():
    double = jax.jit(lambda x: 2 * x)
    compilations = Compilations()
    double(np.ones(3))
    first = compilations.count
    assert first > 0
    double(np.zeros(3))
    assert compilations.count == first
    double(np.ones(4))
    assert compilations.count > first


def test_an_aim_is_shown_and_leaves_the_verdict_alone():
    bar = Bar("times faster", Spread(12.0, 11.0, 13.0), ">=", 10.0)
    aim = replace(bar, bound=20.0, claimed=False)
    assert Result("fast", (bar, aim)).verdict == "met"
    assert Result("fast", (replace(bar, bound=20.0), aim)).verdict == "falls short"
    assert Result("fast", (bar,), missing="no other library").verdict == "not measured"


def test_wrong_numbers_are_not_timed():
    assert Check("products", 1e-7, 1e-5).require().deviation == 1e-7
    for deviation in (1e-4, float("nan")):
        with pytest.raises(ArithmeticError, match="products: the deviation must be at most"):
            Check("products", deviation, 1e-5).require()


def test_the_tanh_network_is_the_one_of_the_claims():
    assert TanhNetwork().dim == 560_644
    arrays = TanhNetwork((3, 4, 2), 5).arrays()
    assert sum(a.size for n, a in arrays.items() if "_" in n) == TanhNetwork((3, 4, 2), 5).dim


def test_flops_are_those_of_the_compiled_program():
    """Of the matrix products; the compiler also counts the elementwise work, which is little."""
    network = TanhNetwork((64, 96, 96, 8), 256)
    hessian = network.operator()
    many, one = (
        _compiled_flops(hessian, count) for count in (2, 1)
    )  # a loop is counted once, whatever its length
    assert many == pytest.approx(one, rel=0.05)
    expected = network.gradient_flops + network.product_flops
    assert one == pytest.approx(expected, rel=0.15)


def _compiled_flops(hessian, count):
    import equinox as eqx

    arrays, static = eqx.partition(hessian, eqx.is_array)
    block = np.ones((count, hessian.dim), np.float32)
    program = jax.jit(lambda a, b: eqx.combine(a, static).rows(b))
    return program.lower(arrays, block).compile().cost_analysis()["flops"]


def test_a_tiny_benchmark_runs_and_its_file_is_whole(tmp_path):
    scale = Scale(tiny=True, repeats=2)
    result = bench_hvp_block.measure(scale)
    path = write_result(tmp_path, as_json("bench_hvp_block", result, scale, 1.0))
    content = json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]
    assert content["bars"][0]["bound"] == 1.5
    assert content["checks"][0]["deviation"] <= content["checks"][0]["tolerance"]
    assert len(content["timings"]["gradient"]["seconds"]) == 2
    assert content["environment"]["versions"]["jax"]
    with pytest.raises(ValueError, match=r"bench_hvp_block in .* is a tiny trial"):
        render(tmp_path, tmp_path)


def recorded(tmp_path):
    """Two small results as a whole run leaves them."""
    timing = Timing((0.2, 0.1, 0.3))
    fast = Result(
        "It is fast.",
        (
            Bar("times faster", Spread(12.5, 11.0, 13.0), ">=", 10.0, "x"),
            Bar("programs compiled later", Spread(0.0, 0.0, 0.0), "<=", 0.0),
        ),
        sizes={"P": 1234, "layers": [3, 4]},
        checks=(Check("products", 1e-7, 1e-5),),
        timings={"a product: hessspec": timing, "a product: other": Timing((0.4, 0.5, 0.6))},
        figures={"Gflop/s": 12345.6, "by library": {"hessspec": 1.0, "other": "2 | 3"}},
        notes=("A note.",),
    )
    gone = Result("It is small.", missing="needs 12 GiB of free memory")
    for name, result in (("peers.bench_peers_block", fast), ("bench_memory", gone)):
        write_result(tmp_path / "results", as_json(name, result, Scale(), 3.0))
    return tmp_path / "results"


def test_the_page_holds_the_numbers_of_the_files(tmp_path):
    docs = tmp_path / "docs"
    page = render(recorded(tmp_path), docs).read_text()
    assert "| It is fast. | times faster | at least 10 x | 12.5 [11, 13] | met |" in page
    assert "| programs compiled later | at most 0 | 0 | met |" in page
    assert "| It is small. |  |  | needs 12 GiB of free memory | not measured |" in page
    assert "| a product: hessspec | 200 ms | 150 ms to 250 ms | 3 |" in page
    assert "| Gflop/s | 12,346 |" in page
    assert "2 \\| 3" in page
    plots = sorted(path.name for path in (docs / "benchmarks").iterdir())
    assert plots == ["bars.svg", "peers.svg"]
    assert all(f"(benchmarks/{name})" in page for name in plots)


def test_drawing_the_page_again_changes_no_byte(tmp_path):
    results = recorded(tmp_path)
    first, second = (render(results, tmp_path / name).parent for name in ("one", "two"))
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


def test_without_results_the_page_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run `python -m benchmarks` first"):
        render(tmp_path, tmp_path)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_has_a_file_and_a_place_on_the_page(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").measure)
    assert name in ORDER


def test_the_reference_of_a_seed_holds_no_run_of_that_seed():
    estimates = {budget: np.ones((4, 2)) for budget in (8, 16)}
    for values in estimates.values():
        values[1] = 1e6
    np.testing.assert_allclose(bench_trace_tasks.pooled(estimates, without=1), 1.0)
    assert (bench_trace_tasks.pooled(estimates) > 1e5).all()


def test_rms_errors_and_the_runs_to_average_match_what_was_drawn():
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 3.0])
    estimates = {b: 5.0 + spread * rng.normal(size=(2000, 2)) / b**0.5 for b in (4, 16)}
    errors = bench_trace_tasks.rms_errors(estimates, 4)
    np.testing.assert_allclose(errors, spread / 2.0, rtol=0.06)
    target = spread / 8.0
    np.testing.assert_allclose(bench_trace_tasks.share(errors, target), 1 / 16, rtol=0.12)
    np.testing.assert_array_equal(bench_trace_tasks.share(errors, 10 * spread), 1.0)


def estimates_with(errors: list[list[float]]) -> list[TraceEstimate]:
    """Of two tasks, in each estimate with these errors."""
    rows = np.array(errors)[:, :, None] * np.array([-1.0, 1.0])  # error e: samples -e and e
    return [
        TraceEstimate.from_samples(samples, method="auto", dim=9, num_matvecs=2, exact=5.0)
        for samples in rows
    ]


def test_traces_are_compared_by_their_time_times_their_variance():
    """A hundredth of the time at twice the error is 25 times faster, at half of it 400 times."""
    found = bench_trace_states.Found(
        problem=None,
        deviation=500**0.5 * np.array([1.0, 3.0]),
        signs=None,
        estimates=estimates_with([[2.0, 1.5], [2.0, 1.5]]),
        products=Timing((100.0, 90.0, 110.0)),
        traces=Timing((1.0, 1.0)),
    )
    np.testing.assert_allclose(found.target, [1.0, 3.0])
    np.testing.assert_allclose(found.faster, [25.0, 400.0])
    assert found.spread == Spread(*[pytest.approx(25.0)] * 3)
    slower = replace(found, estimates=estimates_with([[2.0, 1.5], [4.0, 1.5]]))
    np.testing.assert_allclose(slower.faster, [10.0, 400.0])


def test_a_mean_of_traces_far_from_plain_samples_is_refused():
    plain = estimates_with([[1.0, 3.0]])[0]
    found = bench_trace_states.Found(
        problem=None,
        deviation=np.array([1.0, 3.0]),
        signs=plain,
        estimates=estimates_with([[1.0, 1.0]] * 2),
        products=Timing((1.0,)),
        traces=Timing((1.0,)),
    )
    assert bench_trace_states.unbiased("here", found).deviation == pytest.approx(0.0)
    off = replace(found, estimates=[replace(e, exact=e.exact + 4.0) for e in found.estimates])
    with pytest.raises(ArithmeticError, match="here: traces by `auto` against Hutchinson's"):
        bench_trace_states.unbiased("here", off)


def test_epochs_are_compared_by_medians_of_times_and_by_mean_squares_of_errors():
    """Half the time at half the error of one task and the same of the other: 8 and 2 times."""

    def measured(seconds, stated, revision):
        calls = [{"seconds": {"trace": s, "density": 10 * s}, "stated": stated} for s in seconds]
        return {"revision": revision, "epochs": {"6": calls}}

    before = measured([4.0, 9.0, 2.0], [1.0, 5.0], "old")
    now = measured([2.0, 1.0, 7.0], [0.5, 5.0], "new")
    head, _, row = epoch_costs.compared(before, now)
    assert "seconds at old, new" in head
    assert row == "| 6 | 4.0, 2.0 | 2.00 (4.00) | 40.0, 20.0 | 2.00 |"


def test_the_folders_of_trained_networks_and_of_crystals_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HESSSPEC_BENCHMARKS", str(tmp_path / "kept"))
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.setenv("HESSSPEC_ENCODED", str(tmp_path))
    assert crystals() is None, "no crystals in an empty folder"


WORKER = """
from benchmarks.peers.worker import serve
def fails():
    raise ValueError("no such thing")
def twice(x):
    print("libraries print")
    return {"value": 2 * x}
serve(lambda arrays: {"twice": twice, "fails": fails}, {"library": str(1.0)})
"""


def test_a_worker_answers_in_turn_and_its_errors_come_as_one_line(tmp_path):
    problem = tmp_path / "problem.npz"
    np.savez(problem, **TanhNetwork((2, 3, 1), 4).arrays())
    worker = start("library", [sys.executable, "-c", WORKER, str(problem)], tmp_path)
    try:
        assert worker.answer() == {"ready": ["fails", "twice"], "versions": {"library": "1.0"}}
        answer = worker.ask(do="twice", x=21)
        assert answer["value"] == 42
        assert answer["seconds"] >= 0
        with pytest.raises(PeerError, match=r"^ValueError: no such thing$"):
            worker.ask(do="fails")
        assert worker.ask(do="twice", x=1)["value"] == 2
    finally:
        worker.close()


def test_a_library_that_cannot_start_says_why(tmp_path):
    worker = start("library", [sys.executable, "-c", "import no_such_library"], tmp_path)
    try:
        with pytest.raises(PeerError, match="No module named 'no_such_library'"):
            worker.answer()
    finally:
        worker.close()


@pytest.mark.any_dtype
def test_the_table_of_many_workers_is_the_one_of_its_measurements(monkeypatch, tmp_path):
    many_workers = pytest.importorskip("benchmarks.many_workers")
    page = many_workers.PAGE.read_text(encoding="utf-8")
    assert many_workers.rendered(page) == page
    monkeypatch.setattr(many_workers, "RESULTS", tmp_path / "many_workers.csv")
    for wall in (600.0, 300.0):  # the second takes the place of the first
        many_workers.keep(many_workers.Measured("quick", 2, wall, 640.0, 2, 0.25))
    many_workers.keep(many_workers.Measured("idle", 8, 6.5, 6.5, 2, 0.0))
    rows = "| idle | 8 | 6.5 s | 6.5 s | 2, 0.0 |\n| quick | 2 | 5.0 min | 10.7 min | 2, 0.2 |\n"
    shown = many_workers.rendered(page)
    assert many_workers.HEAD + rows + "\n" in shown
    assert many_workers.rendered(shown) == shown
