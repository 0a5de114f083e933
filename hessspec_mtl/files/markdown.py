"""Plain text as Markdown, so that a viewer shows what was written and nothing else.

Names come from users and their files: `<of>` would be taken for a tag and vanish, `*` and `_` set
what stands between them in italics, `[N+](=O)` of a SMILES become a link.
"""

import re
from collections.abc import Sequence

# Only where a mark would be read as one: `p < 0.001`, `snake_case` and `A & B` stay legible.
_MARKS = re.compile(
    r"""
      \\ (?=[!-/:-@\[-`{-~]|$)        # a backslash that would hide the mark after it
    | [`*$]                           # code, emphasis, formulas
    | < (?=[a-zA-Z/!?])               # tags, comments, addresses
    | & (?=\#?\w+;)                   # characters by their names
    | (?<![^\W_]) _ | _ (?![^\W_])    # emphasis, which cannot begin or end inside a word
    | \] (?=[(\[:])                   # the text of a link
    | ~ (?=~) | (?<=~) ~              # struck out
    """,
    re.VERBOSE,
)
# What begins a heading, a list or a quotation at the start of a line.
_BEGINNING = re.compile(r"^(\d*)(>|(?:\#{1,6}|-+|=+|\+|[.)])(?=\s|$))")


def inline(text: str) -> str:
    """`text` within a line."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split("\n")))


def paragraph(text: str) -> str:
    """`text` at the start of a line, or of an item of a list."""
    return _BEGINNING.sub(r"\1\\\2", inline(text.strip()))


def table_row(cells: Sequence[str]) -> str:
    """A line of a table with these texts."""
    return "| " + " | ".join(inline(cell).replace("|", "\\|") for cell in cells) + " |"
