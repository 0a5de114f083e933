"""Independent runs of one density, taken together: all their rows, each with its own atoms.

Every row is an unbiased rule by itself, whatever eigenvectors its run found, so rows of runs are
averaged like rows of one run. The atoms of a row stay those that the other probes of its own run
found: without the vectors, which no record keeps, nobody can say what a start of another run has
of them. As numbers they hold for both all the same: `Rows.proved` is what no interval falls below.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hessspec._base.origin import Origin

if TYPE_CHECKING:
    from hessspec._spectrum.record import SpectralDensity

_OF_STEPS = ("nodes", "weights", "multiplicities", "residuals", "alpha", "beta")
_OF_RULES = ("nodes", "weights", "multiplicities", "residuals")


def merged(
    one: "SpectralDensity", other: "SpectralDensity", origin: Origin | None
) -> "SpectralDensity":
    """The rows of `one`, then those of `other`, with as many slots as the longer of them has."""
    steps = max(one.num_steps, other.num_steps)
    longer = [_padded(run, steps) for run in (one, other)]
    exact = np.asarray(one.exact) | np.asarray(other.exact)
    longer = [_told(run, beside, exact) for run, beside in zip(longer, longer[::-1], strict=True)]
    rows = {
        name: np.concatenate([getattr(run, name) for run in longer], axis=-2) for name in _OF_STEPS
    }
    valid = [np.asarray(run.num_valid_steps) for run in longer]
    plans = dict.fromkeys(filter(None, (one.product_plan, other.product_plan)))
    return replace(
        one,
        **rows,
        num_valid_steps=np.concatenate(valid, axis=-1),
        resolution=np.maximum(one.resolution, other.resolution),
        exact=exact,
        num_matvecs=one.num_matvecs + other.num_matvecs,
        multiplicities_proved=one.multiplicities_proved and other.multiplicities_proved,
        reorthogonalized=one.reorthogonalized and other.reorthogonalized,
        product_plan=" + ".join(plans),
        runs=_runs(one) + _runs(other),
        origin=origin,
    )


def proved_rows(runs: Sequence[tuple[int, bool]]) -> np.ndarray:
    """Which rows of a merged density have atoms that were found, not assumed."""
    return np.repeat([is_proved for _, is_proved in runs], [count for count, _ in runs])


def _runs(record: "SpectralDensity") -> tuple[tuple[int, bool], ...]:
    return record.runs or ((record.num_probes, record.multiplicities_proved),)


def _padded(run: "SpectralDensity", steps: int) -> "SpectralDensity":
    """Further slots repeat the last node, with no weight."""
    spare = [(0, 0)] * (np.ndim(run.nodes) - 1) + [(0, steps - run.num_steps)]
    found = {name: np.pad(np.asarray(getattr(run, name)), spare) for name in _OF_STEPS}
    found["nodes"] = np.pad(np.asarray(run.nodes), spare, mode="edge")
    return replace(run, **found)


def _told(
    run: "SpectralDensity", beside: "SpectralDensity", exact: np.ndarray
) -> "SpectralDensity":
    """A run with the rows of the other where that one is exact and this one is not."""
    told = (exact & ~np.asarray(run.exact))[..., None, None]

    def of(own: np.ndarray, known: np.ndarray) -> np.ndarray:
        return np.where(told, known[..., :1, :], own)

    return replace(run, **{n: of(getattr(run, n), getattr(beside, n)) for n in _OF_RULES})
