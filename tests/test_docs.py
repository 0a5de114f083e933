"""The documentation: snippets run as they stand, pages have their figures, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib import pyplot

import hessspec
from docs.gallery.__main__ import first_line, scripts

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GALLERY = [page for page in PAGES if page.parent.name == "gallery" and page.stem != "index"]
# A file of the project as pages and docstrings name it, from the root.
NAMED = re.compile(
    r"(?<![\w/.])(?:tests|hessspec|hessspec_mtl|docs|benchmarks)/[\w./-]+\.(?:py|md)\b"
)
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r'--8<-- "([^"]+)"')
NEEDS = re.compile(r"<!-- needs: ([\w ]+) -->")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def snippets(page: Path) -> list[str]:
    """The Python of a page; scripts that it includes run by `python -m docs.gallery`."""
    found = SNIPPET.findall(page.read_text(encoding="utf-8"))
    return [text for text in found if not INCLUDED.search(text)]


def run(page: Path) -> None:
    names: dict[str, object] = {}
    for snippet in snippets(page):
        exec(compile(snippet, str(page), "exec"), names)


@pytest.mark.filterwarnings("ignore:. is not of type float64")  # GPJax in float32
@pytest.mark.parametrize(
    "page", [p for p in PAGES if snippets(p)], ids=lambda p: str(p.relative_to(DOCS))
)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    for needed in NEEDS.findall(page.read_text(encoding="utf-8")):
        for library in needed.split():
            pytest.importorskip(library)
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    try:
        run(page)
    finally:
        pyplot.close("all")


def test_the_readme_begins_with_the_script_of_its_figure():
    shown = SNIPPET.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert shown == scripts()["first"].read_text(encoding="utf-8")


def test_every_example_has_its_page_figure_words_and_command():
    """`first` is on the first page and in the README."""
    assert {page.stem for page in GALLERY} == set(scripts()) - {"first"}
    assert len(GALLERY) >= 12
    for page in GALLERY:
        text = page.read_text(encoding="utf-8")
        assert f"({page.stem}.png)" in text
        assert f"python -m docs.gallery {page.stem}" in text
        assert INCLUDED.findall(text) == [
            f"docs/gallery/{page.stem}.txt",
            f"docs/gallery/{page.stem}.py",
        ]
        assert first_line(page.with_suffix(".py")).endswith((".", "?"))
        assert page.with_suffix(".png").exists()
        assert page.with_suffix(".txt").read_text(encoding="utf-8").strip()


def test_links_and_figures_of_pages_are_there():
    """`make docs` looks at anchors too; this needs no mkdocs, and looks at the README as well.

    A page that another one includes (the changes) is read from two places, where no one link leads.
    """
    texts = [*PAGES, ROOT / "README.md"]
    links = [(p, to) for p in texts for to in LINK.findall(p.read_text(encoding="utf-8"))]
    for page in PAGES:
        for path in INCLUDED.findall(page.read_text(encoding="utf-8")):
            inner = (ROOT / path).read_text(encoding="utf-8") if path.endswith(".md") else ""
            links += [(page, to) for to in LINK.findall(inner)]
    assert len(links) > 100
    assert not [(p.name, to) for p, to in links if not (p.parent / to).exists()]


def test_included_files_are_there():
    included = [path for page in PAGES for path in INCLUDED.findall(page.read_text("utf-8"))]
    assert included
    assert not [path for path in included if not (ROOT / path).exists()]


def test_every_page_stands_in_the_navigation():
    configuration = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/-]+\.md", configuration))
    pages = {str(page.relative_to(DOCS)) for page in PAGES}
    assert len(pages) >= 30
    assert named == pages


def test_every_public_name_stands_in_the_reference():
    text = "".join(page.read_text("utf-8") for page in (DOCS / "reference").glob("*.md"))
    assert set(re.findall(r"^::: hessspec\.(\w+)$", text, re.MULTILINE)) == set(hessspec.__all__)


def test_files_that_are_named_are_there():
    texts = [*PAGES, ROOT / "README.md", *ROOT.joinpath("hessspec").rglob("*.py")]
    texts += ROOT.joinpath("hessspec_mtl").rglob("*.py")
    named = {(text.name, name) for text in texts for name in NAMED.findall(text.read_text("utf-8"))}
    assert len(named) > 30
    assert not [pair for pair in named if not (ROOT / pair[1]).exists()]


@pytest.mark.slow
def test_the_spectra_among_the_results_are_drawn_from_the_files_that_are_kept(tmp_path):
    command = [sys.executable, "-m", "docs.spectra", str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "E1, epoch 0: Extremes: -206.08" in said
    assert (tmp_path / "spectra.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", scripts())
def test_examples_of_the_gallery_draw_and_say_what_their_pages_show(name, tmp_path):
    """Words are compared without their numbers, which change in the last digits with a machine."""
    command = [sys.executable, "-m", "docs.gallery", name, "--to", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    said, kept = (
        re.sub(r"[-+]?[\d.]+(?:e[-+]?\d+)?|\s+", " ", folder.joinpath(f"{name}.txt").read_text())
        for folder in (tmp_path, DOCS / "gallery")
    )
    assert said.split() == kept.split()
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
