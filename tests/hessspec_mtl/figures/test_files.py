"""Figures on disk: the same bytes twice, and no state left behind."""

import sys

import matplotlib as mpl
import numpy as np
import pandas as pd

from hessspec_mtl.figures import (
    trace_figure,
    write_plot,
)


def test_files_are_the_same_twice_and_no_state_is_left(records, tmp_path):
    before, open_before = dict(mpl.rcParams), _open_figures()
    plot = trace_figure([records.study("MP")])
    first = write_plot(plot, tmp_path / "a")
    second = write_plot(trace_figure([records.study("MP")]), tmp_path / "b")
    assert first.pdf.read_bytes() == second.pdf.read_bytes()
    assert first.pdf.read_bytes().startswith(b"%PDF")
    assert first.png.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(first.csv)
    np.testing.assert_allclose(table["trace"], plot.data["trace"], rtol=1e-8)
    assert not list(tmp_path.rglob("*.part"))
    assert dict(mpl.rcParams) == before
    assert _open_figures() == open_before


def _open_figures() -> list[int]:
    """Numbers of the figures that pyplot keeps open, whoever opened them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()
