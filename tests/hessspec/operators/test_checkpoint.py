"""The folder of a run takes one question, and says what is different about another."""

import json

import jax
import jax.numpy as jnp
import pytest

import hessspec
from hessspec._operators.checkpoint import Checkpoint

pytestmark = pytest.mark.any_dtype


def operator(scale=1.0):
    return hessspec.HessianOperator(lambda x: jnp.sum(x**4), jnp.full(3, scale))


def begin(folder, verb="trace", key=None, scale=1.0, **settings):
    key = jax.random.key(0) if key is None else key
    return Checkpoint(folder, verb, key, operator(scale), {"`k`": 1, **settings})


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


def test_another_version_of_the_files_is_refused_whatever_else_they_hold(tmp_path):
    begin(tmp_path)
    path = tmp_path / "question.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version of these files": 99}))
    with pytest.raises(ValueError, match="another version of these files: 99, now"):
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


def test_what_is_no_path_is_named():
    with pytest.raises(TypeError, match="`checkpoint` must be the path of a folder, got bool True"):
        begin(True)
