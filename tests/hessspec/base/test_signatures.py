"""Calls that do not fit are answered with one that does; errors inside a function pass."""

import pytest

from hessspec._base.signatures import called_as, explained

pytestmark = pytest.mark.any_dtype


@called_as("f(x, scale=1.0)", "f(operator)")
def f(x, *, scale=1.0):
    """What f does."""
    return x["entry"] * scale


def test_a_call_that_fits_is_made_as_it_stands():
    assert f({"entry": 3.0}, scale=2.0) == 6.0
    assert f.__doc__ == "What f does."


def test_a_call_that_does_not_fit_shows_all_that_do():
    message = r"`f` cannot be called so \(.*'y'\); call `f\(x, scale=1.0\)` or `f\(operator\)`\."
    with pytest.raises(TypeError, match=message):
        f(1.0, y=2)


def test_errors_inside_pass_as_they_are():
    with pytest.raises(TypeError, match="not subscriptable"):
        f(3)
    with (
        pytest.raises(TypeError, match=r"^unsupported operand") as caught,
        explained(lambda x: x, (1,), "loss_fn(params)", "do something"),
    ):
        _ = 1 + "a"
    assert caught.value.__cause__ is None


def test_a_function_that_cannot_take_its_arguments_is_told_how_it_is_called():
    def loss(params, batch):
        return 0.0

    with (
        pytest.raises(
            TypeError, match=r"`loss_fn` is called as .* takes \(params, batch\), missing"
        ),
        explained(loss, (1,), "loss_fn(params)", "pass `data`"),
    ):
        loss(1)
