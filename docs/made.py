"""Tables that commands write into pages, between `<!-- made: NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "docs" / "studies"


def with_table(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with the table `name` in its place.

    Raises:
        ValueError: if the page has no place for it.
    """
    inner = r"(?:(?!<!-- made: ).)*?"  # not on into the next table, where an end is lacking
    place = re.compile(rf"(<!-- made: {re.escape(name)} -->\n){inner}(<!-- end -->)", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"the page has no <!-- made: {name} --> with an <!-- end --> below it")
    return place.sub(lambda found: "\n".join([found[1], *lines, "", found[2]]), text)


def write_tables(
    pages: Mapping[str, Sequence[str]], tables: Mapping[str, Callable[[], Sequence[str]]]
) -> None:
    """Write the tables of each page into it."""
    for page, names in pages.items():
        path = ROOT / "docs" / page
        text = path.read_text(encoding="utf-8")
        for name in names:
            text = with_table(text, name, tables[name]())
        path.write_text(text, encoding="utf-8")
