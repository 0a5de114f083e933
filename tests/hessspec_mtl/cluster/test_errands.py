"""What a report needs beside its units is the same whoever made it."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("distributed")

from hessspec_mtl.baselines.forest import forest_errors
from hessspec_mtl.cluster.errands import Errand, of_report
from hessspec_mtl.cluster.team import carry_out, local_workers
from hessspec_mtl.curvature.appendix_e import appendix_e


def sent(work):
    """As it comes out of another process."""
    return pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(work))()))


@pytest.mark.any_dtype
def test_a_forest_that_a_worker_grew_is_the_one_that_the_report_would_grow(study, tmp_path):
    """The same bytes, and the same numbers read from them."""
    kept = []
    _, errand = of_report([study], kept.append)
    assert str(errand) == "random forests of molecules"
    errand.keep(sent(errand.make))
    split = study.seeds[0].split
    here = forest_errors(study.dataset, split, tmp_path / "here.csv")
    assert study.forest_path.read_bytes() == (tmp_path / "here.csv").read_bytes()
    found = forest_errors(study.dataset, split, study.forest_path)
    assert found.drop(columns="seconds").equals(here.drop(columns="seconds"))
    assert found["seconds"].notna().all()  # the time came along
    assert of_report([study], kept.append)[1:] == []  # nothing is left to do of it


@pytest.mark.any_dtype
def test_no_forest_is_sent_of_data_without_structures(study):
    bare = replace(study, dataset=replace(study.dataset, structures=()))
    assert [str(errand)[:10] for errand in of_report([bare], print)] == ["Appendix E"]


def test_appendix_e_comes_back_from_another_process_as_it_left():
    small = partial(appendix_e, n=12, num_steps=4, num_probes=2, num_matvecs=4, num_trials=1)
    here, there = small(), sent(small)
    np.testing.assert_array_equal(there.eigenvalues, here.eigenvalues)
    np.testing.assert_array_equal(there.trace.samples, here.trace.samples)
    np.testing.assert_array_equal(there.density.nodes, here.density.nodes)
    assert there.num_covering == here.num_covering
    low, high = there.density.cdf_band(0.0, level=0.9)
    assert (low, high) == here.density.cdf_band(0.0, level=0.9)


@pytest.mark.slow
@pytest.mark.any_dtype
def test_errands_are_done_by_workers_and_one_that_fails_is_left_out(study):
    """The command goes on: what a report lacks it makes, and says what is wrong with it."""
    kept, told = [], []
    small = partial(appendix_e, n=12, num_steps=4, num_probes=2, num_matvecs=4, num_trials=1)
    _, forest = of_report([study], kept.append)
    errands = [Errand("a small one", small, kept.append), Errand("bad", partial(int, "x"), print)]
    with local_workers(1) as client:
        carry_out(client, [study], [], [*errands, forest], ours=True, say=told.append)
    (there,) = kept
    np.testing.assert_array_equal(there.trace.samples, small().trace.samples)
    assert of_report([study], kept.append)[1:] == []
    assert told[0].startswith("3 units of work, workers: 1")
    assert told[1:] == [f"{e}; {n} of 3" for n, e in enumerate((*errands, forest), start=1)]
