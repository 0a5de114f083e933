"""Outliers of a classifier: one less than classes in H and G, and in the span of class means."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "outliers.md"


@pytest.fixture(scope="module", params=[5, pytest.param(10, marks=pytest.mark.slow)])
def page(request):
    """The names of the page's script, with this many classes and without what it prints."""
    script = PAGE.read_text("utf-8").split("```python\n")[1].split("\nkey = ")[0]
    names: dict[str, object] = {}
    exec(script.replace("classes = 5", f"classes = {request.param}"), names)
    return names


@pytest.mark.parametrize("name", ["H", "G"])
def test_class_means_hold_the_outliers(page, name):
    operator, classes = page[name], page["classes"]
    assert isinstance(operator, hessspec.AbstractOperator)
    matrix = np.asarray(operator.dense(), np.float64)
    values = np.linalg.eigvalsh(matrix)[::-1]
    gaps = values[:15] / values[1:16]
    assert int(np.argmax(gaps)) + 1 == classes - 1
    rest = np.asarray(page["without_means"](operator).dense(), np.float64)
    left = np.linalg.eigvalsh((rest + rest.T) / 2)[-1]
    # Below the middle, in decades, of the last outlier and the bulk's edge, if not in the bulk.
    assert left < np.sqrt(values[classes - 2] * values[classes - 1])
    by_hand = np.eye(len(matrix)) - np.asarray(page["basis"]).T @ np.asarray(page["basis"])
    np.testing.assert_allclose(rest, by_hand @ matrix @ by_hand, atol=2e-5 * values[0])


def test_a_mean_gradient_of_each_class_is_a_row(page):
    gradients = jax.jit(jax.jacrev(page["of_classes"]))(page["params"])
    flat = np.concatenate(
        [np.reshape(g, (page["classes"], -1)) for g in jax.tree.leaves(gradients)], axis=1
    )
    span = np.asarray(page["basis"])
    np.testing.assert_allclose(flat @ span.T @ span, flat, atol=1e-4 * float(jnp.abs(flat).max()))
