"""States on disk as orbax writes them; the one module that imports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orbax.checkpoint as ocp


def checkpointer() -> ocp.Checkpointer:
    """What writes a nested dict of NumPy arrays to a folder and reads it back."""
    arrays = ocp.type_handlers.create_type_handler_registry((np.ndarray, _PatientArrays()))
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=arrays))


class _PatientArrays(ocp.type_handlers.NumpyHandler):
    """Arrays on their way to or from the disk all arrive, also when one of them has failed.

    orbax moves them at the same time and closes its event loop at the first failure. Each of the
    others, when it arrives, then tells a loop that is closed, and Python reports an error that
    nobody can catch.
    """

    async def deserialize(self, infos: Any, args: Any = None) -> Any:
        async with _all_arrived():
            return await super().deserialize(infos, args)

    async def _background_serialize(self, *arguments: Any, **keywords: Any) -> Any:
        async with _all_arrived():
            return await super()._background_serialize(*arguments, **keywords)


@asynccontextmanager
async def _all_arrived() -> AsyncIterator[None]:
    """Leaves when everything that was begun inside has ended, well or not."""
    others = asyncio.all_tasks()
    try:
        yield
    finally:
        await asyncio.gather(*(asyncio.all_tasks() - others), return_exceptions=True)
