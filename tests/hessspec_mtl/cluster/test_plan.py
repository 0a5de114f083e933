"""What is to be done is found from files, and waits for no more than it needs."""

import numpy as np
import pytest

from hessspec_mtl.cluster.plan import _stops, items
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.training.checkpoints import Checkpoints

KINDS = {"training", "predictions", "trace", "density", "gradients", "eigenspaces", "hutchinson"}
BOTH = ("train", "curvature")


@pytest.mark.any_dtype
def test_a_unit_waits_for_its_state_and_a_state_for_the_one_before(study):
    (work,) = study.seeds
    found = items("molecules", work, BOTH)
    assert {item.unit.kind for item in found} == KINDS
    trained = [item for item in found if item.unit.kind == "training" and item.unit.task is None]
    assert [(item.start, item.unit.epoch) for item in trained] == [(-1, 0), (0, 1), (1, 4)]
    assert [item.after for item in trained] == [None, trained[0].unit, trained[1].unit]
    for item in found:
        if item.unit.kind != "training":
            assert item.after is not None
            assert (item.after.kind, item.after.task) == ("training", item.unit.task)
            assert item.after.epoch == item.unit.epoch
    tasks = {item.unit.task for item in found if item.unit.kind in ("trace", "predictions")}
    assert tasks == {None, *work.network.tasks}
    assert len({item.unit for item in found}) == len(found)


@pytest.mark.any_dtype
def test_what_is_there_is_not_done_and_what_builds_on_it_waits_for_nothing(study):
    (work,) = study.seeds
    whole = items("molecules", work, BOTH)
    Checkpoints(work.training / "checkpoints").save(1, {"params": np.ones(2)})
    folder = work.curvature / "epoch_000001"
    folder.mkdir(parents=True)
    (folder / "trace.npz").touch()
    found = items("molecules", work, BOTH)
    gone = {str(item.unit) for item in whole} - {str(item.unit) for item in found}
    assert gone == {"training to epoch 1", "trace after epoch 1"}
    of_epoch_1 = [i for i in found if (i.unit.task, i.unit.epoch) == (None, 1)]
    assert {item.unit.kind for item in of_epoch_1} == {"density", "gradients", "eigenspaces"}
    assert {item.after for item in of_epoch_1} == {None}
    last = next(item for item in found if str(item.unit) == "training to epoch 4")
    assert (last.start, last.after) == (1, None)


@pytest.mark.any_dtype
def test_a_damaged_state_is_made_again_from_the_one_before(study):
    (work,) = study.seeds
    items("molecules", work, BOTH)  # says whose the folders are
    checkpoints = Checkpoints(work.training / "checkpoints")
    for epoch in (0, 1, 4):
        checkpoints.save(epoch, {"params": np.ones(2)})
    for path in checkpoints.path(1).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.warns(UserWarning, match="epoch_000001 cannot be read"):
        found = items("molecules", work, BOTH)
    trained = [i for i in found if i.unit.kind == "training" and i.unit.task is None]
    assert [(item.start, item.unit.epoch) for item in trained] == [(0, 1)]


@pytest.mark.any_dtype
def test_curvature_alone_asks_for_states_and_never_trains(study):
    (work,) = study.seeds
    with pytest.raises(StageError, match=r"after epoch 0 needs the state after it, which is not"):
        items("molecules", work, ("curvature",))


@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("start", "goal", "num_epochs", "stops"),
    [
        (-1, 0, 60, [0]),
        (8, 22, 60, [15, 22]),
        (22, 60, 60, [28, 36, 44, 52, 60]),
        (1, 4, 4, [4]),
        (-1, 512, 512, [56, 113, 170, 227, 284, 341, 398, 455, 512]),
    ],
)
def test_no_stretch_of_training_is_longer_than_an_eighth(start, goal, num_epochs, stops):
    assert list(_stops(start, goal, num_epochs)) == stops
    assert max(np.diff([start, *stops])) <= max(5, -(-num_epochs // 8))
