"""Where data come from: one record a file, files at hand, and downloads that check what arrived.

A file is looked for in the `directory` of the call (or, without one, in the folder that the
variable HESSSPEC_DATA names), then in the cache, and is otherwise downloaded into the cache.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

DATA_VARIABLE = "HESSSPEC_DATA"
CACHE_VARIABLE = "HESSSPEC_CACHE"

_GIVE_FOLDER = f"give that folder as `directory` (--data-dir) or in {DATA_VARIABLE}"

# The licence of what a user brings; an encoded set keeps it, and with it whose data these are.
OWN_LICENCE = "the user's own"

# A failed download is tried this many times more, after 1, 2, ... seconds.
_RETRIES = 2


@dataclass(frozen=True)
class Source:
    """One file that data are read from, and what is owed to those who made it.

    Attributes:
        name: short name, as used in reports.
        file_name: name of the file in a data directory or in the cache.
        url: public address, or None if there is none to download from.
        sha256: hash of the file, or None if it is not known (its content is then checked instead).
        licence: terms of the data as stated by their publisher.
        citation: what to cite.
    """

    name: str
    file_name: str
    url: str | None
    sha256: str | None
    licence: str
    citation: str


class DataError(ValueError):
    """A file that cannot be had, or that is not what it should be; the message says what to do."""


_QM8_CITATION = (
    "Ramakrishnan et al., J. Chem. Phys. 143, 084111 (2015); "
    "Wu et al. (MoleculeNet), Chem. Sci. 9, 513 (2018)"
)
_MP_CITATION = (
    "Jain et al., APL Mater. 1, 011002 (2013); de Jong et al., Sci. Data 2, 150009 (2015)"
)

QM8 = Source(
    name="QM8 (MoleculeNet), the copy distributed with chemprop",
    file_name="qm8.csv",
    url=None,
    sha256="3e70e56805edb2f0796b64f96af9b53dd8cca408d775612d47123f7d2da7d61d",
    licence="none stated for the data; the repository that distributes this copy is MIT",
    citation=_QM8_CITATION,
)

QM8_DEEPCHEM = Source(
    name="QM8 (MoleculeNet), the public address of DeepChem",
    file_name="qm8.csv",
    url="https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/qm8.csv",
    # Not known to be the same file byte by byte: its rows, columns and statistics are checked.
    sha256=None,
    licence="none stated for the data",
    citation=_QM8_CITATION,
)

MP_ELASTIC = Source(
    name="Materials Project elasticity of 2020-07 with structures of 2023-11",
    file_name="mp_elastic_structures.jsonl.gz",
    url=None,
    sha256="2ed93b53961564a271d9632ebb6a1468eb18069dabd5161046fc47ff499bdc92",
    licence="CC BY 4.0 (Materials Project)",
    citation=f"{_MP_CITATION}; Chibani and Coudert, Chem. Sci. 10, 8589 (2019)",
)

_MATBENCH_CITATION = f"{_MP_CITATION}; Dunn et al. (matbench), npj Comput. Mater. 6, 138 (2020)"

MATBENCH_G = Source(
    name="matbench v0.1 log_gvrh",
    file_name="matbench_log_gvrh.json.gz",
    url="https://ml.materialsproject.org/projects/matbench_log_gvrh.json.gz",
    sha256="098af941f4c663270f1fe21abf20ffad6fb85ecbfcba5786ceac03983ac29da7",
    licence="CC BY 4.0 (Materials Project)",
    citation=_MATBENCH_CITATION,
)

MATBENCH_K = Source(
    name="matbench v0.1 log_kvrh",
    file_name="matbench_log_kvrh.json.gz",
    url="https://ml.materialsproject.org/projects/matbench_log_kvrh.json.gz",
    sha256="44b113ddb7e23aa18731a62c74afa7e5aa654199e0db5f951c8248a00955c9cd",
    licence="CC BY 4.0 (Materials Project)",
    citation=_MATBENCH_CITATION,
)

MP_API = Source(
    name="Materials Project API, as answered on the day of the query",
    file_name="materials_project_api.jsonl.gz",
    url="https://api.materialsproject.org",
    sha256=None,
    licence="CC BY 4.0 (Materials Project)",
    citation=_MP_CITATION,
)


def cache_directory() -> Path:
    """Folder for downloads and for what is computed once: HESSSPEC_CACHE, or the platform's own."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    # Imported late: a machine that reads encoded data sets downloads nothing and need not have it.
    import pooch

    return Path(pooch.os_cache("hessspec"))


def search_path(directory: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    """The folders in which a file is looked for, in this order.

    Raises:
        DataError: if `directory`, or the folder that HESSSPEC_DATA names, does not exist.
    """
    given = directory if directory is not None else os.environ.get(DATA_VARIABLE) or None
    if given is None:
        return (cache_directory(),)
    if not Path(given).is_dir():
        name = (
            "`directory` (--data-dir)" if directory is not None else f"the variable {DATA_VARIABLE}"
        )
        raise DataError(f"{name} must name an existing folder with data files, got {str(given)!r}.")
    return (Path(given), cache_directory())


def find(source: Source, directory: str | os.PathLike[str] | None = None) -> Path | None:
    """The file of `source` if it is at hand, its hash checked if known; None if it is not.

    A damaged file in the cache that can be downloaded again is named in a warning and removed.

    Raises:
        DataError: if any other file of that name has another hash.
    """
    for folder in search_path(directory):
        path = folder / source.file_name
        if not path.is_file():
            continue
        if source.sha256 is None or (got := sha256_of(path)) == source.sha256:
            return path
        damage = f"{path} is truncated or altered: its SHA-256 is {got}, expected {source.sha256}"
        if folder != cache_directory() or source.url is None:
            raise DataError(f"{damage}; replace the file by a fresh copy.")
        logger.warning("%s; it is removed", damage)
        path.unlink()
    return None


def fetch(source: Source, verify: Callable[[Path], object] | None = None) -> Path:
    """Download the file of `source` into the cache; returns its path.

    The file gets its name only once it is complete and its hash is right: what an interrupted
    download leaves behind is never taken for data, and the next call starts afresh.

    Args:
        source: must have a `url`.
        verify: called with the path if there is no hash to check; what it raises discards the file.

    Raises:
        DataError: if there is no address, no network, an error status, or other content than
            expected; the message says what to do.
    """
    if source.url is None:
        raise DataError(
            f"{source.name} has no public address; put `{source.file_name}` into a folder and "
            f"{_GIVE_FOLDER}."
        )
    # Imported late, see `cache_directory`.
    import pooch
    import requests

    folder = cache_directory()
    logger.info("downloading %s from %s to %s", source.name, source.url, folder)
    registry = {source.file_name: f"sha256:{source.sha256}" if source.sha256 else None}
    downloads = pooch.create(
        folder,
        base_url="",
        registry=registry,
        urls={source.file_name: source.url},
        retry_if_failed=_RETRIES,
    )
    try:
        path = Path(downloads.fetch(source.file_name))
    except requests.exceptions.RequestException as error:
        raise DataError(
            f"{source.name} could not be downloaded from {source.url} ({error}). If this machine "
            f"has no network, download `{source.file_name}` elsewhere, put it into a folder and "
            f"{_GIVE_FOLDER}."
        ) from error
    except ValueError as error:
        raise DataError(
            f"what {source.url} sent is not {source.name}: its SHA-256 is not {source.sha256}. "
            "Nothing was kept; the file may have been altered on the way or replaced by its "
            f"publisher. Get `{source.file_name}` from a source you trust, put it into a folder "
            f"and {_GIVE_FOLDER}."
        ) from error
    except OSError as error:
        raise DataError(
            f"the download of {source.name} could not be kept in {folder} ({error}); make the "
            f"folder writable, or set {CACHE_VARIABLE} to one that is."
        ) from error
    if verify is not None and source.sha256 is None:
        try:
            verify(path)
        except Exception:
            path.unlink(missing_ok=True)
            raise
    return path


def not_at_hand(
    sources: Sequence[Source], directory: str | os.PathLike[str] | None, hint: str = ""
) -> DataError:
    """The error for data that are in no folder and must not be downloaded."""
    names = " or ".join(f"`{source.file_name}`" for source in sources)
    folders = " and ".join(str(folder) for folder in search_path(directory))
    return DataError(
        f"no {names} in {folders}, and `download` is False; put the file there, or into a folder "
        f"and {_GIVE_FOLDER}, or allow the download.{hint}"
    )


def sha256_of(path: Path) -> str:
    """Hash of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
