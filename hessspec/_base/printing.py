"""Records as a person reads them: a few lines in a terminal, a small table in a notebook.

Only what lies on the host is read. A record whose numbers are not there, inside `jit` or `vmap` or
after a map over its tree, shows the shapes of its fields instead.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_MOST_ROWS = 12
_MOST_DIGITS = 8


@dataclass(frozen=True)
class Facts:
    """What is said of a record: a title, rows of a name and a text, and lines as they stand."""

    title: str
    rows: Sequence[tuple[str, str]] = ()
    lines: Sequence[str] = ()

    def __str__(self) -> str:
        rows = shortened(self.rows)
        width = max((len(name) for name, _ in rows), default=0)
        named = [f"  {name:<{width}}  {text}".rstrip() for name, text in rows]
        return "\n".join([self.title, *named, *(f"  {line}" for line in self.lines)])

    def as_html(self, picture: str = "") -> str:
        """The same as a table, with a picture below if one is given as the source of an image."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in shortened(self.rows)
        )
        image = f"<img alt='{html.escape(self.title)}' src='{picture}'/>" if picture else ""
        below = "" if picture or not self.lines else "\n".join(map(html.escape, self.lines))
        text = f"<pre>{below}</pre>" if below else ""
        return f"<div><b>{html.escape(self.title)}</b><table>{cells}</table>{image}{text}</div>"


class Printed:
    """A record that says in a few lines what it holds.

    Subclasses give `_facts`, or are shown by the shapes of their fields; those with a picture give
    `_draw_small`, which returns a figure of matplotlib.
    """

    def _facts(self) -> Facts | None:
        return None

    def __repr__(self) -> str:
        facts = _facts_at_hand(self)
        return shapes_of(self) if facts is None else str(facts)

    def _repr_html_(self) -> str:
        facts = _facts_at_hand(self)
        if facts is None:
            return f"<pre>{html.escape(shapes_of(self))}</pre>"
        return facts.as_html(_picture(self))


def _facts_at_hand(record: Printed) -> Facts | None:
    """The facts of a record whose numbers are on the host; None if there are none to be read."""
    if not all(map(_is_number, jax.tree.leaves(record))):
        return None
    try:
        return record._facts()
    except Exception:
        # Whoever prints a record wants to see what is wrong with it: its shapes show that.
        return None


def _is_number(leaf: Any) -> bool:
    if isinstance(leaf, Tracer):
        return False
    return isinstance(leaf, np.ndarray | np.generic | jax.Array | bool | int | float)


def shapes_of(record: Any) -> str:
    """A record by the shapes of its fields, whatever they hold."""
    values = ((entry.name, getattr(record, entry.name, None)) for entry in fields(record))
    parts = [f"{name}={_shape(value)}" for name, value in values]
    return f"{type(record).__name__}({', '.join(parts)})"


def _shape(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        traced = " traced" if isinstance(value, Tracer) else ""
        return f"{dtype}{list(shape)}{traced}"
    if isinstance(value, dict | list | tuple):
        return f"a tree of {counted(len(jax.tree.leaves(value)), 'leaf', 'leaves')}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _picture(record: Any) -> str:
    """The record's picture as the source of an image; empty without matplotlib or a picture."""
    draw = getattr(record, "_draw_small", None)
    if draw is None:
        return ""
    try:
        figure = draw()
    except ImportError:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shortened(rows: Sequence[tuple[str, str]], most: int = _MOST_ROWS) -> list[tuple[str, str]]:
    """The rows, those in the middle left out if there are too many."""
    if len(rows) <= most:
        return list(rows)
    head, tail = most - most // 3, most // 3 - 1
    gap = ("...", f"{len(rows) - head - tail} more")
    return [*rows[:head], gap, *rows[len(rows) - tail :]]


def number(value: Any, digits: int = 4) -> str:
    """A number as a person writes it: four digits, whole ones with thousands apart."""
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}"


def with_error(value: Any, error: Any, spec: str = "") -> str:
    """`value ± error`, the error to two digits and the value as far; or both by a format."""
    value, error = float(value), float(error)
    if spec:
        return f"{value:{spec}} ± {error:{spec}}"
    if not np.isfinite(value) or not np.isfinite(error):
        return f"{number(value, 6)} ± {number(error)}"
    if error <= 10.0**-_MOST_DIGITS * abs(value):
        return f"{number(value, _MOST_DIGITS)} ± {f'{error:.1e}' if error else '0'}"
    last = int(np.floor(np.log10(error))) - 1  # the place of the error's second digit
    largest = max(abs(value), error)
    if not 1e-4 <= largest < 1e7:
        power = int(np.floor(np.log10(largest)))
        places = min(max(power - last, 0), 15)
        return f"({value / 10.0**power:.{places}f} ± {error / 10.0**power:.{places}f})e{power:+03d}"
    places = max(-last, 0)
    return f"{round(value, -last):,.{places}f} ± {round(error, -last):,.{places}f}"


def interval(low: Any, high: Any) -> str:
    """An interval, as many digits as its ends need to be told apart."""
    low, high = float(low), float(high)
    gap, size = abs(high - low), max(abs(low), abs(high))
    digits = 4
    if np.isfinite(gap) and gap > 0 and np.isfinite(size):
        digits = int(np.clip(np.ceil(np.log10(size / gap)) + 2, 4, _MOST_DIGITS))
    return f"[{number(low, digits)}, {number(high, digits)}]"


def counted(count: int, noun: str, plural: str = "") -> str:
    """So many of something: `1 sample`, `2,048 samples`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def percent(share: Any) -> str:
    """A share in percent."""
    return f"{100 * float(share):.3g} %"


def listed(texts: Iterable[str], brackets: bool) -> str:
    """One text, or those of several tasks in brackets."""
    joined = ", ".join(texts)
    return f"[{joined}]" if brackets else joined


def task_rows(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """A row for each task."""
    return [(f"{name} {index}", text) for index, text in enumerate(texts)]


def one_number(record: Any, value: Any) -> float:
    """`value` as a Python float.

    Raises:
        TypeError: if it has a task axis, naming the way to one task.
    """
    if np.ndim(value) != 0:
        count = np.shape(value)[0]
        choose = "`float(result.task(t))`" if hasattr(record, "task") else "`result.value[t]`"
        raise TypeError(
            f"this {type(record).__name__} holds {count} numbers, one a task, and is no single "
            f"float; choose one with {choose}."
        )
    return float(value)
