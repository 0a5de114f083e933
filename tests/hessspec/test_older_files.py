"""What earlier versions saved is read by this one, with the numbers that they read off it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

VERSIONS = Path(__file__).parents[1] / "data"
RECORDS = {
    f"{listing.parents[1].name} {name}": (listing.parent / f"{name}.npz", entry)
    for listing in sorted(VERSIONS.glob("*/records/records.json"))
    for name, entry in json.loads(listing.read_text(encoding="utf-8")).items()
}
PARAMS = {"layer": {"kernel": jnp.ones((6, 6)), "bias": jnp.ones(4)}}

# How a reader asks a record for what the listing holds under that name.
QUESTIONS = {
    "moment 2": lambda record: record.moment(2),
    "cdf": lambda record: record.cdf(np.array([-30.0, 0.5, 20.0])),
    "interval": lambda record: record.confidence_interval(),
    "kernel": lambda record: record.value["layer"]["kernel"],
    "error of the bias": lambda record: record.standard_error["layer"]["bias"],
    "bias": lambda record: record.vectors["layer"]["bias"],
    "trace": lambda record: record.trace() if callable(record.trace) else record.trace,
}


def loaded(path: Path, kind: str):
    load = getattr(hessspec, kind).load
    return load(path, PARAMS) if kind in ("DiagonalEstimate", "EigenPairs") else load(path)


def answered(record, question: str):
    ask = QUESTIONS.get(question, lambda record: getattr(record, question))
    answer = ask(record)
    return getattr(answer, "value", answer)


@pytest.mark.parametrize("name", RECORDS)
def test_an_older_record_says_what_it_said_when_it_was_saved(name):
    """To rounding: a reading may be computed in another order; what is stored is float32."""
    path, entry = RECORDS[name]
    record = loaded(path, entry["kind"])
    assert type(record).__name__ == entry["kind"]
    for question, answer in entry["holds"].items():
        found = answered(record, question)
        if isinstance(answer, str):
            assert found == answer
            continue
        size = np.max(np.abs(answer), where=np.isfinite(answer), initial=0.0)
        np.testing.assert_allclose(
            np.asarray(found, np.float64), answer, rtol=1e-6, atol=1e-6 * size, err_msg=question
        )


@pytest.mark.parametrize("name", RECORDS)
def test_an_older_record_that_is_saved_again_loses_nothing(name, tmp_path):
    path, entry = RECORDS[name]
    record = loaded(path, entry["kind"])
    record.save(tmp_path / "again.npz")
    again = loaded(tmp_path / "again.npz", entry["kind"])
    assert jax.tree.structure(again) == jax.tree.structure(record)
    jax.tree.map(np.testing.assert_array_equal, again, record)


def test_an_older_record_still_answers_truly():
    """The matrix behind them has eigenvalues 50, -20, 8, 29 from 0.1 to 1, and 8 zeros."""
    truth = 38.0 + 29 * 0.55
    density = loaded(*located("density_scalar"))
    low, high = density.trace().confidence_interval(level=0.99)
    assert low <= truth <= high
    low, high = density.cdf_band(np.array([-1.0, 10.0]), level=0.99)
    assert np.all(low <= np.array([1 / 40, 39 / 40]))
    assert np.all(high >= np.array([1 / 40, 39 / 40]))
    pairs = loaded(*located("eigenpairs_scalar"))
    np.testing.assert_allclose(pairs.values, [50.0, -20.0], rtol=1e-5)
    for method in ("auto", "xtrace", "hutchpp", "hutchinson"):
        trace = loaded(*located(f"trace_{method}_scalar"))
        low, high = trace.confidence_interval(level=0.99)
        assert low <= truth <= high, method


def located(name: str) -> tuple[Path, str]:
    path, entry = RECORDS[f"0.1.0 {name}"]
    return path, entry["kind"]


def test_version_0_1_0_is_kept_in_every_kind_with_and_without_tasks():
    kinds = ("SpectralDensity", "SpectralDistance", "SpectralTrace", "TraceEstimate")
    kinds += ("DiagonalEstimate", "EigenPairs")
    kept = {(entry["kind"], path.stem.rpartition("_")[2]) for path, entry in RECORDS.values()}
    assert kept == {(kind, form) for kind in kinds for form in ("scalar", "tasks")}


@pytest.mark.parametrize("name", ["density_scalar", "trace_auto_tasks"])
def test_an_older_record_has_no_key_and_is_not_merged(name):
    record = loaded(*located(name))
    assert record.origin is None
    with pytest.raises(ValueError, match="this one keeps none: it comes from a file of a version"):
        record.merge(record)
