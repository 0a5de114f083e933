"""Files at hand and downloads: nothing is taken for data that is not what it should be."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hessspec_mtl.datasets import sources
from hessspec_mtl.datasets.sources import DataError, Source, fetch, find, search_path

BODY = b"smiles,E1\nC,0.4\n" * 1000
FILE = Source(
    name="a test file",
    file_name="file.csv",
    url=None,
    sha256=hashlib.sha256(BODY).hexdigest(),
    licence="none",
    citation="nobody",
)


@pytest.fixture(autouse=True)
def at_once(monkeypatch, cache):
    """No second attempt unless a test asks for one."""
    monkeypatch.setattr(sources, "_RETRIES", 0)


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_download_arrives_whole_and_is_found_the_next_time(server, cache):
    server.send("/file.csv", BODY)
    source = replace(FILE, url=server.url("/file.csv"))
    path = fetch(source)
    assert path == cache / "file.csv"
    assert path.read_bytes() == BODY
    assert find(source) == path
    assert fetch(source) == path
    assert server.requests == ["/file.csv"]


def test_a_missing_page_says_how_to_go_on_without_a_network(server, cache):
    source = replace(FILE, url=server.url("/gone.csv"))
    with pytest.raises(DataError, match=r"could not be downloaded .*404.* download `file.csv`"):
        fetch(source)
    assert kept(cache) == []


def test_no_server_says_how_to_go_on_without_a_network(cache):
    source = replace(FILE, url="http://127.0.0.1:9/file.csv")
    with pytest.raises(
        DataError, match=r"give that folder as `directory` \(--data-dir\) or in HESSSPEC"
    ):
        fetch(source)


def test_altered_content_is_discarded(server, cache):
    server.send("/file.csv", BODY.replace(b"0.4", b"0.5", 1))
    with pytest.raises(DataError, match=r"is not a test file: its SHA-256 is not .* Nothing was"):
        fetch(replace(FILE, url=server.url("/file.csv")))
    assert kept(cache) == []


def test_a_short_answer_is_discarded(server, cache):
    """The server says that this is all: only the hash can tell."""
    server.send("/file.csv", BODY[:-7])
    with pytest.raises(DataError, match="is not a test file"):
        fetch(replace(FILE, url=server.url("/file.csv")))
    assert kept(cache) == []


def test_a_connection_that_breaks_off_leaves_nothing_and_the_next_call_starts_afresh(server, cache):
    source = replace(FILE, url=server.url("/file.csv"))
    server.break_off("/file.csv", BODY, after=5000)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(source)
    assert kept(cache) == []
    server.send("/file.csv", BODY)
    assert fetch(source).read_bytes() == BODY


def test_a_connection_that_breaks_off_is_tried_again(server, cache, monkeypatch):
    monkeypatch.setattr(sources, "_RETRIES", 1)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: server.send("/file.csv", BODY))
    server.break_off("/file.csv", BODY, after=5000)
    assert fetch(replace(FILE, url=server.url("/file.csv"))).read_bytes() == BODY
    assert len(server.requests) == 2


def test_a_download_killed_half_way_is_not_found_and_starts_afresh(server, cache):
    """Killed by the operating system, a process cleans nothing up."""
    source = replace(FILE, url=server.url("/file.csv"))
    half_way = server.stall("/file.csv", BODY, after=5000)
    code = f"from hessspec_mtl.datasets.sources import *; fetch({source!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert half_way.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert not (cache / "file.csv").exists()
    assert find(source) is None
    server.send("/file.csv", BODY)
    assert fetch(source).read_bytes() == BODY


def test_what_a_killed_download_left_behind_is_never_taken_for_the_file(server, cache):
    cache.mkdir()
    (cache / "tmpabc123").write_bytes(BODY[:100])
    source = replace(FILE, url=server.url("/file.csv"))
    assert find(source) is None
    server.send("/file.csv", BODY)
    assert fetch(source).read_bytes() == BODY


def test_a_damaged_file_of_the_user_is_named_and_kept(tmp_path):
    (tmp_path / "file.csv").write_bytes(BODY[:-1])
    with pytest.raises(DataError, match=r"file.csv is truncated or altered: its SHA-256 is"):
        find(replace(FILE, url="http://127.0.0.1:9/file.csv"), tmp_path)
    assert kept(tmp_path) == ["file.csv"]


def test_a_damaged_file_in_the_cache_is_named_and_downloaded_again(server, cache, caplog):
    cache.mkdir()
    (cache / "file.csv").write_bytes(BODY[:-1])
    server.send("/file.csv", BODY)
    source = replace(FILE, url=server.url("/file.csv"))
    assert find(source) is None
    assert "file.csv is truncated or altered" in caplog.text
    assert fetch(source).read_bytes() == BODY


def test_without_a_hash_the_content_is_verified_and_bad_content_discarded(server, cache):
    server.send("/file.csv", BODY)
    source = replace(FILE, url=server.url("/file.csv"), sha256=None)

    def refuse(path: Path) -> None:
        raise DataError(f"{path} is not it")

    with pytest.raises(DataError, match="is not it"):
        fetch(source, verify=refuse)
    assert kept(cache) == []
    assert fetch(source, verify=Path.read_bytes).read_bytes() == BODY


def test_a_source_without_an_address_says_where_to_put_the_file(cache):
    with pytest.raises(DataError, match=r"has no public address; put `file.csv` into a folder"):
        fetch(FILE)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_cache_that_cannot_be_written_is_named(server, cache):
    cache.mkdir(mode=0o500)
    server.send("/file.csv", BODY)
    with pytest.raises(DataError, match=r"could not be kept .* set HESSSPEC_CACHE"):
        fetch(replace(FILE, url=server.url("/file.csv")))


def test_a_cache_that_is_a_file_is_named(server, cache):
    cache.write_text("in the way")
    server.send("/file.csv", BODY)
    with pytest.raises(DataError, match=r"could not be kept in .* or set HESSSPEC_CACHE"):
        fetch(replace(FILE, url=server.url("/file.csv")))


def test_the_directory_of_the_call_comes_before_the_variable_and_the_cache(
    cache, tmp_path, monkeypatch
):
    argument, variable = tmp_path / "argument", tmp_path / "variable"
    argument.mkdir()
    variable.mkdir()
    assert search_path(None) == (cache,)
    monkeypatch.setenv(sources.DATA_VARIABLE, str(variable))
    assert search_path(None) == (variable, cache)
    assert search_path(argument) == (argument, cache)
    for folder in (variable, argument):
        (folder / "file.csv").write_bytes(BODY)
    assert find(FILE) == variable / "file.csv"
    assert find(FILE, argument) == argument / "file.csv"


def test_a_folder_that_does_not_exist_is_refused(cache, monkeypatch):
    with pytest.raises(DataError, match=r"`directory` \(--data-dir\) must name an existing"):
        find(FILE, "no/such/folder")
    monkeypatch.setenv(sources.DATA_VARIABLE, "no/such/folder")
    with pytest.raises(DataError, match="the variable HESSSPEC_DATA must name an existing folder"):
        find(FILE)
