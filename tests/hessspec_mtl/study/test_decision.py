"""Stage 2 takes what stage 1 chose, by a rule; is done run by run; and leaves what others need."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hessspec_mtl import weigh
from hessspec_mtl.study import decision, why
from hessspec_mtl.study.decision import (
    ALONE,
    BY_CURVATURE,
    PUBLISHED,
    Run,
    decide,
    methods,
    read_decided,
    runs,
    work_of,
)
from hessspec_mtl.study.delta_m import Decision
from hessspec_mtl.study.pipeline import begin_study, seed_works
from hessspec_mtl.study.presets import PRESETS, Preset
from hessspec_mtl.study.seeds import SeedWork
from hessspec_mtl.study.stages import StageError
from hessspec_mtl.training.weightings import WEIGHTINGS

TASKS = ("a", "NA")  # of the alcohols
FACTORS = {"equal": 1.0, "fixed 1 0.333333": 0.99, "nash": 0.9, "frobenius": 0.95}
CONFIG = replace(PRESETS["compare"].studies["qm8"], num_examples=None)
CONFIG = replace(CONFIG, curvature=replace(CONFIG.curvature, num_graphs=4))


@pytest.fixture
def trained(monkeypatch) -> list[SeedWork]:
    """The trainings that were asked for; one with CAGrad's place and seed 1 diverges."""
    made: list[tuple[SeedWork, str | None]] = []

    def training_of(work, task):
        def to(until, progress):
            made.append((work, task))
            work.folder_of(task).mkdir(parents=True)
            if work.config.train.weighting == "nash" and work.seed == 1:
                raise FloatingPointError("the parameters are not finite")
            tasks = work.network.tasks if task is None else (task,)
            rows = [
                (epoch, split, name, 1.0, 0.1 if split == "train" else 0.5)
                for epoch in range(4)
                for split in ("train", "test")
                for name in tasks
            ]
            return pd.DataFrame(rows, columns=["epoch", "split", "task", "mse", "mae"])

        return SimpleNamespace(to=to)

    monkeypatch.setattr(SeedWork, "training_of", training_of)
    return made


def test_all_weightings_but_three_stand_for_themselves_are_published_or_by_curvature():
    apart = {"equal", "fixed", "gauss-newton-root"}
    assert {*PUBLISHED, *BY_CURVATURE, *apart} == set(WEIGHTINGS)
    assert len(PUBLISHED) + len(BY_CURVATURE) + len(apart) == len(WEIGHTINGS)


def test_the_five_are_the_least_mean_delta_m_of_their_kind_at_their_own_rate(weighed):
    screen = weighed.screened(TASKS, FACTORS)
    slower = (screen["weighting"] == "nash") & (screen["seed"] != 1000)
    screen.loc[slower | np.isclose(screen["learning_rate"], 1e-3), "learning_rate"] = 1e-3
    # The rate of Nash-MTL is another: its best one on the seed that chooses rates.
    chosen_there = (screen["weighting"] == "nash") & (screen["seed"] == 1000)
    screen.loc[chosen_there & np.isclose(screen["learning_rate"], 1e-3), "mae"] = 0.1
    chosen = methods(screen)
    assert [m.weighting for m in chosen] == [
        *("equal", "fixed", "nash", "frobenius", "gauss-newton-root", ALONE)
    ]
    assert [m.learning_rate for m in chosen] == [2e-3, 2e-3, 1e-3, 2e-3, 2e-3, 2e-3]
    assert chosen[1].task_weights == (1.0, 1 / 3)  # as it was trained, not as it is printed
    assert chosen[1].weights == "1 0.333333"


def test_a_weighting_that_diverged_once_is_never_the_best(weighed):
    screen = weighed.screened(TASKS, FACTORS)
    lost = (screen["weighting"] == "nash") & (screen["seed"] == 1002)
    screen.loc[lost, "mae"] = np.inf
    assert methods(screen)[2].weighting != "nash"


def test_stage_2_does_not_start_before_stage_1_is_complete(weighed, tmp_path, capsys):
    screen = weighed.screened(TASKS, FACTORS)
    with pytest.raises(StageError, match="lacks 1 runs of its present step"):
        methods(screen[:-2])
    assert weigh.main(["--stage", "2", "--out", str(tmp_path)]) == 1
    assert "stage 1, which lacks all of its runs" in capsys.readouterr().err


def test_runs_are_done_once_in_pieces_and_leave_their_states_where_they_are_needed(
    weighed, alcohols, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(decision, "SEEDS", tuple(range(11)))  # one more than are kept
    screen = weighed.screened(TASKS, FACTORS)
    chosen, count = methods(screen), 7 * 11  # five weightings and two tasks alone
    told: list[str] = []

    def go_on(most):
        return decide(
            CONFIG, alcohols, screen, tmp_path, "qm8", most=most, progress=False, say=told.append
        )

    assert len(go_on(4)) == 4 * len(TASKS)
    table = go_on(None)
    assert len(trained) == len(told) == count
    assert not runs(chosen, TASKS, table)
    assert len(table) == 5 * 11 * 2 + 2 * 11
    pd.testing.assert_frame_equal(go_on(None), table)
    assert len(trained) == count
    lost = table[np.isinf(table["mae"])]
    assert set(lost["weighting"]) == {"nash"}
    assert set(lost["seed"]) == {1}
    np.testing.assert_allclose(table["train_mae"][np.isfinite(table["mae"])], 0.1)
    kept = {path.parent.name for path in tmp_path.glob("weighting-equal/qm8/*/training")}
    assert kept == {f"seed-{seed}" for seed in range(10)}
    assert len(list(tmp_path.glob("weighting-equal/qm8/seed-*/single/NA"))) == 10
    kept = {path.parent.name for path in tmp_path.glob("weighting-nash/qm8/*/training")}
    assert kept == {f"seed-{seed}" for seed in range(10) if seed != 1}
    with pytest.raises(ValueError, match=r"`most` \(--most\) must be at least 0, got -1"):
        go_on(-1)


def test_the_command_goes_on_in_pieces_and_ends_with_table_and_figure(
    weighed, alcohols, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(decision, "SEEDS", (0, 2))
    monkeypatch.setattr(weigh, "named", lambda *args, **kwargs: (None, alcohols))
    preset = Preset("small", {"qm8": CONFIG})
    monkeypatch.setattr(weigh, "PRESETS", {"compare": preset, "weighting": preset})
    folder = tmp_path / "weighting"
    folder.mkdir()
    weighed.screened(TASKS, FACTORS).to_csv(folder / "screen_qm8.csv", index=False)
    command = ["--stage", "2", "--out", str(tmp_path), "--progress", "False"]
    assert weigh.main([*command, "--most", "3"]) == 0
    assert "11 runs are left" in capsys.readouterr().out
    assert weigh.main(command) == 0
    text = capsys.readouterr().out
    assert len(trained) == 14
    assert "| nash | best published | 0.002 | 0.0 (0.0 to 0.0) |" in text
    assert (folder / "delta_m_qm8.md").exists()
    assert (folder / "figure15.png").stat().st_size > 0
    monkeypatch.setattr(why, "SEEDS", (0, 2))
    assert weigh.main(["--stage", "3", *command[2:], "--most", "0"]) == 0
    assert f"{5 * 2 * 5} states are left" in capsys.readouterr().out


def test_a_piece_is_balanced_and_a_program_serves_several_seeds(weighed):
    chosen = methods(weighed.screened(TASKS, FACTORS))
    order = runs(chosen, TASKS, read_decided(SimpleNamespace(exists=lambda: False)))
    first = order[: 7 * 10]
    assert {run.seed for run in first} == set(range(10))
    assert [run.seed for run in first[:10]] == list(range(10))
    assert len({(run.method, run.task) for run in first[:10]}) == 1


def test_a_table_of_other_choices_is_refused(weighed):
    screen = weighed.screened(TASKS, FACTORS)
    table = weighed.decided(weighed.screened(TASKS, {**FACTORS, "mgda": 0.5}), {})
    with pytest.raises(ValueError, match=r"holds runs of .*mgda.* stage 1 has not chosen"):
        runs(methods(screen), TASKS, table)


def test_networks_are_those_that_the_preset_compare_trains(weighed, alcohols, tmp_path):
    chosen = methods(weighed.screened(TASKS, FACTORS))
    config = replace(CONFIG, seeds=(0, 3))
    # As `reproduce --preset compare --name weighting-equal --seeds 0 3` makes them.
    theirs = seed_works(config, alcohols, tmp_path / "weighting-equal" / "qm8")[1]
    ours = [
        work_of(Run(method, 3, task), theirs, tmp_path, "qm8")
        for method, task in ((chosen[0], None), (chosen[-1], "a"))
    ]
    for work, task in zip(ours, (None, "a"), strict=True):
        assert work.folder_of(task) == theirs.folder_of(task)
        assert work._settings_of(task) == theirs._settings_of(task)
        assert work.network_of(task) == theirs.network_of(task)
    other = work_of(Run(chosen[3], 12), theirs, tmp_path, "qm8")
    assert other.folder == tmp_path / "weighting-frobenius" / "qm8" / "seed-12"
    assert other.config.train.weighting == "frobenius"
    assert other.settings.keep_epochs == ()
    assert decision.decided_path(tmp_path, "qm8").name == "stage2_qm8.csv"


@pytest.mark.slow
def test_what_was_trained_here_the_command_and_stage_3_take_the_curvature_of(
    weighed, alcohols, monkeypatch, tmp_path
):
    """Real trainings, of one seed with equal weights and of each task alone."""
    monkeypatch.setattr(decision, "SEEDS", (0,))
    screen = weighed.screened(TASKS, FACTORS)
    equal, *_, alone = methods(screen)
    monkeypatch.setattr(decision, "methods", lambda screened: (equal, alone))
    sizes = replace(CONFIG.network, num_steps=1, width=4, head_width=4)
    config = replace(CONFIG, network=sizes, train=replace(CONFIG.train, num_epochs=2))
    table = decide(config, alcohols, screen, tmp_path, "qm8", progress=False, say=lambda _: None)
    assert np.isfinite(table["mae"]).all()
    folder = tmp_path / "weighting-equal" / "qm8"
    work = begin_study(replace(config, seeds=(0,)), alcohols, folder, progress=False)
    missing = work.unfinished()
    assert missing
    assert not [text for text in missing if text.startswith("training")]
    assert work.seeds[0].sound_states(None) == list(work.seeds[0].epochs)
    assert work.seeds[0].sound_states("NA")[-1] == 2
    # The curvature along it: the gradients' cosine is one number for two tasks.
    monkeypatch.setattr(why, "SEEDS", (0,))
    monkeypatch.setattr(why, "EPOCHS", (1, 2))
    found = Decision("QM8", TASKS, (equal,), table)
    rows = [
        why.measure(config, alcohols, found, tmp_path, "qm8", most=1, say=lambda _: None)
        for _ in range(3)
    ]
    assert [len(some) for some in rows] == [2, 4, 4]
    assert (rows[-1][list(why.CURVATURES)] > 0).all(axis=None)
    assert rows[-1]["conflict"][0] == pytest.approx(rows[-1]["conflict"][1], abs=1e-5)
    # No eigenvalue exceeds the root of the sum of all squares.
    assert (rows[-1]["sharpness"] < 1.5 * rows[-1]["frobenius"]).all()
    pd.testing.assert_frame_equal(
        why.read_measured(why.measured_path(tmp_path, "qm8")), rows[-1], rtol=1e-4
    )
