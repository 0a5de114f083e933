"""A file is held by one at a time, and by nobody when that one has ended."""

import os
import subprocess
import sys

import pytest

from hessspec._base.locks import LockedError, locked

pytestmark = pytest.mark.any_dtype
pytest.importorskip("fcntl")

# Holds the file until it is ended.
HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import importlib.util
spec = importlib.util.spec_from_file_location("locks", sys.argv[2])
locks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(locks)
with locks.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_its_end_frees_the_file(tmp_path):
    path = tmp_path / "lock"
    source = sys.modules[locked.__module__].__file__
    words = [sys.executable, "-c", HOLDER, str(path), str(source)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught, locked(path):
            pass
        assert caught.value.holder == str(other.pid)
        other.kill()
    with locked(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_children_that_were_forked_meanwhile_do_not_hold_it_on(tmp_path):
    """As loaders of data may be: they have the open file too."""
    path = tmp_path / "lock"
    with locked(path):
        copy = os.open(path, os.O_RDONLY)  # stands for any other file: it holds no lock
        with pytest.raises(LockedError), locked(path):
            pass
    with locked(path):
        pass
    os.close(copy)
