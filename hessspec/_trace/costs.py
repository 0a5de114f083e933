"""What a direction of a basis and a sample beside it cost, in products, before any is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hessspec._krylov.basis import ROWS_PER_CHUNK
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.work import Work, product_work


@dataclass(frozen=True)
class Machine:
    """How fast a machine is; only ratios of these matter.

    Attributes:
        flops: multiplications and additions a second in products of matrices.
        nbytes: bytes a second, read or written.
        normal, sign: seconds for one entry of a random row.
        thin: which share of `flops` a product of a few long rows with a few others reaches.
    """

    flops: float
    nbytes: float
    normal: float
    sign: float
    thin: float


# Two cores of the machine on which this was written, measured on the paper's network. One machine
# stands for all: a choice by the device at hand, or by a clock, would make the answer to one key
# another one elsewhere. Its nine flops a byte are between a laptop's and an accelerator's sixteen.
MACHINE = Machine(flops=1.8e11, nbytes=2e10, normal=1.2e-8, sign=2.2e-9, thin=0.25)

_TOGETHER = 8  # rows that are projected in one reading of the basis
# How often a row of length P is read or written beside its product: scaled, flattened, summed up.
_PASSES_OF_A_ROW = 4
# To make a new direction orthonormal takes as much as so many projections, and so many passes.
_PROJECTIONS, _PASSES_OF_QR = 3, 20


@dataclass(frozen=True)
class Costs:
    """Prices in products with one task's Hessian, from a count of the loss (`work`).

    Attributes:
        form: of v'Hv for all tasks; a product where these are multiplied.
        extra: what a direction takes for its forms beside its product.
        projection: of a row on one chunk of 16 rows of a basis, eight rows in one reading.
        probe: of drawing one that all batches share: random signs for several tasks.
        sign: of drawing random signs.
        row: of reading or writing one.
    """

    form: float
    extra: float
    projection: float = 0.0
    probe: float = 0.0
    sign: float = 0.0
    row: float = 0.0

    @classmethod
    def of(cls, operator: AbstractOperator, machine: Machine = MACHINE) -> Costs:
        """Those of an operator. Where its work is not known, products are taken for all there is:
        data that are read again each time, and functions of others."""
        form = operator.form_cost
        extra = 0.0 if operator.num_tasks is None else form
        work = product_work(operator)
        product = 0.0 if work is None else seconds(work, machine)
        if product == 0.0:
            return cls(form, extra)
        dim, row = operator.dim, operator.dim * operator.dtype.itemsize / machine.nbytes
        # The chunk is read twice for all rows together, each row read twice and written.
        read = (2 * ROWS_PER_CHUNK / _TOGETHER + 3) * row
        thin = 4 * ROWS_PER_CHUNK * dim / (machine.flops * machine.thin)
        return cls(
            form,
            extra,
            projection=(read + thin) / product,
            probe=dim * (machine.sign if operator.num_tasks else machine.normal) / product,
            sign=dim * machine.sign / product,
            row=row / product,
        )

    def project(self, rank: int) -> float:
        """A row beside a basis of this rank."""
        return math.ceil(rank / ROWS_PER_CHUNK) * self.projection

    def direction(self, rank: int) -> float:
        """One more, which makes the rank this: its product, what makes it orthonormal, its forms;
        and the eight rows of the pilot lose what they have along it."""
        rows = _PASSES_OF_QR * self.row
        return 1.0 + self.extra + _PROJECTIONS * self.project(rank) + rows

    def sample(self, rank: int) -> float:
        """With a probe that all batches share."""
        return self.form + self.probe + _PASSES_OF_A_ROW * self.row + self.project(rank)

    def of_signs(self) -> float:
        """With random signs and no basis."""
        return self.form + self.sign + _PASSES_OF_A_ROW * self.row

    def own_sample(self, rank: int, groups: int) -> float:
        """With a probe of their own for groups of batches."""
        return self.form + groups * (self.sign + _PASSES_OF_A_ROW * self.row + self.project(rank))


def seconds(work: Work, machine: Machine = MACHINE) -> float:
    """How long the machine takes for it, computing and moving one after the other."""
    return work.flops / machine.flops + work.nbytes / machine.nbytes
