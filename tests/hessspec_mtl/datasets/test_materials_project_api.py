"""The Materials Project asked with a key, against answers in the form that its API documents."""

import gzip
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from hessspec_mtl.datasets import materials_project_api
from hessspec_mtl.datasets.materials_project import load_materials_project
from hessspec_mtl.datasets.materials_project_api import query_elasticity
from hessspec_mtl.datasets.sources import DataError

KEY = "0" * 32


def document(name: str, a: float, **changes: Any) -> dict[str, Any]:
    """A summary document with the fields that are asked for; the values are invented."""
    return {
        "material_id": name,
        "structure": Structure(Lattice.cubic(a), ["Po"], [[0.0, 0.0, 0.0]]).as_dict(),
        "bulk_modulus": {"voigt": 101.0, "reuss": 99.0, "vrh": 100.0},
        "shear_modulus": {"voigt": 41.0, "reuss": 39.0, "vrh": 40.0},
        "homogeneous_poisson": 0.324,
        **changes,
    }


DOCUMENTS = [
    document("mp-2", 3.2),
    document("mp-1", 3.1, homogeneous_poisson=None),
    document("mp-3", 3.3, shear_modulus=None),
    document("mp-4", 3.4, bulk_modulus={"voigt": 9.0, "reuss": 9.0, "vrh": 9.0}),
]


@pytest.fixture
def api(server, cache, monkeypatch):
    """A server with the recorded answers, which `query_elasticity` asks."""
    pytest.importorskip("mp_api")
    heartbeat = {
        "version": "0.90.0",
        "db_version": "2025.09.25",
        "access_controlled_batch_ids": [],
    }
    server.send("/heartbeat", json.dumps(heartbeat).encode(), kind="application/json")
    answer = {"data": DOCUMENTS, "meta": {"total_doc": len(DOCUMENTS)}}
    server.send("/materials/summary/", json.dumps(answer).encode(), kind="application/json")
    return server


def test_the_answer_is_kept_whole_and_asked_for_once(api, cache):
    path = query_elasticity(KEY, endpoint=api.url("/"), progress=False)
    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    assert [row["material_id"] for row in rows] == ["mp-1", "mp-2", "mp-3", "mp-4"]
    assert (rows[1]["K_VRH"], rows[1]["G_VRH"], rows[1]["poisson_ratio"]) == (100.0, 40.0, 0.324)
    asked = len(api.requests)
    assert query_elasticity(KEY, endpoint=api.url("/"), progress=False) == path
    assert len(api.requests) == asked


def test_an_answer_that_cannot_be_kept_is_explained(api, cache):
    cache.write_text("in the way")
    with pytest.raises(DataError, match=r"could not be kept in .* or set HESSSPEC_CACHE"):
        query_elasticity(KEY, endpoint=api.url("/"), progress=False)


def test_the_query_asks_for_elastic_materials_and_the_fields_needed(api):
    query_elasticity(KEY, endpoint=api.url("/"), progress=False)
    (query, *_) = [line for line in api.requests if line.startswith("/materials/summary/")]
    assert "has_props=elasticity" in query
    for name in ("structure", "bulk_modulus", "shear_modulus", "homogeneous_poisson"):
        assert name in query


def test_a_data_set_is_made_of_the_answer(api, monkeypatch):
    query = materials_project_api.query_elasticity
    monkeypatch.setattr(
        materials_project_api,
        "query_elasticity",
        lambda key, progress: query(key, endpoint=api.url("/"), progress=progress),
    )
    dataset = load_materials_project(api_key=KEY, num_workers=1, progress=False)
    assert dataset.ids == ("mp-1", "mp-2")
    computed = (3 * 100 - 2 * 40) / (6 * 100 + 2 * 40)
    np.testing.assert_allclose(
        dataset.targets,
        [[math.log(40), math.log(100), computed], [math.log(40), math.log(100), 0.324]],
    )
    assert {record.id: record.reason for record in dataset.left_out} == {
        "mp-3": "missing target",
        "mp-4": "K_VRH outside 14 to 233 GPa",
    }
    assert dataset.sources[0].name.startswith("Materials Project API")


def test_a_refused_key_is_explained(api, cache):
    api.send("/materials/summary/", b'{"message": "Invalid key"}', status=403)
    with pytest.raises(DataError, match=r"(?s)did not answer the query .* check the key"):
        query_elasticity(KEY, endpoint=api.url("/"), progress=False)
    assert not (cache / "materials_project_api.jsonl.gz").exists()


def test_without_mp_api_the_error_names_the_extra(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "mp_api.client", None)
    with pytest.raises(DataError, match="install hessspec with the extra `materials-project`"):
        query_elasticity(KEY)
