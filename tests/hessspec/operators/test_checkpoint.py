"""The folder of a run takes one question, and says what is different about another."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec._operators.checkpoint import checkpoint_in

pytestmark = pytest.mark.any_dtype


def operator(scale=1.0):
    return hessspec.HessianOperator(lambda x: jnp.sum(x**4), jnp.full(3, scale))


def begin(folder, verb="trace", key=None, scale=1.0, **settings):
    key = jax.random.key(0) if key is None else key
    settings = {"`k`": 1, **settings}
    with checkpoint_in(folder, verb, key, operator(scale), settings) as checkpoint:
        return checkpoint


def test_the_same_question_is_taken_again_and_others_are_refused_by_name(tmp_path):
    folder = tmp_path / "new" / "deep"
    begin(folder)
    begin(str(folder))
    for name, other in {
        "verb: trace, now density": {"verb": "density"},
        "`k`: 1, now 2": {"`k`": 2},
        "key": {"key": jax.random.key(0, impl="rbg")},
        "point": {"scale": 2.0},
    }.items():
        with pytest.raises(ValueError, match=f"one with another {name}"):
            begin(folder, **other)


# 3: what a trace or a diagonal knew of its basis were pairs, without what each block took off.
# 5: groups of batches had probes of their own where the task that gains least gained.
@pytest.mark.parametrize("version", [3, 5, 99])
def test_another_version_of_the_files_is_refused_whatever_else_they_hold(tmp_path, version):
    begin(tmp_path)
    path = tmp_path / "question.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version of these files": version}))
    told = (
        f"another version of these files: {version}, now .* go on with the hessspec that began it"
    )
    with pytest.raises(ValueError, match=told):
        begin(tmp_path, verb="density")


@pytest.mark.parametrize("text", ["", '{"verb": "tra', "[1, 2]"])
def test_a_damaged_question_is_named(tmp_path, text):
    (tmp_path / "question.json").write_text(text)
    with pytest.raises(ValueError, match=r"question.json is damaged or not of this package"):
        begin(tmp_path)


def test_a_question_that_was_being_written_is_written_anew(tmp_path):
    (tmp_path / "question.part").touch()
    begin(tmp_path)
    begin(tmp_path)


def denied(*_):
    raise PermissionError


def test_folders_that_cannot_be_written_to_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="`checkpoint` must name a folder that can be made"):
            begin(folder)
    monkeypatch.setattr("pathlib.Path.write_text", denied)
    with pytest.raises(PermissionError, match="`checkpoint` must name a folder that can be made"):
        begin(tmp_path / "here")


def test_one_run_at_a_time_works_in_a_folder(tmp_path):
    """Another would take the rows that the first is writing for those of a run that was killed."""
    pytest.importorskip("fcntl")
    question = "trace", jax.random.key(0), operator(), {"`k`": 1}
    refused = f"no other run works in, but process {os.getpid()} works in"
    with checkpoint_in(tmp_path, *question):
        for scale in (1.0, 2.0):
            with pytest.raises(RuntimeError, match=refused):
                begin(tmp_path, scale=scale)
    begin(tmp_path)
    with pytest.raises(KeyboardInterrupt), checkpoint_in(tmp_path, *question):
        raise KeyboardInterrupt
    begin(tmp_path)


def test_a_folder_of_other_files_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="`checkpoint` must name a folder of its own"):
        begin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_over_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    def ask():
        call = (lambda x: jnp.sum(x**4), jnp.ones(3), jax.random.key(0))
        return hessspec.trace(*call, method="hutchinson", num_matvecs=2, checkpoint=tmp_path)

    expected, opened = ask(), Path.open

    def for_reading(path, mode="r", *more, **others):
        return opened(path, mode, *more, **others) if mode in ("r", "rb") else denied()

    monkeypatch.setattr(Path, "open", for_reading)
    for name in ("mkdir", "unlink"):
        monkeypatch.setattr(Path, name, denied_unless_there)
    np.testing.assert_array_equal(ask().samples, expected.samples)


def denied_unless_there(path, *_, exist_ok=False, **__):
    if not (exist_ok and path.is_dir()):
        raise PermissionError


def test_what_is_no_path_is_named():
    with pytest.raises(TypeError, match="`checkpoint` must be the path of a folder, got bool True"):
        begin(True)
