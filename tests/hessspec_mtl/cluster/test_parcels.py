"""Files leave one folder and arrive in another as if the work had been done there."""

from dataclasses import replace

import numpy as np
import pytest

from hessspec_mtl.cluster.parcels import Made, accept, inputs, outputs, seconds, unpack
from hessspec_mtl.curvature.subject import IDENTITY_FILE
from hessspec_mtl.files.timing import note_seconds, unit_seconds
from hessspec_mtl.files.versions import Machine
from hessspec_mtl.files.whole import write_whole
from hessspec_mtl.study.units import Unit
from hessspec_mtl.training.checkpoints import CheckpointError, Checkpoints
from hessspec_mtl.training.identity import RUN_FILE

MACHINE = Machine("a core", {})


@pytest.fixture
def work(study):
    return study.seeds[0]


@pytest.fixture
def far(work, tmp_path):
    """The same run as a worker has it."""
    return replace(work, folder=tmp_path / "far" / "seed-0")


def trained(work, task: str | None, epoch: int) -> dict[str, np.ndarray]:
    """Puts a state and the curves up to it where training would."""
    folder, state = work.folder_of(task), {"params": np.arange(3.0) + epoch}
    Checkpoints(folder / "checkpoints").save(epoch, state)
    write_whole(folder / RUN_FILE, "{}")
    for name in ("history.csv", "seconds.csv"):
        write_whole(folder / name, f"{name} up to {epoch}")
    return state


@pytest.mark.any_dtype
@pytest.mark.parametrize("task", [None, "E1"])
def test_a_state_arrives_with_the_curves_up_to_it(work, far, task):
    state, unit = trained(far, task, 4), Unit(0, "training", 4, task)
    accept(work, unit, Made(outputs(far, unit), MACHINE))
    folder = work.folder_of(task)
    found = Checkpoints(folder / "checkpoints").restore(4)
    np.testing.assert_array_equal(found["params"], state["params"])
    assert (folder / "history.csv").read_text() == "history.csv up to 4"
    assert not (folder / RUN_FILE).exists()  # which run this is, the command has said itself


@pytest.mark.any_dtype
def test_a_state_of_the_past_leaves_the_curves_alone(work, far):
    trained(work, None, 4)
    trained(far, None, 1)
    accept(
        work,
        Unit(0, "training", 1),
        Made(outputs(far, Unit(0, "training", 1)), MACHINE),
    )
    assert Checkpoints(work.training / "checkpoints").epochs() == [1, 4]
    assert (work.training / "history.csv").read_text() == "history.csv up to 4"


@pytest.mark.any_dtype
def test_a_training_builds_on_a_state_and_on_what_says_which_run_it_is(work, far):
    state = trained(work, None, 1)
    assert inputs(work, Unit(0, "training", 4), -1) == {}
    unpack(far.folder, inputs(work, Unit(0, "training", 4), 1))
    found = Checkpoints(far.training / "checkpoints").restore(1)
    np.testing.assert_array_equal(found["params"], state["params"])
    assert (far.training / RUN_FILE).exists()
    assert not (far.training / "history.csv").exists()


@pytest.mark.any_dtype
def test_what_is_followed_along_a_training_travels_with_its_states(work, far):
    """The table, and what the next look starts from; that of the state before stays for a while."""
    work, far = (replace(place, tracked=place.examples) for place in (work, far))
    for epoch, step in ((1, 10), (2, 20), (3, 30)):
        trained(far, None, epoch)
        write_whole(far.tracking / f"step_{step:09d}.npz", f"after {step}")
        write_whole(far.tracking / "tracking.csv", f"up to {step}")
        unit = Unit(0, "training", epoch)
        accept(work, unit, Made(outputs(far, unit), MACHINE))
    names = ["step_000000020.npz", "step_000000030.npz", "tracking.csv"]
    assert sorted(path.name for path in work.tracking.iterdir()) == names
    write_whole(work.training / RUN_FILE, "{}")
    sent = inputs(work, Unit(0, "training", 4), 3)
    assert {f"tracking/{name}" for name in names} <= set(sent)
    # A state of the past that is made again brings nothing of it.
    write_whole(far.tracking / "tracking.csv", "another")
    accept(work, Unit(0, "training", 1), Made(outputs(far, Unit(0, "training", 1)), MACHINE))
    assert (work.tracking / "tracking.csv").read_text() == "up to 30"
    trained(far, "E1", 4)
    assert not any("tracking" in name for name in outputs(far, Unit(0, "training", 4, "E1")))


@pytest.mark.any_dtype
def test_a_result_arrives_with_its_time_and_the_parameters_it_is_of(work, far):
    unit, folder = Unit(0, "density", 1), "curvature/epoch_000001"
    write_whole(far.folder / folder / IDENTITY_FILE, "the hash\n")
    write_whole(far.folder / folder / "density.npz", b"numbers")
    note_seconds(far.folder / folder, "density", 1.5)
    note_seconds(work.folder / folder, "trace", 2.5)
    accept(work, unit, Made(outputs(far, unit), MACHINE, seconds(far, unit)))
    assert (work.folder / folder / "density.npz").read_bytes() == b"numbers"
    assert (work.folder / folder / IDENTITY_FILE).read_text() == "the hash\n"
    assert unit_seconds(work.folder / folder) == {"trace": 2.5, "density": 1.5}
    # The next result of that epoch is held against the same parameters.
    trained(work, None, 1)
    sent = inputs(work, Unit(0, "trace", 1), -1)
    assert sent[f"{folder}/{IDENTITY_FILE}"] == b"the hash\n"


@pytest.mark.any_dtype
def test_a_state_that_cannot_be_written_leaves_what_was_there(work, tmp_path):
    trained(work, None, 1)
    checkpoints = Checkpoints(work.training / "checkpoints")
    with pytest.raises(CheckpointError, match=r"epoch_000001 cannot be written .* are kept"):
        checkpoints.adopt(1, {"a": b"", "a/b": b""})  # a file cannot be a folder too
    assert checkpoints.epochs() == [1]
    assert [path.name for path in checkpoints.directory.iterdir()] == ["epoch_000001"]
