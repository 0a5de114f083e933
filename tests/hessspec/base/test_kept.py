"""A state that was written is read back as it was, and the one before it leaves the disk."""

import errno

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base import kept, pieces
from hessspec._base.kept import KeptRun, Long

DIM = 5
DTYPE = np.dtype("float32")


def a_run(folder):
    return KeptRun(folder / "run", DIM, DTYPE, None)


def rows(start):
    return jnp.arange(start, start + 2 * DIM, dtype=DTYPE).reshape(2, DIM)


def a_state(turn):
    return {
        "done": turn,
        "found": {"values": np.array([1.5, np.nan, -0.0]), "flags": np.array([True, False])},
        "history": [(1, 0.1), (2, np.array([3.0, 4.0]))],
        "nothing": None,
        "tiny": 5e-324,
        "basis": {"rows": [Long(lambda i=i: rows(i), f"{i:06d}") for i in range(turn)]},
        "next": Long(lambda: rows(100 * turn)),
    }


def test_a_state_comes_back_to_the_last_bit(tmp_path):
    a_run(tmp_path).write(a_state(2))
    found, expected = a_run(tmp_path).read(), a_state(2)
    assert found is not None
    assert found.keys() == expected.keys()
    for name in ("done", "nothing", "tiny"):
        assert found[name] == expected[name]
    for name, array in expected["found"].items():
        np.testing.assert_array_equal(found["found"][name], array)
        assert found["found"][name].dtype == array.dtype
    assert np.signbit(found["found"]["values"][2])
    assert found["history"][0] == (1, 0.1)
    np.testing.assert_array_equal(found["history"][1][1], [3.0, 4.0])
    np.testing.assert_array_equal(found["basis"]["rows"][1].rows(), rows(1))
    np.testing.assert_array_equal(found["next"].rows(), rows(200))


def test_rows_with_names_are_written_once_and_what_is_old_leaves_the_disk(tmp_path, monkeypatch):
    written = []
    write = kept.write_rows
    monkeypatch.setattr(kept, "write_rows", lambda *a: written.append(a[1]) or write(*a))
    run = a_run(tmp_path)
    for turn in (1, 2, 3):
        run.write(a_state(turn))
    assert sorted(written) == [f"run_basis-{i:06d}" for i in range(3)] + [
        f"run_next-{i:06d}" for i in (1, 2, 3)
    ]
    names = {path.name.split(".")[0] for path in run.folder.iterdir()}
    assert names == {"state", "run_next-000003", *(f"run_basis-{i:06d}" for i in range(3))}


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_was_being_written_when_a_run_was_killed_is_removed(tmp_path, monkeypatch):
    run = a_run(tmp_path)
    run.write(a_state(1))
    with monkeypatch.context() as patch:
        patch.setattr(kept, "save_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.write(a_state(2))
    (run.folder / "run_next-000009.0.part").touch()
    again = a_run(tmp_path)
    state = again.read()
    assert state is not None
    assert state["done"] == 1
    names = {path.name.split(".")[0] for path in run.folder.iterdir()}
    assert names == {"state", "run_next-000001", "run_basis-000000"}
    again.write(a_state(2))
    np.testing.assert_array_equal(a_run(tmp_path).read()["next"].rows(), rows(200))


@pytest.mark.parametrize("which", ["write_rows", "save_record"])
def test_a_full_disk_is_told_and_the_state_before_is_there_still(tmp_path, monkeypatch, which):
    run = a_run(tmp_path)
    run.write(a_state(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept, which, full)
        told = r"`checkpoint` must .*No space left on device\)\. The state before, .* is kept"
        with pytest.raises(OSError, match=told) as caught:
            run.write(a_state(2))
        assert caught.value.errno == errno.ENOSPC
    state = a_run(tmp_path).read()
    assert state is not None
    assert state["done"] == 1
    np.testing.assert_array_equal(state["next"].rows(), rows(100))


def test_half_a_file_leaves_a_full_disk(tmp_path, monkeypatch):
    def half(stream, *_, **__):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pieces.np, "save", half)
    with pytest.raises(OSError, match="the rows cannot be written"):
        a_run(tmp_path).write(a_state(1))
    assert not list((tmp_path / "run").iterdir())


def test_what_came_out_takes_the_place_of_the_run(tmp_path):
    run = a_run(tmp_path)
    run.write(a_state(3))
    assert run.finished() is None
    run.finish({"rows": Long(lambda: rows(7))})
    found = a_run(tmp_path).finished()
    assert found is not None
    np.testing.assert_array_equal(found["rows"].rows(), rows(7))
    assert len(list(run.folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["state.npz", "run_next-000001.00000000000000.npy"])
def test_damaged_files_are_named(tmp_path, name):
    run = a_run(tmp_path)
    run.write(a_state(1))
    path = run.folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=f"{name}.* damaged"):
        a_run(tmp_path).read()["next"].rows()


def test_nothing_is_unpickled(tmp_path):
    run = a_run(tmp_path)
    run.write(a_state(1))
    path = run.folder / "run_next-000001.00000000000000.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    state = a_run(tmp_path).read()
    assert state is not None
    with pytest.raises(ValueError, match="Python objects"):
        state["next"].rows()


def test_writing_takes_at_most_a_twentieth_of_the_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(kept.time, "monotonic", lambda: clock[0])
    run = a_run(tmp_path)
    assert run.is_due  # the first one at once
    save = kept.save_record

    def slow(*arguments):
        clock[0] += 2.0
        return save(*arguments)

    monkeypatch.setattr(kept, "save_record", slow)
    run.write(a_state(1))
    clock[0] += 37.0
    assert not run.is_due
    clock[0] += 1.0
    assert run.is_due
