"""What a worker refuses, and how it speaks of the folders of the one who asked."""

import errno
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from hessspec_mtl.cluster import workers
from hessspec_mtl.cluster.workers import Described, Order, Place, done, terms
from hessspec_mtl.files import threads
from hessspec_mtl.study.presets import StudyConfig
from hessspec_mtl.study.units import Unit
from hessspec_mtl.training.checkpoints import CheckpointError

UNIT = Unit(0, "trace", 1)


@pytest.mark.any_dtype
def test_a_worker_with_other_versions_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(workers, "keep_to_one_thread", lambda: None)
    held = {**terms(), "jax": "0.1.2"}
    with pytest.raises(RuntimeError, match=r"has \{'jax': .* asks it has \{'jax': '0.1.2'\}"):
        done(Order("a run", "a study", UNIT, -1, {}, held))


@pytest.mark.any_dtype
def test_an_error_names_the_folder_of_the_one_who_asked(tmp_path, monkeypatch):
    place = Place(Described("m", StudyConfig(), Path("/home/me/runs/m"), b""), tmp_path / "m")

    def failing(self, order):
        raise CheckpointError(f"{tmp_path}/m/states/seed-0/training is damaged, as {tmp_path}/m/x")

    monkeypatch.setattr(Place, "_do", failing)
    with pytest.raises(CheckpointError) as error:
        place.do(Order("", "m", UNIT, -1, {}, {}))
    assert str(error.value) == "/home/me/runs/m/seed-0/training is damaged, as /home/me/runs/m/x"


@pytest.mark.any_dtype
def test_a_full_disk_of_a_worker_is_told_as_its_own(tmp_path, monkeypatch):
    """Space must be made there: the folder of the one who asked has nothing to do with it."""
    place = Place(Described("m", StudyConfig(), Path("/home/me/runs/m"), b""), tmp_path / "m")

    def failing(self, order):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise CheckpointError(f"{tmp_path}/m/seed-0 cannot be written") from error

    monkeypatch.setattr(Place, "_do", failing)
    with pytest.raises(RuntimeError) as error:
        place.do(Order("", "m", UNIT, -1, {}, {}))
    told = f"on the machine of a worker, {platform.node()}: {tmp_path}/m/seed-0 cannot be written"
    assert str(error.value) == told


@pytest.mark.any_dtype
def test_an_error_without_folders_is_raised_as_it_came(tmp_path, monkeypatch):
    """Raised from itself it would be its own cause, whose first one Dask seeks without an end."""
    place = Place(Described("m", StudyConfig(), Path("/home/me/runs/m"), b""), tmp_path / "m")
    came = FloatingPointError("the test error of task 'E1' is nan in epoch 1")

    def failing(self, order):
        raise came

    monkeypatch.setattr(Place, "_do", failing)
    with pytest.raises(FloatingPointError) as error:
        place.do(Order("", "m", UNIT, -1, {}, {}))
    assert error.value is came
    assert came.__cause__ is None


@pytest.mark.any_dtype
def test_one_thread_is_the_default_and_no_command(monkeypatch):
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "3"})
    threads.keep_to_one_thread()
    assert os.environ == {**threads.ONE_THREAD, "OMP_NUM_THREADS": "3"}


@pytest.mark.any_dtype
def test_no_two_units_are_done_at_once_in_one_process(monkeypatch):
    """Workers that were started with several threads would share data, programs and folders."""
    inside, most = [], []
    monkeypatch.setattr(workers, "keep_to_one_thread", lambda: None)

    class Busy:
        def do(self, order):
            inside.append(order)
            time.sleep(0.02)
            most.append(len(inside))
            inside.remove(order)

    monkeypatch.setitem(workers._PLACES, "a run", {"a study": Busy()})
    orders = [Order("a run", "a study", Unit(0, "trace", n), -1, {}, terms()) for n in range(4)]
    with ThreadPoolExecutor(4) as threads_of_a_worker:
        list(threads_of_a_worker.map(done, orders))
    assert most == [1, 1, 1, 1]
