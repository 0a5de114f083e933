"""What stands between a product or form that is wrong and an estimate made of it."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import FunctionOperator
from hessspec._trace.guards import SURE, Guarded, disagreement, finite_forms

pytestmark = pytest.mark.any_dtype


def with_forms(operator: FunctionOperator, change):
    """The operator with other forms than its products have."""
    return SimpleNamespace(
        rows=operator.rows,
        measured_rows=operator.measured_rows,
        forms=lambda block: change(operator.forms(block)),
        space=operator.space,
        dim=operator.dim,
        dtype=operator.dtype,
        has_products=True,
    )


PROBES = jnp.asarray([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])


def diagonal(entries) -> FunctionOperator:
    values = {name: jnp.asarray(part) for name, part in entries.items()}
    return FunctionOperator(lambda v: {n: values[n] * v[n] for n in values}, values)


def test_a_form_that_is_not_finite_names_the_parameters_whose_product_is_not():
    operator = diagonal({"a": [1.0, 2.0], "b": [np.inf]})
    with pytest.raises(ValueError, match="the product H v is not finite in `b`"):
        finite_forms(operator, PROBES)


def test_a_form_that_overflows_alone_is_refused_too():
    operator = with_forms(diagonal({"a": [1.0, 2.0, 3.0]}), lambda forms: forms * jnp.inf)
    with pytest.raises(ValueError, match="v'Hv is not finite although H v is: it overflows"):
        finite_forms(operator, PROBES)


def test_forms_that_are_off_by_little_are_charged_with_it():
    """Both are off by one thousandth, and u'Hv and v'Hu by nothing: the mean square has both."""
    operator = diagonal({"a": [1.0, 2.0, 3.0]})
    forms = np.asarray(operator.forms(PROBES), np.float64)
    found = disagreement(operator, PROBES, forms + 1e-3)
    np.testing.assert_allclose(found, SURE * 1e-3 * (2 / 3) ** 0.5, rtol=1e-2)


def test_forms_that_belong_to_another_matrix_are_refused():
    operator = diagonal({"a": [1.0, 2.0, 3.0]})
    forms = np.asarray(operator.forms(PROBES), np.float64)
    with pytest.raises(ValueError, match="do not belong to one symmetric matrix"):
        disagreement(operator, PROBES, forms + 1.0)


def test_the_asymmetry_of_products_is_that_of_pairs_and_knows_the_scale():
    """Of the block itself ‖V (H - H') V'‖; a pair of independent vectors shows ‖H - H'‖ by it."""
    forms = np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    found = Guarded(jnp.zeros((3, 3)), 4.0, forms, 1.0, np.zeros(3))
    assert found.whole_asymmetry == pytest.approx(4 * (2 * 1 + 2 * 9) ** 0.5)
    assert found.asymmetry == pytest.approx(4 * (20 / 6) ** 0.5)
