"""Bars are shown where a person is looking, count what they are told and are closed by errors."""

import sys
from types import MappingProxyType, SimpleNamespace

import jax
import numpy as np
import pytest

from hessspec._base.progress import progress_bar

pytestmark = pytest.mark.any_dtype


def test_a_bar_counts_what_it_is_told(capsys):
    with progress_bar(40, "trace", enabled=True) as bar:
        bar.update(8)
        bar.update()
        assert bar.n == 9
    shown = capsys.readouterr().err
    assert "trace" in shown
    assert "/40" in shown


def test_a_bar_says_that_jax_compiles_for_as_long_as_it_does(capsys):
    with progress_bar(40, "trace", enabled=True) as bar:
        bar.update()
        assert "compiling" not in capsys.readouterr().err
        jax.jit(lambda x: x + bar.n)(np.ones(3))
        assert "compiling" in capsys.readouterr().err
        bar.refresh()
        assert "compiling" not in capsys.readouterr().err


def test_a_bar_that_is_closed_hears_of_no_more_compilations(capsys):
    with progress_bar(40, "trace", enabled=True) as bar:
        pass
    capsys.readouterr()
    jax.jit(lambda x: x - bar.n)(np.ones(3))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("enabled", [False, None])
def test_nothing_is_shown_when_switched_off_or_outside_a_terminal(capsys, enabled):
    with progress_bar(40, "trace", enabled=enabled) as bar:
        bar.update(40)
    assert capsys.readouterr() == ("", "")


def test_an_error_closes_the_bar_and_passes():
    with pytest.raises(KeyError), progress_bar(40, "trace", enabled=True) as bar:
        raise KeyError
    assert bar.disable  # what tqdm makes of a bar that is closed


class Shell:
    config = MappingProxyType({"IPKernelApp": {}})


def test_a_notebook_counts_as_someone_looking(capsys, monkeypatch):
    notebook = SimpleNamespace(get_ipython=lambda: Shell())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    with progress_bar(40, "trace") as bar:
        bar.update(3)
    assert "/40" in capsys.readouterr().err


@pytest.mark.parametrize("shell", [None, SimpleNamespace(config={})])
def test_ipython_without_a_notebook_does_not(capsys, monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with progress_bar(40, "trace") as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
