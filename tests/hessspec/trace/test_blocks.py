"""The record of traces of blocks: a mapping that is printed, drawn and kept as one."""

from collections.abc import Mapping

import jax
import numpy as np
import pytest

from hessspec import BlockTraces, TraceEstimate

pytestmark = pytest.mark.any_dtype


def estimate(seed: int, dim: int, shape: tuple[int, ...] = (20,)) -> TraceEstimate:
    samples = np.random.default_rng(seed).normal(5.0, 1.0, shape)
    rounding = np.full(shape[:-1], 0.125)
    return TraceEstimate.from_samples(samples, systematic=rounding, dim=dim, num_matvecs=24)


@pytest.fixture(scope="module")
def traces():
    return BlockTraces((estimate(0, 48), estimate(1, 8)), ("body", "head"))


def test_it_is_read_like_a_dict(traces):
    assert isinstance(traces, Mapping)
    assert list(traces) == list(traces.keys()) == ["body", "head"]
    assert traces["head"] is traces.estimates[1]
    assert dict(traces.items())["body"] is traces.estimates[0]
    assert len(traces) == 2
    assert "head" in traces
    assert traces.get("tail") is None
    with pytest.raises(KeyError, match=r"no block 'heat' \(did you mean 'head'\?\); there are"):
        traces["heat"]


def test_it_has_a_line_for_each_block_and_says_once_how_they_were_made(traces):
    lines = repr(traces).splitlines()
    assert lines[0] == "BlockTraces of 2 blocks, P = 56"
    low, high = (float(end) for end in traces["head"].confidence_interval())
    assert lines[2].split()[0] == "head"
    assert f"95 % [{low:.4g}, {high:.4g}], 8 parameters" in lines[2]
    assert lines[3].split() == ["intervals", "reliable"]
    assert lines[4].endswith("hutchinson: 20 samples, 24 products")


def test_of_several_tasks_each_line_has_them_all():
    tasks = BlockTraces((estimate(0, 48, (3, 20)),), (("layer", 0),))
    lines = repr(tasks).splitlines()
    assert lines[0] == "BlockTraces of 1 block, P = 48, 3 tasks"
    assert lines[1].count("±") == 3


def test_of_many_tasks_a_line_has_the_first_and_how_many_more_there_are():
    line = repr(BlockTraces((estimate(0, 48, (17, 20)),), ("layer",))).splitlines()[1]
    assert line.count("±") == 3
    assert line.count(", ... 14 more]") == 2


def test_as_one_float_it_says_what_to_ask_for(traces):
    said = (
        r"^this BlockTraces holds the traces of 2 blocks and is no single float; choose one with "
        r"`float\(traces\['body'\]\)`, or leave out `by` for the trace of the whole\.$"
    )
    with pytest.raises(TypeError, match=said):
        float(traces)
    tasks = BlockTraces((estimate(0, 48, (3, 20)),), (("layer", 0),))
    with pytest.raises(
        TypeError, match=r"1 block .* `float\(traces\[\('layer', 0\)\]\.task\(t\)\)`"
    ):
        float(tasks)


def test_names_of_blocks_stay_in_their_lines():
    odd = BlockTraces((estimate(0, 48), estimate(1, 8)), ("two\nlines", ""))
    assert [line.split("  ")[1] for line in repr(odd).splitlines()[1:3]] == ["two lines", "''"]


def test_a_page_has_its_table_and_its_picture(traces):
    pytest.importorskip("matplotlib")
    page = traces._repr_html_()
    assert page.count("<tr>") == 4
    assert "src='data:image/png;base64," in page


def test_it_is_drawn_with_the_interval_of_each_block(traces):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    axes = traces.plot(per_parameter=True, level=0.9)
    (bars,) = axes.containers
    ends = np.array(list(bars[2][0].get_segments()))[:, :, 1]
    for drawn, one in zip(ends, traces.values(), strict=True):
        interval = np.array(one.confidence_interval(0.9)) / one.dim
        np.testing.assert_allclose(drawn, interval)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["body", "head"]
    tasks = BlockTraces((estimate(0, 48, (3, 20)), estimate(1, 8, (3, 20))), ("body", "head"))
    several = tasks.plot()
    assert [text.get_text() for text in several.get_legend().get_texts()] == [
        "task 0",
        "task 1",
        "task 2",
    ]
    pyplot.close(axes.figure)
    pyplot.close(several.figure)


def test_what_two_blocks_share_cancels_in_their_difference():
    common = np.random.default_rng(0).normal(0.0, 10.0, 20)
    apart = estimate(1, 8).samples
    first = TraceEstimate.from_samples(common + apart, dim=8, systematic=np.asarray(0.125))
    second = TraceEstimate.from_samples(common, dim=4, systematic=np.asarray(0.25))
    found = BlockTraces((first, second), ("a", "b")).difference("a", "b")
    np.testing.assert_allclose(found.samples, apart, atol=1e-12)
    assert found.standard_error < 0.1 * first.standard_error
    assert found.systematic == 0.375
    assert found.dim == 12
    assert repr(found).startswith("TraceEstimate: tr H - that of 'b' = ")


def test_it_is_a_tree_and_comes_back_from_a_file(traces, tmp_path):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, traces)
    assert doubled["head"].value == 2 * traces["head"].value
    traces.save(tmp_path / "blocks.npz")
    again = BlockTraces.load(tmp_path / "blocks.npz")
    assert again.names == traces.names
    for name in traces:
        np.testing.assert_array_equal(again[name].samples, traces[name].samples)
        assert again[name].dim == traces[name].dim
    by_type = BlockTraces(traces.estimates, (int, str))
    with pytest.raises(TypeError, match=r"named by text or whole numbers, got <class 'int'>"):
        by_type.save(tmp_path / "types.npz")


def test_of_many_blocks_as_many_are_named_as_have_room():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    many = BlockTraces(tuple(estimate(i, 8) for i in range(61)), tuple(range(61)))
    axes = many.plot()
    assert [label.get_text() for label in axes.get_xticklabels()] == list(map(str, range(0, 61, 3)))
    assert axes.get_xlabel() == "one name of 3 is shown"
    pyplot.close(axes.figure)
