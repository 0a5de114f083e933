"""Operators whose products follow a plan: how many vectors together, what is kept or recomputed."""

from __future__ import annotations

import equinox as eqx

from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.plan import ProductPlan


class PlannedOperator(AbstractOperator):
    """Multiplies by a plan of its own making, and says which. Not for users."""

    plan: eqx.AbstractVar[ProductPlan]

    @property
    def block_rows(self) -> int:
        return self.plan.block_rows

    @property
    def has_products(self) -> bool:
        return self.plan.modes.products is not None

    @property
    def skips_zeros(self) -> bool:
        """Whether rows of zeros at the end of a block cost nothing."""
        return False

    @property
    def product_plan(self) -> str:
        return str(self.plan)
