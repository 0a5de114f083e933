"""The documentation's Python snippets run as they stand, page by page."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.joinpath("docs").glob("*.md"))
# A file of the project as pages and docstrings name it, from the root.
NAMED = re.compile(
    r"(?<![\w/.])(?:tests|hessspec|hessspec_mtl|docs|benchmarks)/[\w./-]+\.(?:py|md)\b"
)
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    snippets = SNIPPET.findall(page.read_text(encoding="utf-8"))
    if not snippets:
        pytest.skip("no Python on this page")
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(page), "exec"), names)


def test_files_that_are_named_are_there():
    texts = [*PAGES, ROOT / "README.md", *ROOT.joinpath("hessspec").rglob("*.py")]
    texts += ROOT.joinpath("hessspec_mtl").rglob("*.py")
    named = {(text.name, name) for text in texts for name in NAMED.findall(text.read_text("utf-8"))}
    assert len(named) > 30
    assert not [pair for pair in named if not (ROOT / pair[1]).exists()]
