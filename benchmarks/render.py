"""The page of results and its plots, from the JSON files alone: no number is typed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Content = Mapping[str, Any]

ORDER = (
    "bench_hvp_block",
    "bench_network_hvp",
    "bench_lanczos_mlp",
    "bench_lanczos_network",
    "bench_hutchinson_tasks",
    "bench_trace_tasks",
    "bench_trace_states",
    "bench_first_call",
    "bench_first_verbs",
    "bench_memory",
    "peers.bench_peers_block",
    "peers.bench_peers_slq",
    "peers.bench_peers_hutchinson",
)

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks` from the files in `benchmarks/results/`; no number here was typed
by hand. One claim a file in `benchmarks/`: numbers are checked first, then what is compared is
timed in turn (A, B, C, A, B, C, ...), and medians are compared. Brackets hold the quartiles over
the rounds.

```sh
make benchmarks                       # all claims, then this page; leave the machine alone
python -m benchmarks bench_hvp_block  # one of them
python -m benchmarks.peers.install    # the other libraries, in environments of their own
python -m benchmarks --render         # this page alone
```
"""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order of the page; those of tiny trials are refused."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    tiny = [content["name"] for content in found if content["tiny"]]
    if tiny:
        raise ValueError(
            f"results must come from whole runs, but {', '.join(tiny)} in {folder} is a tiny "
            "trial; run it again without --tiny."
        )
    place = {name: i for i, name in enumerate(ORDER)}
    return sorted(found, key=lambda content: place.get(content["name"], len(ORDER)))


def render(results: Path, docs: Path) -> Path:
    """Write `<docs>/benchmarks.md` and its plots; returns the page.

    Raises:
        ValueError: if there is no result, or one of a tiny trial.
    """
    contents = read_results(results)
    if not contents:
        raise ValueError(f"no results in {results}: run `python -m benchmarks` first")
    plots = draw(contents, docs / "benchmarks")
    page = docs / "benchmarks.md"
    page.write_text(markdown(contents, plots), encoding="utf-8")
    return page


def markdown(contents: Sequence[Content], plots: Sequence[tuple[str, str]]) -> str:
    """The whole page."""
    parts = [INTRODUCTION, _machine(contents), "## Claims\n", _claims(contents)]
    parts += [f"![{title}](benchmarks/{name})\n" for title, name in plots]
    parts += [_section(content) for content in contents]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _machine(contents: Sequence[Content]) -> str:
    """What the results were measured on; a line for each machine or set of versions there was."""
    lines: dict[str, list[str]] = {}
    for content in contents:
        e = content["environment"]
        versions = ", ".join(f"{name} {v}" for name, v in e["versions"].items())
        line = (
            f"{e['device']}, {e['cores']} core{'s' * (e['cores'] > 1)}, "
            f"{e['memory_bytes'] / 2**30:.0f} GiB, {e['system']}; {content['dtype']}, "
            f"matrix-multiplication precision {e['matmul_precision']}; {versions}."
        )
        lines.setdefault(line, []).append(content["name"])
    if len(lines) == 1:
        return f"Measured on {next(iter(lines))}\n"
    return "\n".join(f"- {', '.join(names)}: {line}" for line, names in lines.items()) + "\n"


def _claims(contents: Sequence[Content]) -> str:
    rows = []
    for content in contents:
        bars = content["bars"] or [None]
        for number, bar in enumerate(bars):
            claim = content["claim"] if number == 0 else ""
            if bar is None:
                rows.append((claim, "", "", content["missing"], "not measured"))
                continue
            verdict = "met" if bar["met"] else "falls short"
            if not bar["claimed"]:
                verdict += " (aim)"
            sign = "at most" if bar["relation"] == "<=" else "at least"
            bound = f"{sign} {number_text(bar['bound'])} {bar['unit']}".strip()
            rows.append((claim, bar["what"], bound, spread_text(bar["value"]), verdict))
        if content["bars"] and content["missing"]:
            rows.append(("", content["missing"], "", "", "not measured"))
    return table(("claim", "measured", "bar", "value", "verdict"), rows)


def _section(content: Content) -> str:
    """Everything else that a result holds."""
    lines = [
        f"## {content['name']}\n",
        f"{content['claim']} **{content['verdict'].capitalize()}.**\n",
    ]
    sizes = "; ".join(f"{name}: {value_text(v)}" for name, v in content["sizes"].items())
    module = f"benchmarks.{content['name']}"
    lines.append(
        f"`python -m {module}`, revision {content['environment']['revision']}, "
        f"{content['environment']['date']}. {sizes}. {content['repeats']} "
        f"round{'s' * (content['repeats'] > 1)}, {content['seconds']:.0f} s in all, at most "
        f"{content['peak_resident_bytes'] / 2**30:.2f} GiB resident in the measuring process.\n"
    )
    for check in content["checks"]:
        lines.append(
            f"Checked first: {check['what']}: {number_text(check['deviation'])} (at most "
            f"{number_text(check['tolerance'])}).\n"
        )
    if content["timings"]:
        rows = [
            (
                name,
                seconds_text(t["median"]),
                f"{seconds_text(t['lower'])} to {seconds_text(t['upper'])}",
                str(len(t["seconds"])),
            )
            for name, t in content["timings"].items()
            if not name.startswith("matrix product")
        ]
        lines.append(table(("what", "median", "quartiles", "rounds"), rows))
    plain = {k: v for k, v in content["figures"].items() if not isinstance(v, Mapping)}
    if plain:
        rows = [(name, value_text(value)) for name, value in plain.items()]
        lines.append(table(("figure", "value"), rows))
    nested = {k: v for k, v in content["figures"].items() if isinstance(v, Mapping) and v}
    lines += _nested_tables(nested)
    lines += [note + "\n" for note in content["notes"]]
    return "\n".join(lines)


def _nested_tables(nested: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Figures that have a value for each task or library: one table for those alike."""
    alike: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for name, values in nested.items():
        alike.setdefault(tuple(values), {})[name] = values
    tables = []
    for keys, group in alike.items():
        rows = [(name, *(value_text(v[key]) for key in keys)) for name, v in group.items()]
        tables.append(table(("figure", *keys), rows))
    return tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    cells = [list(head), ["---"] * len(head), *map(list, rows)]
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in safe) + "\n"


def number_text(value: float) -> str:
    """Three digits, with thousands apart and no exponent where none is needed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if 1e-3 <= abs(value) < 1e3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.2g}"


def value_text(value: Any) -> str:
    """A number, a text, or a list or mapping of such in one line."""
    if isinstance(value, int | float):
        return number_text(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value_text(v)}" for name, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return str(value)


def seconds_text(value: float) -> str:
    """A time in its natural unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1e3 else f"{value:,.0f} s"
    return f"{value / 1e-9:.3g} ns"


def spread_text(value: Mapping[str, float]) -> str:
    """A median with its quartiles, where there is more than one round."""
    median = number_text(value["median"])
    if value["lower"] == value["upper"]:
        return median
    return f"{median} [{number_text(value['lower'])}, {number_text(value['upper'])}]"


def draw(contents: Sequence[Content], folder: Path) -> list[tuple[str, str]]:
    """Plots as (title, file name): all bars, and the times beside those of other libraries."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    style = {"svg.hashsalt": "hessspec", "svg.fonttype": "none", "font.size": 9}
    plots = []
    with mpl.rc_context(style):
        for title, name, make in (
            ("Every bar, as a multiple of what is asked", "bars.svg", _draw_bars),
            ("Seconds beside other libraries", "peers.svg", _draw_peers),
            ("Error of the trace against time", "traces.svg", _draw_traces),
        ):
            figure = Figure(layout="constrained")
            if make(figure, contents):
                figure.savefig(folder / name, metadata={"Date": None})
                plots.append((title, name))
    return plots


GOOD, BAD, GREY = "#2a7f62", "#b5483a", "#9a9a9a"


def _draw_bars(figure: Any, contents: Sequence[Content]) -> bool:
    """How well each bar is met: 1 is the bar, to the right is better."""
    rows = []
    for content in contents:
        for bar in content["bars"]:
            if not bar["bound"]:
                continue  # nothing is a multiple of a bar of 0; it stands in the table
            # What is a hundred times better, or next to nothing, stands at the end of the scale.
            floor = bar["bound"] / 100
            spread = [max(bar["value"][key], floor) for key in ("median", "lower", "upper")]
            if bar["relation"] == "<=":
                margins = sorted(bar["bound"] / value for value in spread)
            else:
                margins = sorted(value / bar["bound"] for value in spread)
            name = content["name"].removeprefix("peers.").removeprefix("bench_")
            rows.append((f"{name}: {bar['what']}", margins, bar["met"]))
    if not rows:
        return False
    figure.set_size_inches(8, 0.8 + 0.27 * len(rows))
    axes = figure.add_subplot()
    for place, (_, (low, middle, high), met) in enumerate(rows):
        axes.plot([low, high], [place, place], color=GREY, zorder=1)
        axes.plot(middle, place, "o", color=GOOD if met else BAD, zorder=2)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("times better than the bar")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return True


def _draw_peers(figure: Any, contents: Sequence[Content]) -> bool:
    """A panel for each comparison, a bar for each library."""
    found = [c for c in contents if c["name"].startswith("peers.") and c["timings"]]
    if not found:
        return False
    figure.set_size_inches(8, 2.4)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, content in zip(panels, found, strict=True):
        labels, times = zip(*content["timings"].items(), strict=True)
        names = [label.split(": ")[-1] for label in labels]
        medians = [t["median"] for t in times]
        whiskers = [
            [t["median"] - t["lower"] for t in times],
            [t["upper"] - t["median"] for t in times],
        ]
        colors = [GOOD if name == "hessspec" else GREY for name in names]
        axes.barh(names, medians, xerr=whiskers, color=colors, error_kw={"linewidth": 0.8})
        axes.invert_yaxis()
        axes.set_title(labels[0].split(": ")[0], fontsize=9)
        axes.set_xlabel("seconds")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return True


def _draw_traces(figure: Any, contents: Sequence[Content]) -> bool:
    """Rms error of each task over that of 500 Hutchinson samples, against time."""
    found = next((c for c in contents if c["name"] == "bench_trace_tasks" and c["timings"]), None)
    if found is None:
        return False
    target = found["figures"]["error of 500 Hutchinson samples"]
    base = found["timings"]["4 x 500 jitted products"]["median"]
    figure.set_size_inches(5, 3)
    axes = figure.add_subplot()
    for task in target:
        points = [
            (
                found["timings"][f"trace of 4 tasks, num_matvecs={budget}"]["median"],
                found["figures"][f"rms error, num_matvecs={budget}"][task] / target[task],
            )
            for budget in found["sizes"]["budgets"]
        ]
        axes.plot(*zip(*points, strict=True), "o-", label=f"auto, {task}", markersize=4)
    axes.plot(base, 1.0, "s", color="black", label="4 x 500 jitted products")
    axes.axhline(1.0, color="black", linewidth=0.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("seconds for all 4 tasks")
    axes.set_ylabel("rms error / that of 500 samples")
    axes.legend(fontsize=7, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return True
