"""Plain text as Markdown: what a viewer shows is what was written."""

import html

import pytest

from hessspec_mtl.files.markdown import inline, paragraph, table_row

# Names of data sets, targets and molecules, and what a viewer would make of them.
ODD = [
    "Crystals <of> A & B",  # a tag
    "<!-- hidden --> <https://a.b> </p> <?x?>",
    "&copy; and &#65; of A & B",  # characters by their names
    "*gap* of **all** and 2 * 3",
    "_gap_ and __gap__ of snake_case_names, x_",
    "O=[N+](=O)[O-] and [a]: b",  # links
    r"C/C=C\N and F/C=C\[H] and \* and \\",
    "`code` and ``more",
    "~~struck~~ and ~3",
    "![no](picture.png)",
    "# 2, the second",
    "- minus",
    "+ plus",
    "> more",
    ">more",
    "1. first",
    "12) twelfth",
    "===",
    "---",
    "-",
    "-0.5 stays, as #2 and +3",
    "p < 0.001, a <= b, x > y",
]


@pytest.mark.parametrize("text", ODD)
def test_a_viewer_shows_the_text_as_it_was(text):
    viewer = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("strikethrough")
    shown = viewer.render(paragraph(text)).strip()
    assert html.unescape(shown.removeprefix("<p>").removesuffix("</p>")) == text
    inside = viewer.renderInline(f"**{inline(text)}**")
    assert html.unescape(inside) in (f"<strong>{text}</strong>", html.unescape(f"**{text}**"))
    listed = viewer.render(f"- {paragraph(text)}").replace("\n", "")
    assert html.unescape(listed) == f"<ul><li>{text}</li></ul>"


@pytest.mark.parametrize("text", ODD)
def test_a_table_shows_the_text_as_it_was(text):
    viewer = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    page = viewer.render("\n".join([table_row([text, "a|b"]), "| --- | --- |"]))
    cells = [cell.split("</th>")[0] for cell in page.split("<th>")[1:]]
    assert [html.unescape(cell) for cell in cells] == [text, "a|b"]


def test_what_is_no_mark_stays_legible():
    for text in ("snake_case", "p < 0.001", "A & B", "a [0.1, 0.3]", "3 ~ 4", "-0.5", "É–∞ ₂"):
        assert inline(text) == paragraph(text) == text


def test_a_formula_is_no_formula_and_a_line_is_one_line():
    assert inline("ΔE $x$/eV\nof all") == r"ΔE \$x\$/eV of all"
