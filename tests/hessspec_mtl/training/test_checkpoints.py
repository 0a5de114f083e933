"""A checkpoint is there whole or not at all, and what cannot be read is named, not guessed."""

import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from hessspec_mtl.training.checkpoints import CheckpointError, Checkpoints


def state(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "params": {"a": {"kernel": rng.standard_normal((40, 30)).astype(np.float32)}},
        "opt_state": {"int32": np.array([seed], np.int32), "float32": np.zeros(3, np.float32)},
        "history": rng.standard_normal((seed + 1, 2)),
    }


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "run" / "checkpoints")


def largest_file(folder: Path) -> Path:
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def damage_by_truncation(folder: Path) -> None:
    os.truncate(largest_file(folder), 100)


def damage_by_an_altered_byte(folder: Path) -> None:
    file = largest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_by_a_missing_file(folder: Path) -> None:
    largest_file(folder).unlink()


def test_a_state_comes_back_bit_for_bit(checkpoints):
    assert checkpoints.epochs() == []
    assert checkpoints.sound_epochs() == []
    checkpoints.save(0, state(0))
    checkpoints.save(7, state(7))
    checkpoints.save(7, state(8))  # in place of the first
    assert checkpoints.epochs() == [0, 7]
    assert checkpoints.sound_epochs() == [0, 7]
    found = checkpoints.restore(7)
    jax.tree.map(np.testing.assert_array_equal, found, state(8))
    assert found["history"].dtype == np.float64
    assert found["opt_state"]["int32"].dtype == np.int32


def test_old_checkpoints_are_removed_but_for_those_to_keep(checkpoints):
    for epoch in range(6):
        checkpoints.save(epoch, {"x": np.zeros(2)})
        checkpoints.prune(keep={0, 2})
        assert len(checkpoints.epochs()) <= 4
    assert checkpoints.epochs() == [0, 2, 4, 5]


@pytest.mark.parametrize(
    "damage", [damage_by_truncation, damage_by_an_altered_byte, damage_by_a_missing_file]
)
def test_a_damaged_checkpoint_is_passed_over_and_named(checkpoints, damage):
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    damage(checkpoints.path(2))
    with pytest.warns(UserWarning, match=r"epoch_000002 cannot be read.*from an earlier one"):
        assert checkpoints.sound_epochs() == [1]
    with pytest.raises(CheckpointError, match="epoch_000002 cannot be read"):
        checkpoints.restore(2)
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(1), state(1))


@pytest.fixture
def unraisable(monkeypatch) -> list[str]:
    """Errors that Python could only report, those from other threads soon after included."""
    reported: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(str(what.exc_value)))
    return reported


def test_arrays_that_arrive_after_one_has_failed_find_somebody_waiting(checkpoints, unraisable):
    """orbax reads all arrays at once; the first failure is told, the others are waited for."""
    rng = np.random.default_rng(0)
    checkpoints.save(1, {f"{i}": rng.standard_normal((40, 30)) for i in range(8)})
    damage_by_truncation(checkpoints.path(1))
    for _ in range(5):
        with pytest.raises(CheckpointError, match="epoch_000001 cannot be read"):
            checkpoints.restore(1)
    time.sleep(0.1)
    assert unraisable == []


def test_nothing_readable_is_an_error_that_says_what_to_do(checkpoints):
    checkpoints.save(1, state(1))
    damage_by_truncation(checkpoints.path(1))
    message = r"epoch_000001 cannot be read.*from the start if you remove all that are there"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.sound_epochs()


def test_an_epoch_that_was_not_kept_is_named(checkpoints):
    checkpoints.save(3, state(3))
    with pytest.raises(CheckpointError, match=r"no checkpoint of epoch 2 .* epochs \[3\]"):
        checkpoints.restore(2)


def test_what_a_killed_process_left_is_not_seen_and_swept_away(checkpoints):
    checkpoints.save(3, state(3))
    for name in (".writing_000004", ".removing_000002"):
        (checkpoints.directory / name / "inside").mkdir(parents=True)
    assert checkpoints.epochs() == [3]
    checkpoints.sweep()
    assert [entry.name for entry in checkpoints.directory.iterdir()] == ["epoch_000003"]


def test_what_cannot_be_renamed_leaves_the_earlier_ones(checkpoints, monkeypatch):
    checkpoints.save(3, state(3))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hessspec_mtl.training.checkpoints.os.replace", full)
    with pytest.raises(CheckpointError, match=r"epoch_000004 cannot be written .*No space left"):
        checkpoints.save(4, state(4))
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(3), state(3))


def test_a_disk_that_takes_no_more_loses_nothing_that_was_finished(checkpoints, capfd, unraisable):
    """A limit on the size of files stands for a full disk: the same error, deep inside orbax."""
    resource = pytest.importorskip("resource")
    checkpoints.save(3, state(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        rng = np.random.default_rng(0)
        large = {f"{i}": rng.standard_normal(50_000) for i in range(8)}
        with pytest.raises(CheckpointError, match=r"epoch_000004 cannot be written .* free space"):
            checkpoints.save(4, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    time.sleep(0.1)
    assert len(capfd.readouterr().err) < 2000, "no pages of tracebacks"
    assert unraisable == []
    assert [entry.name for entry in checkpoints.directory.iterdir()] == ["epoch_000003"]
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(3), state(3))
