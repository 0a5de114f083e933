"""Pages of studies of which some methods are drawn again: their rows take the places of the old.

A page says of each method at which revision its rows were drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_DRAWN = re.compile(r"`([^`]+)` at revision ([\w+]+)")


def text_of(page: Path | None) -> str:
    """What stands on a page; nothing where there is none."""
    return page.read_text(encoding="utf-8") if page is not None and page.exists() else ""


def with_others(
    text: str, head: str, rows: Sequence[str], methods: Sequence[str], order: Sequence[str]
) -> str:
    """The table under `head` with new rows of `methods`; those of others as `text` has them.

    The first cell of a row is its method; `order` is that of the methods.
    """
    kept: list[str] = []
    if head in text:
        below = text.split(head, 1)[1].lstrip("\n").split("\n\n", 1)[0]
        kept = [line for line in below.splitlines() if _method(line) not in methods]
    found = sorted([*kept, *rows], key=lambda line: order.index(_method(line)))
    return "\n".join([head, *found])


def _method(line: str) -> str:
    return line.split("|")[1].strip()


def drawn_at(text: str, methods: Iterable[str], commit: str, order: Sequence[str]) -> str:
    """A sentence: which method's rows are of which revision."""
    known = dict(_DRAWN.findall(text)) | dict.fromkeys(methods, commit)
    told = [f"`{method}` at revision {known[method]}" for method in order if method in known]
    return f"Drawn: {', '.join(told)}."
