"""One look for every figure, and how a figure becomes files."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.records import Study

TEXT_WIDTH = 7.1  # inches: the two columns of a journal page
DOTS_PER_INCH = 220

INK = "#1a1a1a"
MUTED = "#6b6b6b"
FAINT = "#d9d9d9"
BAND = 0.22  # opacity of error bands

# Okabe and Ito's palette, which colour-blind readers can tell apart, in an order whose first four
# also differ in lightness; lines and markers repeat the distinction for print without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#000000", "#D55E00", "#56B4E9", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), "--", ":")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 8.5,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.8,
    "ytick.labelsize": 7.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "figure.dpi": DOTS_PER_INCH,
    "savefig.dpi": DOTS_PER_INCH,
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text
    "svg.hashsalt": "hessspec",
}


@dataclass(frozen=True)
class TaskStyle:
    """How one task is drawn, the same in all figures."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[float, ...]]


def task_style(index: int) -> TaskStyle:
    """The colour, marker and line of task number `index`."""
    return TaskStyle(
        COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]
    )


@dataclass(frozen=True)
class Plot:
    """A drawn figure, all numbers that it shows, and the sentence that says what it shows."""

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame


@dataclass(frozen=True)
class PlotFiles:
    """Where a figure was written, and what the report says of it."""

    name: str
    title: str
    caption: str
    png: Path
    pdf: Path
    csv: Path


@contextmanager
def house_style() -> Iterator[None]:
    """The settings in force inside the block; matplotlib's own are restored afterwards."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(height: float, width: float = TEXT_WIDTH) -> Figure:
    """An empty figure of `width` x `height` inches, attached to no window and no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def write_plot(plot: Plot, directory: Path) -> PlotFiles:
    """Write `plot` as vector PDF, PNG and CSV; each file appears whole or not at all."""
    files = PlotFiles(
        plot.name,
        plot.title,
        plot.caption,
        png=directory / f"{plot.name}.png",
        pdf=directory / f"{plot.name}.pdf",
        csv=directory / f"{plot.name}.csv",
    )
    with house_style():
        # Laid out once, instead of anew at each drawing, which takes as long as the drawing.
        plot.figure.draw_without_rendering()
        plot.figure.set_layout_engine("none")
        # Measured once, too: "tight" would draw once more for each file.
        around = plot.figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
        for path in (files.pdf, files.png):
            buffer = io.BytesIO()
            # Without a date the same data give the same bytes.
            metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
            plot.figure.savefig(
                buffer, format=path.suffix[1:], metadata=metadata, bbox_inches=around
            )
            write_whole(path, buffer.getvalue())
    write_whole(files.csv, plot.data.to_csv(index=False, float_format="%.9g"))
    return files


def panel_title(axes: Axes, letter: str, title: str) -> None:
    """Head a panel with its letter and what it shows: (a) title."""
    axes.set_title(f"({letter})  {title}")


def spread_apart(positions: list[float], gap: float) -> list[float]:
    """`positions` moved as little as needed for neighbours to be at least `gap` apart.

    Labels at the ends of lines are placed with it. Groups that touch are centred on the mean of
    what their members asked for, as in isotonic regression by pooling.
    """
    order = sorted(range(len(positions)), key=positions.__getitem__)
    groups: list[tuple[float, list[int]]] = []  # (sum of wishes for the first slot, members)
    for index in order:
        wish, members = positions[index], [index]
        while groups:
            total, previous = groups[-1]
            start = total / len(previous)
            if start + len(previous) * gap <= wish / len(members):
                break
            groups.pop()
            wish = total + wish - len(previous) * gap * len(members)
            members = previous + members
        groups.append((wish, members))
    placed = [0.0] * len(positions)
    for total, members in groups:
        for slot, index in enumerate(members):
            placed[index] = total / len(members) + slot * gap
    return placed


def first_seed_only(studies: Sequence[Study]) -> str:
    """A sentence for captions of figures that show one seed of several; else nothing."""
    several = [study for study in studies if len(study.runs) > 1]
    if not several:
        return ""
    return f" Seed {several[0].runs[0].seed}, the first of {len(several[0].runs)}, is shown."
