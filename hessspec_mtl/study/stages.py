"""The stages of a study, which may be done at different times and on different machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Stage = Literal["train", "curvature", "report"]

STAGES: tuple[Stage, ...] = ("train", "curvature", "report")
"""All stages, in the order in which they build on each other."""


class StageError(RuntimeError):
    """A stage that lacks what it builds on; the message says what, and what to run first."""


def check_stages(stages: Sequence[Stage], keep_states: str) -> None:
    """Raise if these stages do not make sense together.

    Raises:
        ValueError: for none, one named twice, or training alone that would drop what the curvature
            is to be taken of.
    """
    if not stages or len(set(stages)) < len(stages):
        raise ValueError(
            f"`--stages` must name at least one of {', '.join(STAGES)}, each once, got "
            f"{' '.join(stages) or 'none'}."
        )
    if "train" in stages and "curvature" not in stages and keep_states == "last":
        raise ValueError(
            "`--keep-states last` keeps no state that the curvature could be taken of later; give "
            "`--stages train curvature`, which takes it while training, or `--keep-states "
            "analysed`."
        )
