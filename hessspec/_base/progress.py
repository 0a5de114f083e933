"""Progress bars with the time left, shown where a person is looking."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import jax


class ProgressBar(Protocol):
    """What the long loops need of a bar."""

    def update(self, n: int = 1) -> object:
        """Report that `n` more units of work are done."""
        ...


class Counted:
    """A bar that knows how much was done."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar, self.done = bar, 0

    def update(self, n: int = 1) -> object:
        """Report that `n` more units of work are done."""
        self.done += n
        return self.bar.update(n)


@contextmanager
def progress_bar(
    total: int | None, description: str, *, enabled: bool | None = None, unit: str = "product"
) -> Iterator[ProgressBar]:
    """A bar for `total` units of work; silent when `enabled` is False.

    With `enabled=None` the bar is shown if standard error is a terminal or the code runs in a
    notebook, so that logs stay clean. While JAX compiles a program it says "compiling".
    """
    shown = is_watched() if enabled is None else enabled
    with warnings.catch_warnings():
        # Without ipywidgets a notebook gets a bar of text, which needs no warning.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    bar = tqdm(total=total, desc=description, unit=unit, disable=not shown, leave=False)
    if shown:
        _watch_compilations()
        _SHOWN.append(bar)
    try:
        yield bar
    finally:
        bar.close()
        if shown:
            _SHOWN[:] = [other for other in _SHOWN if other is not bar]


_SHOWN: list[Any] = []  # the bars that are open


@cache
def _watch_compilations() -> None:
    jax.monitoring.register_event_duration_secs_listener(_at_event)


def _at_event(event: str, duration_secs: float, **kwargs: str | int) -> None:
    """Lowering ends where the compiler begins. Its end is shown with the next work that is done, so
    that many small programs do not make the bar flicker."""
    del duration_secs, kwargs
    begins = event == "/jax/core/compile/jaxpr_to_mlir_module_duration"
    if not begins and event != "/jax/core/compile/backend_compile_duration":
        return
    for bar in _SHOWN:
        bar.set_postfix_str("compiling" if begins else "", refresh=begins and not bar.postfix)


def is_watched() -> bool:
    """Whether a person is looking: at a terminal, or at a notebook that this process serves."""
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    # A notebook has imported IPython; nobody else needs it.
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
