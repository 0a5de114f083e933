"""SciPy's modules, imported when the first of their functions is called.

They take longer to import than all of this package, and whoever makes an operator or asks a command
for its options, needs none of them.
"""

import importlib
from typing import Any


class Later:
    """A module by its name, imported at the first use of one of its names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


linalg = Later("scipy.linalg")
special = Later("scipy.special")
