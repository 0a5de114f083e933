"""Progress bars with the time left, shown where a person is looking."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm


class ProgressBar(Protocol):
    """What the long loops need of a bar."""

    def update(self, n: int = 1) -> object:
        """Report that `n` more units of work are done."""
        ...


@contextmanager
def progress_bar(
    total: int | None, description: str, *, enabled: bool | None = None, unit: str = "product"
) -> Iterator[ProgressBar]:
    """A bar for `total` units of work; silent when `enabled` is False.

    With `enabled=None` the bar is shown only if standard error is a terminal, so logs and
    notebooks' captured output stay clean.
    """
    shown = sys.stderr.isatty() if enabled is None else enabled
    bar = tqdm(total=total, desc=description, unit=unit, disable=not shown, leave=False)
    try:
        yield bar
    finally:
        bar.close()
