"""Operators as a person reads them: their size, the formula of a sum, how a task was chosen."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from hessspec._base.arguments import shown
from hessspec._base.printing import Facts, counted
from hessspec._base.selection import held_numbers
from hessspec._base.space import VectorSpace

# How an operator is written in a formula, given the letter of each that is no sum itself.
Naming = Callable[[Any], str]


def operator_words(operator: Any) -> str:
    """An operator in a line; a composed one by its formula, and a line for each part.

    Nothing is multiplied. Where the tree holds no arrays (a map over it left something else), the
    fields are shown instead.
    """
    try:
        formula, parts = _spelled(operator)
        kind = type(operator).__name__
        said = kind if formula == "A" else f"{kind} {formula}"
        others = [(letter, part) for letter, part in parts if part is not operator]
        where = [f"  {letter}: {_first_line(part)}" for letter, part in others]
        return "\n".join([f"{said} of {size_words(operator)}", *where])
    except (AttributeError, TypeError, ValueError, IndexError):
        return eqx.tree_pformat(operator)


def size_words(operator: Any) -> str:
    """How many parameters an operator has, in which dtype, and how many tasks."""
    tasks = "" if operator.num_tasks is None else f", {counted(operator.num_tasks, 'task')}"
    return f"{counted(operator.dim, 'parameter')} in {np.dtype(operator.dtype).name}{tasks}"


def no_sum(first: Any, second: Any) -> str:
    """Why two operators on other parameters, or of other tasks, cannot be added."""
    sizes = size_words(first), size_words(second)
    paths = set(first.space.paths) ^ set(second.space.paths)
    found = f"got one of {sizes[0]} and one of {sizes[1]}"
    if sizes[0] == sizes[1]:
        which = f": {', '.join(sorted(paths)[:4])} in one alone" if paths else " in their shapes"
        found = f"but leaves of the two differ{which}"
    return f"operators that are added must act on the same parameters and tasks, {found}."


def operator_page(operator: Any) -> str:
    """The same as a small table for a notebook, with how products are computed."""
    title, *lines = repr(operator).splitlines()
    try:
        rows = [("size", size_words(operator))]
        if operator.product_plan:
            rows.append(("products", operator.product_plan))
    except (AttributeError, TypeError, ValueError):  # no arrays in its tree
        rows = []
    return Facts(title.rstrip(":"), rows, lines).as_html()


def data_operator_words(operator: Any) -> str:
    """An operator over data in a line, and its parameters leaf by leaf, those held constant too."""
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(operator.chosen)):
        return eqx.tree_pformat(operator)
    space = operator.space
    entries = zip(space.paths, space.shapes, space.dtypes, space.wrappers, strict=True)
    leaves = [
        f"{path}: {dtype.name}{list(shape)}{f' ({wrapper.__name__})' if wrapper else ''}"
        for path, shape, dtype, wrapper in entries
    ]
    held = [f"{path}: {_shown_leaf(leaf)}" for path, leaf in held_numbers(operator.held)]
    tasks = task_words(operator.weights)
    if operator.num_tasks is not None:
        tasks = counted(operator.num_tasks, "task")
    about = ", ".join(filter(None, [tasks, operator.label]))
    kind, blocks = type(operator).__name__, _by_block(space)
    title = f"{kind} of {counted(operator.dim, 'parameter')}{blocks}, {about}:"
    constant = ["  held constant:", *_listed(held, 8)] if held else []
    return "\n".join([title, *_listed(leaves, 24), *constant])


def _by_block(space: VectorSpace) -> str:
    """How many parameters each top-level part of the tree has, where there are several."""
    counts: dict[str, int] = {}
    for path, size in zip(space.paths, space.sizes, strict=True):
        block = path.split("/")[0]
        counts[block] = counts.get(block, 0) + size
    if not 1 < len(counts) < min(7, len(space.paths)):
        return ""
    return f" ({', '.join(f'{block} {count:,}' for block, count in counts.items())})"


def _shown_leaf(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if eqx.is_array(leaf) else shown(leaf)


def _listed(lines: list[str], most: int) -> list[str]:
    if len(lines) > most:
        lines = [*lines[: most - 4], f"... and {len(lines) - most + 4} more leaves"]
    return [f"    {line}" for line in lines]


def _first_line(operator: Any) -> str:
    return repr(operator).splitlines()[0].rstrip(":")


def _spelled(operator: Any) -> tuple[str, list[tuple[str, Any]]]:
    """The formula of an operator and the parts that its letters stand for."""
    parts: list[tuple[str, Any]] = []

    def name(part: Any) -> str:
        for letter, known in parts:
            if known is part:
                return letter
        letter = string.ascii_uppercase[len(parts)] if len(parts) < 26 else f"A{len(parts)}"
        parts.append((letter, part))
        return letter

    return operator._formula(name), parts


def sum_of(first: str, second: str) -> str:
    """The sum of two formulas."""
    return f"{first} - {second[1:]}" if second.startswith("-") else f"{first} + {second}"


def multiple_of(scale: Float[Array, ""], formula: str) -> str:
    """A number times a formula; c where the number is traced."""
    inner = f"({formula})" if " " in formula or formula.startswith("-") else formula
    if isinstance(scale, Tracer):
        return f"c·{inner}"
    number = float(scale)
    if abs(number) == 1.0:
        return inner if number > 0 else f"-{inner}"
    return f"{number:.4g}·{inner}"


def task_words(weights: Float[Array, " T"] | None) -> str:
    """Which task weights choose, or that they add tasks up; nothing without weights."""
    if weights is None:
        return ""
    count = weights.shape[0]
    if isinstance(weights, Tracer):
        return f"a sum of {count} tasks"
    chosen = np.flatnonzero(np.asarray(weights))
    if chosen.size == 1 and float(weights[chosen[0]]) == 1.0:
        return f"task {chosen[0]} of {count}"
    return f"a weighted sum of {count} tasks"
