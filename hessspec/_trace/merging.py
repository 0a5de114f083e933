"""Independent runs of one trace, taken together: their weighted mean, and the error of that.

Run k, of n_k samples beside a basis of its own, has an unbiased estimate x_k of tr H with squared
error e_k². No variance is pooled: samples of runs differ in what their bases left over. The
weights w_k, summing to 1, are the runs' shares of the products. They must not follow from the
samples, or a run whose samples came out small, and with them its error, would count for more.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from hessspec._base.intervals import sum_interval
from hessspec._base.origin import Origin

if TYPE_CHECKING:
    from hessspec._trace.estimate import TraceEstimate


def merged(
    runs: "Sequence[TraceEstimate]", origin: Origin | None, square: "TraceEstimate | None"
) -> "TraceEstimate":
    """The record of these runs. Its samples are theirs, of the whole trace each."""
    own = [run for run in runs if _counts(run, runs)]
    samples = [np.asarray(run.exact)[..., None] + np.asarray(run.samples) for run in own]
    is_exact = own[0].num_samples == 0
    drawn = sum(run.num_samples for run in runs)
    paid = sum(run.matvecs_per_sample * run.num_samples for run in runs)
    return replace(
        runs[0],
        samples=np.concatenate(samples, axis=-1),
        exact=value(runs) if is_exact else np.zeros(np.shape(runs[0].exact)),
        pair_covariance=None,
        square=square,
        systematic=_systematic(own),
        by_group=None,
        exact_by_group=None,
        group_shares=None,
        method=_together(run.method for run in runs),
        num_matvecs=sum(run.num_matvecs for run in runs),
        matvecs_per_sample=paid / drawn if drawn else runs[0].matvecs_per_sample,
        product_plan=_together(run.product_plan for run in runs),
        probes=_together(run.probes for run in runs),
        runs=tuple(runs),
        origin=origin,
    )


def check_run(run: "TraceEstimate", which: str) -> None:
    """Raise ValueError if a run says nothing that can be added to another's.

    A run stopped by a tolerance stopped where its error came out small.
    """
    if run.converged is not None or run.error_share < 1.0:
        raise ValueError(
            f"{which} ran until a tolerance was met (`rtol` or `atol`), which ends a run where its "
            "error comes out small: a mean with others would be biased. Make runs that are to be "
            "merged with `num_matvecs` alone."
        )
    if run.num_samples == 1:
        raise ValueError(
            f"{which} has one sample, which shows no variance to add; leave it out, or raise "
            "`num_matvecs` to give it two or more."
        )


def value(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, "*tasks"]:
    """Σ w_k x_k."""
    return _weighted(runs, [run.value for run in runs])


def standard_error(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, "*tasks"]:
    """(Σ w_k² e_k²)^½."""
    return np.linalg.norm(_errors(runs), axis=0)


def interval(
    runs: "Sequence[TraceEstimate]", level: float
) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    """Ends of the interval of Σ w_k x_k for errors of sampling."""
    used = [run for run in runs if _counts(run, runs)]
    if used[0].num_samples == 0:
        return value(runs), value(runs)
    samples = [np.asarray(run.samples, np.float64) for run in used]
    return sum_interval(value(runs), samples, _errors(runs), level)


def data_standard_error(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, "*tasks"]:
    """The root of the mean variance over the data: all runs have the same, and each estimates it.

    More probes on the same data do not make it smaller.
    """
    grouped = [run for run in runs if run.by_group is not None]
    found = [run.data_standard_error**2 for run in (grouped or runs)]
    return np.sqrt(np.average(found, axis=0, weights=_products(grouped or runs)))


def _counts(run: "TraceEstimate", runs: "Sequence[TraceEstimate]") -> bool:
    """Whether a run takes part in the mean: beside an exact one those that were sampled do not."""
    return run.num_samples == 0 or all(one.num_samples > 0 for one in runs)


def _products(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, " runs"]:
    return np.array([max(run.num_matvecs, 1) for run in runs], float)


def _weights(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, " runs"]:
    used = _products(runs) * [_counts(run, runs) for run in runs]
    return used / used.sum()


def _weighted(runs: "Sequence[TraceEstimate]", values: list[np.ndarray]) -> np.ndarray:
    return np.tensordot(_weights(runs), np.stack(values), axes=1)


def _errors(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, "used *tasks"]:
    """w_k e_k of the runs that take part."""
    pairs = zip(_weights(runs), runs, strict=True)
    return np.stack([w * run.standard_error for w, run in pairs if _counts(run, runs)])


def _systematic(runs: "Sequence[TraceEstimate]") -> Float[np.ndarray, "*tasks"] | None:
    """Σ w_k of the rounding of each: it is no noise, and may have one sign in all runs."""
    told = [run for run in runs if run.systematic is not None]
    if not told:
        return None
    return _weighted(told, [np.asarray(run.systematic, np.float64) for run in told])


def _together(words) -> str:
    return " + ".join(dict.fromkeys(word for word in words if word))
