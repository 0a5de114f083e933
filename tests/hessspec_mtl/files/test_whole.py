"""Files appear whole or not at all; a folder has one master at a time."""

import errno
import os

import pytest

from hessspec_mtl.files.whole import FolderInUseError, remove_parts, sole_use, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_and_everyone_may_read_it(tmp_path):
    path = write_whole(tmp_path / "deep" / "file.txt", "old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["file.txt"]


def test_a_write_that_fails_keeps_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "file.txt", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hessspec_mtl.files.whole.os.replace", full)
    with pytest.raises(OSError, match=r"file.txt cannot be written \(No space left.*free") as error:
        write_whole(path, "new")
    assert error.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_parts_that_killed_writers_left_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in (".file.txt.x1y2.part", "file.part", ".lock"):
        (folder / name).write_text("")
    remove_parts(tmp_path)
    assert names(folder) == [".lock", "file.part"]


def test_a_folder_in_use_is_refused_until_it_is_free(tmp_path):
    pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    with sole_use(folder):
        message = rf"another process \(number {os.getpid()}\) works in .*run; wait .* `--name`"
        with pytest.raises(FolderInUseError, match=message), sole_use(folder):
            raise AssertionError("two at a time")
    with sole_use(folder):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/run must be a folder that can be written .*choose another one with `--out`"
    with pytest.raises(OSError, match=message), sole_use(tmp_path / "file" / "run"):
        raise AssertionError("cannot be")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="must be a folder that can be written"), sole_use(tmp_path):
        raise AssertionError("cannot be")
    with pytest.raises(OSError, match=r"x cannot be written .* make the folder writable"):
        write_whole(tmp_path / "x", "")
