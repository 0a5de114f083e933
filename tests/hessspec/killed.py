"""Runs that end at any of their products, and go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from hessspec._base import kept
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.over_data import DataOperator


class KilledError(Exception):
    """What ends a run in the tests that need no process of their own."""


@contextmanager
def counted(most: float = np.inf) -> Iterator[list[None]]:
    """Inside, blocks of products and forms are counted, and the one after `most` of them ends the
    run. All states are written, however long that takes."""
    seen: list[None] = []

    def watched(multiply: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if len(seen) >= most:
                raise KilledError
            seen.append(None)
            return multiply(*arguments)

        return called

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "_PARTS_OF_TIME", 1)
        for kind in (AbstractOperator, DataOperator):
            for name in ("rows", "forms"):
                patch.setattr(kind, name, watched(getattr(kind, name)))
        yield seen


def killed(ask: Callable[..., Any], most: int, **options: Any) -> None:
    """Ask, and be killed at the product after so many."""
    with counted(most), pytest.raises(KilledError):
        ask(**options)


def same(found: Any, expected: Any) -> None:
    """All numbers to the last bit, and all words."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(new, old)
        assert np.asarray(new).dtype == np.asarray(old).dtype


def goes_on(
    ask: Callable[..., Any],
    folder: Path,
    options: dict[str, Any],
    *,
    again: int,
    everywhere: bool = False,
) -> int:
    """A run that is killed half-way, or at some seven places, and asked again ends with the same
    bits, with the products that were left and `again` blocks at most; then without any.

    Returns:
        The most bytes that are left in the folder of such a run.
    """
    with counted() as whole:
        expected = ask(**options)
    count = len(whole)
    places = sorted({*range(0, count, max(count // 6, 1)), count - 1})
    left_on_disk = 0
    for most in places if everywhere else [count // 2]:
        place = folder / str(most)
        killed(ask, most, checkpoint=place, **options)
        with counted() as left:
            same(ask(place, **options), expected)
        assert len(left) <= count - most + again
        with counted() as nothing:
            same(ask(place, **options), expected)
        assert not nothing
        bytes_here = sum(path.stat().st_size for path in place.rglob("*"))
        left_on_disk = max(left_on_disk, bytes_here)
    return left_on_disk
