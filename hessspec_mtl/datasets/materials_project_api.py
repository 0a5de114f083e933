"""Elastic properties asked of the Materials Project itself, with a user's key."""

import gzip
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hessspec_mtl.datasets.sources import CACHE_VARIABLE, MP_API, DataError, cache_directory

logger = logging.getLogger(__name__)

_FIELDS = ["material_id", "structure", "bulk_modulus", "shear_modulus", "homogeneous_poisson"]


def query_elasticity(
    api_key: str, *, endpoint: str | None = None, progress: bool | None = None
) -> Path:
    """File with every crystal that has elastic properties in the database; asked once, then kept.

    Args:
        api_key: key of a Materials Project account.
        endpoint: another address of the API, for tests.
        progress: whether mp-api shows its progress bars.

    Raises:
        DataError: if `mp-api` is not installed, the key is refused, or there is no answer.
    """
    path = cache_directory() / MP_API.file_name
    if path.is_file():
        logger.info("using the answer kept in %s; delete it to ask the database again", path)
        return path
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise DataError(
            "`api_key` needs the package mp-api; install hessspec with the extra "
            "`materials-project`, or leave `api_key` out to use matbench's files."
        ) from error
    # mp-api raises errors of many libraries for a bad key, a bad answer and no network alike.
    try:
        with MPRester(
            api_key,
            endpoint=endpoint,
            use_document_model=False,
            mute_progress_bars=progress is False,
        ) as client:
            documents = client.materials.summary.search(
                has_props=["elasticity"], all_fields=False, fields=_FIELDS
            )
            rows = [_row(document) for document in documents]
    except Exception as error:
        raise DataError(
            f"the Materials Project did not answer the query ({type(error).__name__}: {error}); "
            "check the key and the network, or leave `api_key` out to use matbench's files."
        ) from error
    try:
        _write_json_lines(path, sorted(rows, key=lambda row: row["material_id"]))
    except OSError as error:
        raise DataError(
            f"the answer of the Materials Project could not be kept in {path.parent} ({error}); "
            f"free space, make the folder writable, or set {CACHE_VARIABLE} to one that is."
        ) from error
    return path


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """One answer in the fields of `elastic_records.read_elastic_records`."""
    structure = document["structure"]
    return {
        "material_id": str(document["material_id"]),
        "structure": structure if isinstance(structure, dict) else structure.as_dict(),
        "K_VRH": (document.get("bulk_modulus") or {}).get("vrh"),
        "G_VRH": (document.get("shear_modulus") or {}).get("vrh"),
        "poisson_ratio": document.get("homogeneous_poisson"),
    }


def _write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
