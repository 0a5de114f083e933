"""Random forests on the split of a study: one for each property, and what they get wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hessspec._base.later import Later
from hessspec_mtl.baselines.descriptors import composition_statistics, fragment_counts
from hessspec_mtl.datasets.base import MultitaskDataset, Split
from hessspec_mtl.files.timing import note_seconds, unit_seconds
from hessspec_mtl.files.whole import write_whole

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")  # half a second, and only tables need it

NUM_TREES = 100
SEEDS = (0, 1)
# Of each forest: so many examples grow a tree, and this share of the columns is looked at in a
# split. QM8's 15,000 training molecules then take no longer than these.
MOST_EXAMPLES = 2000
COLUMNS = 1 / 3

_COLUMNS = ["task", "seed", "mae", "examples", "made_by"]
_UNIT = "forest"  # in the `seconds.json` beside the table: no two runs take as long


def unavailable(dataset: MultitaskDataset) -> str:
    """Why there can be no forest of this data set, in a sentence; nothing if there can."""
    if importlib.util.find_spec("sklearn") is None:
        return (
            "There is no random forest beside the network: scikit-learn is not installed "
            "(pip install scikit-learn)."
        )
    if not dataset.structures:
        return (
            f"There is no random forest beside the network: {dataset.name} was read as graphs, "
            "without the structures that it would be made from."
        )
    return ""


def forest_errors(
    dataset: MultitaskDataset, split: Split, path: str | os.PathLike[str]
) -> pd.DataFrame:
    """Test errors of random forests, one row a property and seed, kept in the CSV file `path`.

    A forest of 100 trees for each property and each of the seeds 0 and 1, on the training examples
    that have the property; molecules by counts of their fragments, crystals by statistics of their
    compositions (`descriptors`). A file that was made from the same structures, targets, split and
    settings is read, another one made anew.

    Returns:
        Columns task; seed, of the forest; mae, in standard deviations (ddof = 1) of the training
        targets, like the network's; examples, trained on; made_by, a hash; seconds, of one core for
        all forests together, NaN where that is not known.

    Raises:
        ValueError: if there can be no forest: `unavailable` says why.
    """
    if reason := unavailable(dataset):
        raise ValueError(reason)
    path = Path(path)
    if path.exists():
        held, made_by = _read(path.read_bytes()), _fingerprint(dataset, split)
        if list(held.columns) == _COLUMNS and (held["made_by"] == made_by).all():
            return held.assign(seconds=unit_seconds(path.parent).get(_UNIT, np.nan))
    content, seconds = forest_file(dataset, split)
    keep_forest(path, content, seconds)
    return _read(content).assign(seconds=seconds)


def forest_file(dataset: MultitaskDataset, split: Split) -> tuple[bytes, float]:
    """The file that `forest_errors` keeps, and the seconds of one core that its forests took.

    For whoever has it made by another process, and keeps it (`keep_forest`).
    """
    start = time.process_time()
    made_by = _fingerprint(dataset, split)
    describe = fragment_counts if dataset.domain == "molecules" else composition_statistics
    inputs = describe(dataset.structures)
    rows = [
        (*_one_forest(dataset, split, inputs, t, seed), made_by)
        for t in range(dataset.num_tasks)
        for seed in SEEDS
    ]
    table = pd.DataFrame(rows, columns=_COLUMNS).to_csv(index=False, float_format="%.9g")
    return table.encode("utf-8"), round(time.process_time() - start, 1)


def keep_forest(path: str | os.PathLike[str], content: bytes, seconds: float) -> None:
    """Keep what `forest_file` returned where `forest_errors` looks for it.

    Raises:
        OSError: if it cannot be written.
    """
    note_seconds(Path(path).parent, _UNIT, seconds)
    write_whole(path, content)


def _read(content: bytes) -> pd.DataFrame:
    """The table in a file: also of one just made, so that no digit tells which it was."""
    kinds = {"task": str, "made_by": str}
    return pd.read_csv(io.BytesIO(content), dtype=kinds, keep_default_na=False)


def _one_forest(
    dataset: MultitaskDataset, split: Split, inputs: np.ndarray, task: int, seed: int
) -> tuple[str, int, float, int]:
    # Imported late: only whoever grows a forest has to wait for it.
    from sklearn.ensemble import RandomForestRegressor

    targets = np.asarray(dataset.targets, np.float64)[:, task]
    train, test = (
        side[~np.isnan(targets[side])] for side in map(np.asarray, (split.train, split.test))
    )
    forest = RandomForestRegressor(
        NUM_TREES,
        max_features=COLUMNS,
        max_samples=min(len(train), MOST_EXAMPLES),
        random_state=seed,
        n_jobs=1,
    )
    forest.fit(inputs[train], targets[train])
    mean_error = np.abs(forest.predict(inputs[test]) - targets[test]).mean()
    mae = float(mean_error / targets[train].std(ddof=1))
    return dataset.tasks[task].name, seed, mae, len(train)


def _fingerprint(dataset: MultitaskDataset, split: Split) -> str:
    """A hash of all that the errors depend on, but for versions."""
    digest = hashlib.blake2b(digest_size=8)
    settings = (NUM_TREES, SEEDS, MOST_EXAMPLES, COLUMNS, dataset.domain)
    digest.update(repr((settings, dataset.ids, [task.name for task in dataset.tasks])).encode())
    for structure in dataset.structures:
        name = structure if isinstance(structure, str) else structure.key
        digest.update(name.encode())
    for array in (dataset.targets, split.train, split.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
