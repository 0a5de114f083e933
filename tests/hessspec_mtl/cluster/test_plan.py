"""What is to be done is found from files, and waits for no more than it needs."""

import numpy as np
import pytest

from hessspec_mtl.cluster.plan import Item, _stops, in_order, is_pressing, items, programs
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.study.units import Unit
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


def item(study: str, kind: str, epoch: int, task: str | None = None, *, seed: int = 0) -> Item:
    """A unit of a study of that name, which waits for nothing."""
    return Item(study, None, Unit(seed, kind, epoch, task), None)


@pytest.mark.any_dtype
def test_training_comes_first_then_what_no_worker_has_compiled_then_the_longest():
    trace, density, training = (item("a", kind, 1) for kind in ("trace", "density", "training"))
    assert in_order([trace, density, training], [], {programs(trace)}) == [training, density, trace]
    known = {programs(trace), programs(density)}
    assert in_order([trace, density], [], known) == [density, trace]
    assert is_pressing(training, [], known)
    assert is_pressing(density, [], {programs(trace)})
    assert not is_pressing(density, [], known)


@pytest.mark.any_dtype
def test_what_another_worker_compiles_is_left_to_it_while_there_is_other_work():
    """Traces and densities of a study share programs; those of another study, and of networks for
    one task, have their own."""
    first, twin = item("a", "trace", 0), item("a", "density", 0)
    others = [item("b", "trace", 0), item("a", "trace", 4, "E1"), item("a", "training", 1)]
    found = in_order([twin, *others], [first], set())
    assert found[-1] == twin
    assert set(found[:-1]) == set(others)
    assert not is_pressing(twin, [first], set())
    assert in_order([twin], [first], set()) == [twin]  # better than nothing
    # Once the programs have been run to the end nobody compiles them.
    assert in_order([twin, others[0]], [first], {programs(first)}, first)[0] == twin


@pytest.mark.any_dtype
def test_a_worker_keeps_to_the_study_whose_programs_it_has_while_that_has_work():
    """Even where another study has what no worker has compiled, or training with workers enough."""
    own, training = item("b", "trace", 1), item("a", "training", 1)
    last, known = item("b", "density", 0), {programs(own)}
    assert in_order([item("a", "trace", 1), own], [], known, last)[0] == own
    two = [item("a", "density", epoch) for epoch in (0, 1)]
    assert in_order([training, own], two, known, last) == [own, training]
    assert in_order([training], two, known, last) == [training]  # its own has none left
    assert not is_pressing(training, two, known, last)
    assert is_pressing(training, two, known, item("a", "density", 0))


@pytest.mark.any_dtype
def test_networks_that_could_be_trained_do_not_wait_for_one_worker():
    own, last = item("b", "trace", 1), item("b", "density", 0)
    chains = [item("a", "training", 1, seed=seed) for seed in (0, 1)]
    first, *others = in_order([own, *chains], [], set(), last)
    assert first == chains[0]
    assert in_order(others, [first], {programs(first)}, last) == [chains[1], own]


@pytest.mark.any_dtype
def test_a_study_that_is_behind_another_goes_on_before_what_no_unit_waits_for():
    own = item("a", "trace", 1)
    given = ([], {programs(own)}, item("a", "density", 0))
    assert is_pressing(own, *given, {"a": 5, "b": 4})
    assert not is_pressing(own, *given, {"a": 5, "b": 5})
    assert not is_pressing(own, *given, {"a": 5})


@pytest.mark.any_dtype
def test_workers_that_have_done_nothing_begin_with_studies_that_nobody_works_at():
    begun, alone = item("a", "training", 0), item("a", "training", 0, "E1")
    other = item("b", "training", 0)
    assert in_order([alone, other], [begun], set()) == [other, alone]
    assert is_pressing(other, [begun], set())
    assert in_order([alone], [begun], set()) == [alone]


@pytest.mark.any_dtype
def test_seeds_and_epochs_run_the_same_programs():
    assert programs(item("a", "trace", 1)) == programs(item("a", "trace", 3, seed=2))
    assert programs(item("a", "trace", 4, "E1")) == programs(item("a", "trace", 4, "E2"))
    assert programs(item("a", "training", 4, "E1")) != programs(item("a", "training", 4, "E2"))
