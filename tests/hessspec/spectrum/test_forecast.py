"""A forecast says what a density takes before it is begun."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from hessspec import HessianOperator
from hessspec._base.memory import size
from hessspec._spectrum.forecast import duration
from tests.spectra import hessian, outliers, with_spectrum

KEY = jax.random.key(0)


def test_products_are_those_that_the_run_counts():
    operator = hessian(with_spectrum(outliers()))
    told = hessspec.forecast(operator, num_probes=2, num_steps=30)
    run = hessspec.density(operator, key=KEY, num_probes=2, num_steps=30, progress=False)
    assert told.num_matvecs == run.num_matvecs == 60
    assert told.spent == 12
    assert 0 < told.seconds < 60
    assert str(told) == repr(told)
    assert str(told).startswith(
        "The density of 120 parameters with 2 probes of 30 steps takes 60 products, "
    )


@pytest.mark.any_dtype
def test_a_run_shorter_than_what_the_host_does_besides_is_told_in_one_way():
    short, long = (hessspec.Forecast(60, 2000, seconds, 12, "It") for seconds in (0.01, 61.0))
    assert "60 products, a second or less on this device" in str(short)
    assert "60 products, about 61 s on this device" in str(long)
    assert "It takes 1 product, a" in str(hessspec.Forecast(1, 2000, 0.01, 1, "It"))


def test_tasks_come_one_after_the_other():
    one = with_spectrum(outliers())
    told = hessspec.forecast(hessian(np.stack([one, -one])), num_probes=2, num_steps=30)
    assert told.num_matvecs == 120
    assert "2 tasks" in str(told)


def test_a_small_operator_is_formed_whole():
    operator = hessian(np.diag(np.arange(12.0)))
    told = hessspec.forecast(operator)
    run = hessspec.density(operator, key=KEY, progress=False)
    assert told.num_matvecs == run.num_matvecs == 12
    assert "by its whole matrix" in str(told)


@pytest.mark.any_dtype
def test_what_is_no_operator_is_refused():
    with pytest.raises(TypeError, match="`operator`"):
        hessspec.forecast(lambda p: p)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`num_steps`"):
        hessspec.forecast(hessian(np.eye(120)), num_steps=0)


@pytest.mark.any_dtype
def test_times_and_sizes_are_written_as_people_say_them():
    assert [duration(s) for s in (0.012, 61.0, 600.0, 9000.0, 3e5)] == [
        "0.012 s",
        "61 s",
        "10 min",
        "2.5 h",
        "3.5 days",
    ]
    assert [size(n) for n in (1, 12, 1500, 2.5e6, 7.71e9)] == [
        "1 byte",
        "12 bytes",
        "1.5 kB",
        "2.5 MB",
        "7.71 GB",
    ]


def network(sizes, seed=0):
    """A tanh network with a mean squared error."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(sizes))
    params = [jnp.asarray(rng.normal(size=p) / p[0] ** 0.5, jnp.float32) for p in pairs]
    inputs, targets = (
        jnp.asarray(rng.normal(size=(512, n)), jnp.float32) for n in (sizes[0], sizes[-1])
    )

    def loss(weights):
        hidden = inputs
        for weight in weights[:-1]:
            hidden = jnp.tanh(hidden @ weight)
        return ((hidden @ weights[-1] - targets) ** 2).mean()

    return HessianOperator(loss, params)


@pytest.mark.slow
@pytest.mark.any_dtype
@pytest.mark.parametrize(
    ("sizes", "probes", "steps"),
    [
        ((64, 256, 256, 10), 2, 100),
        ((32, 128, 128, 128, 4), 4, 60),
        ((64, 400, 400, 4), 2, 60),
        ((64, 900, 900, 4), 1, 40),
        ((256, 1200, 10), 2, 90),
    ],
)
def test_the_time_is_right_within_a_factor_of_one_and_a_half(sizes, probes, steps):
    """On a machine that has nothing else to do: the better of three, of both.

    Networks of 40,000 parameters and more: below that the last decompositions on the host, which
    are left out, take as long as the products.
    """
    operator, options = network(sizes), {"num_probes": probes, "num_steps": steps}
    told = min(hessspec.forecast(operator, **options).seconds for _ in range(3))
    taken = []
    for _ in range(4):  # the first one compiles
        begin = time.perf_counter()
        hessspec.density(operator, key=KEY, progress=False, **options)
        taken.append(time.perf_counter() - begin)
    assert 1 / 1.5 <= min(taken[1:]) / told <= 1.5
