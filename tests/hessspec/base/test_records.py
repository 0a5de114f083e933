"""Records on disk: what was saved comes back, and what is not a record is named."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec._base.records import load_record, save_record


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "record.npz"
    arrays = {"a": np.arange(3.0), "flag": np.array(True)}
    save_record(path, "Thing", arrays, {"method": "xtrace", "count": 3})
    found, meta = load_record(path, "Thing")
    np.testing.assert_array_equal(found["a"], arrays["a"])
    assert found["flag"]
    assert meta == {"method": "xtrace", "count": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["record.npz"]


@pytest.mark.parametrize("keep", [0, 10, 200, -20])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "record.npz"
    save_record(path, "Thing", {"a": np.random.default_rng(0).normal(size=500)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"record.npz cannot be read as a saved Thing"):
        load_record(path, "Thing")


def test_altered_numbers_are_noticed(tmp_path):
    path = tmp_path / "record.npz"
    save_record(path, "Thing", {"a": np.random.default_rng(0).normal(size=500)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        load_record(path, "Thing")


def test_another_kind_and_another_format_are_refused(tmp_path):
    path = save_record(tmp_path / "record.npz", "Thing", {})
    with pytest.raises(ValueError, match=r"holds a Thing, expected a Other"):
        load_record(path, "Other")
    np.savez(tmp_path / "plain.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="was not written by `save`"):
        load_record(tmp_path / "plain.npz", "Thing")
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "absent.npz", "Thing")


def test_a_missing_folder_is_named_as_the_user_wrote_it(tmp_path):
    path = tmp_path / "results" / "record.npz"
    with pytest.raises(FileNotFoundError, match=r"folder that exists, got .*results/record.npz; m"):
        save_record(path, "Thing", {})
    with pytest.raises(IsADirectoryError, match="must name a file, got the folder"):
        save_record(tmp_path, "Thing", {})
    # Nobody is told to delete a folder.
    with pytest.raises(IsADirectoryError):
        load_record(tmp_path, "Thing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_one_may_not_write_to_is_named_without_the_hidden_file(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"one may write to, got .*/record.npz$"):
        save_record(tmp_path / "record.npz", "Thing", {})


def test_objects_are_refused_and_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="`a` must be an array of numbers"):
        save_record(tmp_path / "record.npz", "Thing", {"a": np.array([object()])})
    with pytest.raises(TypeError):
        save_record(tmp_path / "record.npz", "Thing", {"a": np.ones(2)}, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_results_say_how_their_products_were_computed(tmp_path):
    def loss(x):
        return jnp.sum(jnp.cos(x) * x)

    params, key = jnp.linspace(0.0, 1.0, 400), jax.random.key(0)
    silent = {"progress": False}
    density = hessspec.density(loss, params, key, num_steps=6, **silent)
    assert density.product_plan == "blocks of at most 16, the gradient linearised once"
    diagonal = hessspec.diagonal(loss, params, key, num_matvecs=8, **silent)
    assert diagonal.product_plan.endswith("linearised for each block of vectors")
    pairs = hessspec.eigenpairs(loss, params, key, k=2, tol=1e-2, **silent)
    assert pairs.product_plan == density.product_plan
    anew = hessspec.HessianOperator(loss, params, block_rows=4, rematerialize=True)
    trace = hessspec.trace(anew, key=key, num_matvecs=8, **silent)
    assert trace.product_plan == "blocks of at most 4, the gradient linearised for each vector"
    assert (2.0 * anew + anew).product_plan == trace.product_plan
    trace.save(tmp_path / "trace.npz")
    assert hessspec.TraceEstimate.load(tmp_path / "trace.npz").product_plan == trace.product_plan
