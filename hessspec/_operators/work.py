"""How much a product computes and moves, counted from the equations of the loss and nothing else.

No clock is asked, and nothing is compiled: the same program has the same count on every machine.
"""

import math
from typing import Any, NamedTuple

from hessspec._operators.algebra import AbstractOperator, ComposedOperator
from hessspec._operators.function import FunctionOperator
from hessspec._operators.over_data import DataOperator
from hessspec._operators.traces import inner_traces, is_literal

# A product once the gradient is linearised, in passes of the loss: each product of matrices in the
# loss becomes three in a gradient, and each of these two in its tangent. Measured .156 to .160 s
# on the paper's network, where a pass is 4.8 Gflop.
PASSES = 6.0
# What is computed entry by entry and not read by the next equation in the same pass.
FUSED = 0.5
# What lays arrays side by side and multiplies nothing.
_NO_PRODUCT = ("concatenate", "pad", "dynamic_update_slice")


class Work(NamedTuple):
    """Multiplications and additions in products of matrices, and bytes that go through memory."""

    flops: float
    nbytes: float

    def times(self, factor: float) -> "Work":
        """So many of it."""
        return Work(factor * self.flops, factor * self.nbytes)


def product_work(operator: AbstractOperator) -> Work | None:
    """That of one product with one task's Hessian; None where it is not known.

    It is not known of data that are read again for each block, and where a product is not made
    from a trace.
    """
    if isinstance(operator, FunctionOperator):
        return work_of(operator.function.program.trace).times(1 / (operator.num_tasks or 1))
    if isinstance(operator, DataOperator) and operator.streamed is None:
        passes = [
            work_of(function.program.trace).times(chunk.group.weights.size)
            for chunk in operator.chunks
            for function in chunk.functions
        ]
        return _sum(passes).times(PASSES)
    if isinstance(operator, ComposedOperator):
        parts = [product_work(part) for part in operator.parts]
        return None if None in parts else _sum([part for part in parts if part is not None])
    return None


def work_of(trace: Any) -> Work:
    """That of one evaluation of a trace; bodies of loops as often as they are known to turn.

    A product of matrices reads its factors and writes its result. Of all else half of what it
    writes is counted, for compilers fuse it with what comes next. Of branches all are counted, of a
    `while` one turn.
    """
    found = []
    for equation in trace.eqns:
        bodies = list(inner_traces(equation))
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        found += [work_of(body).times(turns) for body in bodies] or [_work_of_one(equation)]
    return _sum(found)


def _sum(works: list[Work]) -> Work:
    return Work(sum(work.flops for work in works), sum(work.nbytes for work in works))


def _work_of_one(equation: Any) -> Work:
    written = sum(map(_nbytes, equation.outvars))
    flops = _product_flops(equation)
    if flops == 0.0:
        return Work(0.0, FUSED * written)
    read = sum(_nbytes(atom) for atom in equation.invars if not is_literal(atom))
    return Work(flops, read + written)


def _product_flops(equation: Any) -> float:
    """2 m n k of a product of matrices, a convolution, or a primitive that is one; else 0."""
    name, shapes = equation.primitive.name, [_shape(atom) for atom in equation.invars]
    result = math.prod(_shape(equation.outvars[0])) if equation.outvars else 0
    if name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        return 2.0 * result * math.prod(shapes[0][axis] for axis in summed)
    if name == "conv_general_dilated":
        # Each entry of the result sums over the kernel but for its axis of results.
        out = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * result * math.prod(shapes[1]) / max(out, 1)
    if name in _NO_PRODUCT or len(shapes) != 2 or not all(len(shape) == 2 for shape in shapes):
        return 0.0
    if shapes[0] == shapes[1] or not all(map(_is_float, equation.invars)):
        return 0.0
    # A primitive of somebody's own; entry by entry it would take arrays of one shape. The sizes of
    # (m, k), (k, n) and (m, n) have the product (mnk)².
    sizes = [math.prod(shape) for shape in shapes]
    return 2.0 * math.sqrt(sizes[0] * sizes[1] * result)


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def _is_float(atom: Any) -> bool:
    return getattr(getattr(atom.aval, "dtype", None), "kind", "") == "f"


def _nbytes(atom: Any) -> float:
    dtype = getattr(atom.aval, "dtype", None)
    return float(math.prod(_shape(atom)) * getattr(dtype, "itemsize", 0))
