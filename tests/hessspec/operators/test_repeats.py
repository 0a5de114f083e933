"""What a trace computes twice is computed once, and nothing else is merged."""

import jax
import jax.numpy as jnp
import numpy as np

from hessspec._operators.repeats import without_repeats
from hessspec._operators.traces import inner_traces

BLOCK = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)))
POINT = jnp.asarray(np.random.default_rng(1).normal(size=6))


def count(trace, name):
    """How many equations of that name there are, those of inner functions included."""
    inner = sum(count(body, name) for e in trace.eqns for body in inner_traces(e))
    return inner + sum(equation.primitive.name == name for equation in trace.eqns)


def test_only_what_is_the_same_is_computed_once():
    def function(x, v):
        left, right = jnp.sin(x) * v + 1.0, jnp.sin(x) * v + 2.0
        return left * right - jnp.sin(v) * jnp.sum(x) + jnp.sum(x)

    once = without_repeats(function, POINT, BLOCK[0])
    np.testing.assert_array_equal(once(POINT, BLOCK[1]), function(POINT, BLOCK[1]))
    traced = jax.make_jaxpr(once)(POINT, BLOCK[0])
    assert [count(traced, name) for name in ("sin", "reduce_sum", "add")] == [2, 1, 3]


def test_effects_are_never_merged():
    calls = []

    def function(x):
        for _ in range(2):
            jax.debug.callback(lambda: calls.append(1))
        return 2 * x

    without_repeats(function, POINT)(POINT)
    jax.effects_barrier()
    assert len(calls) == 2
