"""Arguments: what is accepted as a number, a factor and a key, and as which value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec._base.arguments import (
    check_key,
    did_you_mean,
    in_dtype,
    real_number,
    shown,
    whole_number,
)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.asarray(3)])
def test_whole_numbers_are_those_of_python_and_numpy(value):
    found = whole_number("k", value)
    assert (found, type(found)) == (3, int)


def test_the_least_whole_number_counts_itself_and_may_be_left_out():
    assert whole_number("k", 0, least=0) == 0
    assert whole_number("k", -5, least=None) == -5
    with pytest.raises(ValueError, match="`k` must be at least 0, got -1"):
        whole_number("k", -1, least=0)


def test_the_nearest_word_is_asked_for_whatever_its_case_and_no_far_one():
    known = ("smiles", "gap", "dipole")
    assert did_you_mean("dipol", known) == " (did you mean 'dipole'?)"
    assert did_you_mean("SMILES", known) == " (did you mean 'smiles'?)"
    assert did_you_mean("energy", known) == did_you_mean("x", ()) == ""
    assert did_you_mean("12", (12, 7)) == " (did you mean 12?)"  # shown as it must be written


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), jnp.asarray(2)])
def test_real_numbers_come_as_floats(value):
    assert real_number("rtol", value) == 2.0
    assert type(real_number("rtol", value)) is float


@pytest.mark.parametrize("value", [True, "2", 2j, [2.0], None])
def test_what_is_not_one_real_number_is_shown(value):
    with pytest.raises(TypeError, match="`rtol` must be a number, got"):
        real_number("rtol", value)


def test_a_factor_survives_its_dtype_or_is_refused():
    """The smallest normal number is kept; half of it would be flushed to 0."""
    tiny = float(np.finfo(np.float32).tiny)
    single = np.dtype(np.float32)
    np.testing.assert_array_equal(in_dtype("scale", [tiny, 0.0, -1.5], single), [tiny, 0.0, -1.5])
    for lost in (tiny / 2, 1e39):
        with pytest.raises(ValueError, match=r"`scale` must have a size between .*in float32"):
            in_dtype("scale", [1.0, lost], single)
    with pytest.raises(ValueError, match="`scale` must be finite"):
        in_dtype("scale", np.inf, single)


def test_keys_of_the_old_style_are_the_same_keys():
    old, new = jax.random.PRNGKey(7), jax.random.key(7)
    np.testing.assert_array_equal(
        jax.random.key_data(check_key(old)), jax.random.key_data(check_key(new))
    )
    for wrong, said in ((None, "nothing"), (jax.random.split(new, 2), "Array"), (7, "int 7")):
        with pytest.raises(TypeError, match=f"one random key, .* got .*{said}"):
            check_key(wrong)


def test_long_values_are_cut_in_messages():
    assert len(shown("a" * 1000)) < 60
    assert shown(3) == "int 3"
