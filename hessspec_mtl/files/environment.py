"""Variables of the environment that processes started meanwhile are to find."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


@contextmanager
def environment_kept(names: Collection[str]) -> Iterator[None]:
    """At the end these variables of this process are what they were, whoever set them within."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
