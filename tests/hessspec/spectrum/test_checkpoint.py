"""A density that was killed goes on from the last step written, and no other run goes on for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec._base import kept
from hessspec._base.kept import KeptRun
from hessspec._krylov import tiles

ROOT = Path(__file__).parents[3]
STEPS = 7


def losses(params, batch):
    """Two losses of 60 parameters."""
    x = jnp.tanh(batch @ params["w"]) @ params["v"]
    return jnp.stack([jnp.sum(x**2), jnp.sum(jnp.cos(x))])


def problem():
    rng = np.random.default_rng(0)
    dtype = jnp.zeros(()).dtype
    params = {name: rng.normal(size=shape) for name, shape in (("w", (5, 9)), ("v", (9, 2)))}
    params = jax.tree.map(lambda leaf: jnp.asarray(0.5 * leaf, dtype), params)
    return params, jnp.asarray(rng.normal(size=(8, 5)), dtype)


def run(folder=None, loss_fn=losses, seed=0, scale=1.0, shift=0.0, **options):
    """The density of the problem, or of one that differs in a word."""
    params, batch = problem()
    params = jax.tree.map(lambda leaf: leaf * jnp.asarray(scale, leaf.dtype), params)
    options = {"num_probes": 2, "num_steps": STEPS, **options}
    data = batch + jnp.asarray(shift, batch.dtype)
    key = jax.random.key(seed)
    return hessspec.density(loss_fn, params, key, data=data, checkpoint=folder, **options)


def same(found, expected):
    """All numbers to the last bit, and all words."""
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(new, old)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert found.origin == expected.origin


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """Steps here take no longer than writing them does: all are written."""
    monkeypatch.setattr(kept, "_PARTS_OF_TIME", 1)


class Killed(Exception):
    """What ends a run in the tests that need no process of their own."""


def ends_after(monkeypatch, writes, end):
    """Let the write after so many of them call `end`, its rows on disk but not its state."""
    rest, save = iter(range(writes)), kept.save_record

    def until(*arguments):
        if next(rest, None) is None:
            end()
        return save(*arguments)

    monkeypatch.setattr(kept, "save_record", until)


def raise_killed():
    raise Killed


def test_a_killed_process_is_gone_on_from_to_the_same_bits(tmp_path):
    folder = tmp_path / "run"
    code = (
        "from tests.hessspec.spectrum import test_checkpoint as t; import pytest\n"
        "patch = pytest.MonkeyPatch(); patch.setattr(t.kept, '_PARTS_OF_TIME', 1)\n"
        f"t.ends_after(patch, {STEPS + 3}, t.kill); t.run({str(folder)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "question.json", "density0.npz", "run1"}
    assert len(list((folder / "run1").glob("*.npy"))) == 3 + 2  # the last one is of no state
    counted = []
    find = KeptRun.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptRun, "read", lambda *a: counted.append(find(*a)) or counted[-1])
        same(run(folder), run())
    assert [state["done"] for state in counted] == [3]


def test_a_run_whose_lanes_lie_apart_is_gone_on_from_to_the_same_bits(tmp_path, monkeypatch):
    """As those of long vectors do, here of all; what was kept ends in their second chunk of 8."""
    monkeypatch.setattr(tiles, "_LONG", 1)
    with monkeypatch.context() as until:
        ends_after(until, 10, raise_killed)
        with pytest.raises(Killed):
            run(tmp_path, num_steps=12)
    same(run(tmp_path, num_steps=12), run(num_steps=12))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_finished_run_is_read_without_a_product_and_takes_little_room(tmp_path, monkeypatch):
    expected = run(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 20_000
    monkeypatch.setattr(hessspec.HessianOperator, "rows", lambda *_: pytest.fail("multiplied"))
    same(run(tmp_path), expected)


def test_without_bases_two_rows_are_kept(tmp_path, monkeypatch):
    ends_after(monkeypatch, 4, raise_killed)
    with pytest.raises(Killed):
        run(tmp_path, reorthogonalize=False)
    rows = {path.name.split(".")[0] for path in (tmp_path / "run0").glob("*.npy")}
    assert rows == {f"run-00000{i}" for i in (3, 4, 5)}  # those of the state, and one begun
    monkeypatch.undo()
    same(run(tmp_path, reorthogonalize=False), run(reorthogonalize=False))


def other_losses(params, batch):
    """The first of them is twice as large."""
    return losses(params, batch) * jnp.asarray([2.0, 1.0], batch.dtype)


@pytest.mark.any_dtype
def test_another_question_is_refused_by_name(tmp_path):
    run(tmp_path, num_probes=1, num_steps=2)
    asked = {"num_probes": 1, "num_steps": 2}
    for name, other in {
        "loss": {"loss_fn": other_losses},
        "point": {"scale": 1.01},
        "data": {"shift": 1e-3},
        "key": {"seed": 1},
        "`num_steps`: 2, now 3": {"num_steps": 3},
        "`reorthogonalize`: True, now False": {"reorthogonalize": False},
    }.items():
        with pytest.raises(ValueError, match=f"another {name}"):
            run(tmp_path, **{**asked, **other})


@pytest.mark.any_dtype
def test_a_run_whose_rows_were_removed_is_refused(tmp_path, monkeypatch):
    ends_after(monkeypatch, 2, raise_killed)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    next((tmp_path / "run0").glob("run-000001.*.npy")).unlink()
    with pytest.raises(ValueError, match="must hold all 63 entries"):
        run(tmp_path)
