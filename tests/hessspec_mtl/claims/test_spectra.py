"""Claims about spectra: outliers, bulk, rank, and the steps that find them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hessspec_mtl.claims import Verdict
from hessspec_mtl.claims.spectra import (
    concentrated,
    effective_rank,
    lanczos_steps,
    outlier_share,
    outliers,
    prominence,
    rank_share,
    spreading,
)
from hessspec_mtl.curvature.follow import EpochCurvature
from hessspec_mtl.curvature.spectra import Measured, task_spectra


def test_outliers_that_rise_and_fall_are_found(records):
    judgement = outliers(records.study("QM8"))
    # Five of 4000 above 0 are more than one in a thousand, three below are fewer.
    assert [s.holds for s in judgement.statistics[:4]] == [None, True, True, True]
    rise = judgement.statistics[2]
    assert rise.value == pytest.approx(math.log10(30 / 2), abs=1e-3)  # 1, 30, 2, 5
    between = judgement.statistics[3]
    assert between.value == pytest.approx(3 * math.log10(3), abs=1e-3)


def test_outliers_drive_a_trace_that_is_their_sum(records):
    eigenvalues = records.outlier_spectrum(0, 1.0)
    far = eigenvalues[np.abs(eigenvalues) > 0.01].sum()
    spectrum = task_spectra(records.density(eigenvalues[None]))[0]
    assert outlier_share(spectrum, far, 0.0).value == pytest.approx(1.0, abs=0.01)
    assert outlier_share(spectrum, 3 * far, 0.0).value == pytest.approx(1 / 3, abs=0.01)


def test_an_outlier_that_only_grows_does_not_come_and_go(records):
    paths = [
        task_spectra(records.density(np.stack([records.outlier_spectrum(0, scale)])))[0]
        for scale in (1.0, 2.0, 4.0)
    ]
    assert prominence(paths).value == pytest.approx(0.0, abs=1e-6)


def test_one_sided_spectra_are_not_symmetric(records):
    study = records.study("QM8")
    run = study.runs[0]
    flat = records.density(np.abs(np.stack([records.outlier_spectrum(t, 1.0) for t in range(4)])))
    points = tuple(EpochCurvature(p.epoch, p.trace, flat) for p in run.curvature)
    one_sided = concentrated(replace(study, runs=(replace(run, curvature=points),)))
    assert [s.holds for s in one_sided.statistics] == [True, False]
    assert one_sided.statistics[1].value == pytest.approx(1.0, abs=1e-6)
    assert [s.holds for s in concentrated(study).statistics] == [True, True]


def test_spectra_that_spread_are_seen(records):
    study = records.study("QM8")
    run = study.runs[0]
    ends = [
        np.stack([records.outlier_spectrum(t, 10.0, width * (1 + parted * t)) for t in range(4)])
        for width, parted in ((0.01, 0), (2.0, 1))
    ]
    points = tuple(
        EpochCurvature(p.epoch, p.trace, records.density(diagonals))
        for p, diagonals in zip(run.curvature[:2], ends, strict=True)
    )
    judgement = spreading(replace(study, runs=(replace(run, curvature=points),)))
    assert judgement.statistics[0].holds
    backwards = spreading(replace(study, runs=(replace(run, curvature=points[::-1]),)))
    assert backwards.statistics[0].holds is False


def test_extremes_that_converged_reproduce_claim_ten_with_fewer_steps(records):
    judgement = lanczos_steps(records.study("QM8"))
    assert judgement.verdict is Verdict.REPRODUCED
    assert "24 steps" in judgement.remark


def test_effective_rank_is_that_of_the_spectrum(records):
    study = records.study("QM8")
    judgement = effective_rank(study)
    diagonal = records.outlier_spectrum(0, 5.0, 1e-3 * 41**0.5)
    truth = np.abs(diagonal).sum() ** 2 / (diagonal**2).sum() / diagonal.size
    assert judgement.verdict is Verdict.REPRODUCED
    low, high = judgement.statistics[0].interval
    assert low < truth < high


def test_the_rank_of_two_probes_is_as_uncertain_as_students_t_says():
    spectrum = SimpleNamespace(
        radius=1.0, measure=lambda functional: Measured(0.5, 0.01, 1), dim=100
    )
    share = rank_share(spectrum)
    assert share.high == pytest.approx(0.5 + 12.7062 * 0.01, rel=1e-4)
    assert share.low == pytest.approx(0.5 - 12.7062 * 0.01, rel=1e-4)
