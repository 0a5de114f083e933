"""A trace estimate as arrays and metadata: its own, those of its square and of its runs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from hessspec._base.origin import Origin
from hessspec._trace.choice import Choice

if TYPE_CHECKING:
    from hessspec._trace.estimate import TraceEstimate

_GROUPS = ("by_group", "exact_by_group", "group_shares")
_LEAVES = ("samples", "exact", "pair_covariance", "systematic", *_GROUPS)
_STATIC = (
    "method",
    "dim",
    "num_matvecs",
    "matvecs_per_sample",
    "converged",
    "error_share",
    "product_plan",
    "probes",
    "quantity",
    "origin",
    "choice",
)


def parts_of(
    estimate: "TraceEstimate", prefix: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of an estimate, with those of its square and of its runs."""
    values = {name: getattr(estimate, name) for name in _LEAVES}
    arrays = {prefix + name: np.asarray(v) for name, v in values.items() if v is not None}
    static = {name: getattr(estimate, name) for name in _STATIC}
    static["choice"] = estimate.choice and estimate.choice.written()
    meta: dict[str, Any] = {"self": static}
    meta |= {"square": None, "runs": []}
    if estimate.square is not None:
        inner, found = parts_of(estimate.square, f"{prefix}square.")
        arrays |= inner
        # As version 0.1.0 reads it, where the square is of one run.
        meta["square"] = found if estimate.square.runs else found["self"]
    for number, run in enumerate(estimate.runs):
        inner, found = parts_of(run, f"{prefix}runs.{number}.")
        arrays |= inner
        meta["runs"].append(found)
    return arrays, meta


def restored(
    cls: "type[TraceEstimate]", arrays: dict[str, np.ndarray], prefix: str, meta: dict[str, Any]
) -> "TraceEstimate":
    """The estimate whose arrays stand under `prefix`; metadata may be of an older version."""
    leaves: dict[str, Any] = {name: arrays.get(prefix + name) for name in _LEAVES}
    static = {**meta["self"], "origin": Origin.read(meta["self"].get("origin"))}
    static["choice"] = Choice.read(meta["self"].get("choice"))
    square = meta["square"] and (
        meta["square"] if "self" in meta["square"] else {"self": meta["square"], "square": None}
    )
    return cls(
        **leaves,
        **static,
        square=restored(cls, arrays, f"{prefix}square.", square) if square else None,
        runs=tuple(
            restored(cls, arrays, f"{prefix}runs.{number}.", run)
            for number, run in enumerate(meta.get("runs", []))
        ),
    )
