"""The documentation's Python snippets run as they stand, page by page."""

import re
from pathlib import Path

import matplotlib as mpl
import pytest

PAGES = sorted(Path(__file__).parents[1].joinpath("docs").glob("*.md"))
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
