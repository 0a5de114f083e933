"""What an epoch on a card is measured by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu.epochs import _molecules, launched, training

pytestmark = pytest.mark.any_dtype


def test_instructions_are_those_of_the_loop_and_not_what_is_fused_into_them():
    """Three products in a row in the body; adding constants and sines to them is no launch more."""

    def text(products):
        def body(x, _):
            for _ in range(products):
                x = jnp.sin(x @ x + 1.0) + 2.0
            return x, None

        looped = jax.jit(lambda x: jax.lax.scan(body, x, None, length=5)[0])
        return looped.lower(jnp.ones((64, 64))).compile().as_text()

    counts = [launched(text(products)) for products in (3, 4, 5)]
    assert counts[2] - counts[1] == counts[1] - counts[0] <= 3
    assert counts[0] <= 12


def test_the_molecules_have_the_sizes_of_qm8():
    """16.1 atoms with a deviation of 2.9, of which none has more than four bonds."""
    graphs, targets = _molecules(400)
    nodes = np.array([g.num_nodes for g in graphs])
    assert nodes.mean() == pytest.approx(16.1, abs=0.5)
    assert nodes.std() == pytest.approx(2.9, abs=0.4)
    assert max(np.bincount(g.senders).max() for g in graphs) <= 4
    assert targets.shape == (400, 4)


@pytest.mark.slow
def test_the_measurement_runs_to_its_end_and_compiles_nothing_while_it_times():
    found = training("lists", "highest", "adamw", tiny=True)
    assert found["the same twice"]
    assert found["compilations while timed"] == 0
    assert np.isfinite(found["mean test error after an epoch"])
