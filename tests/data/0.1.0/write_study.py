"""A study of version 0.1.0 that was killed in its second seed: `python write_study.py`, with it.

Seed 0 is finished; of seed 1 one epoch of two is trained. The folder is kept as `study.zip`, and
`study.json` says what that version found without interruption, and the exact traces at the last
epoch of seed 1.
"""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
from hessspec_mtl.checkpoints import Checkpoints
from hessspec_mtl.model import NetworkConfig
from hessspec_mtl.pipeline import DATA_SEED, _take, run_study
from hessspec_mtl.presets import NetworkSizes, StudyConfig
from hessspec_mtl.train import TrainConfig, load_params

from hessspec_mtl.curvature import CurvatureConfig, hessian_indices, task_hessians
from hessspec_mtl.datasets.computed import load_molecules

HERE = Path(__file__).parent
CONFIG = StudyConfig(
    num_examples=23,
    seeds=(0, 1),
    network=NetworkSizes(num_steps=1, width=3, head_width=3),
    train=TrainConfig(num_epochs=2, batch_size=8, learning_rate=0.01),
    curvature=CurvatureConfig(
        num_epochs=2,
        num_graphs=6,
        batch_size=6,
        trace_matvecs=12,
        num_probes=2,
        num_steps=5,
        hutchinson_samples=8,
        num_eigenpairs=2,
        gradient_groups=2,
    ),
)


def killed(dataset, folder: Path) -> None:
    """The study in a process that kills itself when epoch 1 of seed 1 is on disk."""
    child = os.fork()
    if child == 0:
        save = Checkpoints.save

        def then_die(self, epoch, state):
            save(self, epoch, state)
            if epoch == 1 and "seed-1" in str(self.directory):
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoints.save = then_die
        run_study(CONFIG, dataset, folder, progress=False)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def exact_traces(dataset, folder: Path, seed: int) -> list[float]:
    """tr H of every task at the last epoch, from the dense matrices."""
    encoded = dataset.encode(dataset.split(DATA_SEED, CONFIG.test_fraction))
    examples = _take(encoded.train, hessian_indices(len(encoded.train), 6, DATA_SEED))
    network = NetworkConfig(
        encoded.node_features,
        encoded.edge_features,
        tuple(task.name for task in encoded.tasks),
        num_steps=1,
        width=3,
        head_width=3,
    )
    params = load_params(folder / f"seed-{seed}" / "training", 2)
    dense = task_hessians(params, network, examples, 6).dense()
    return np.trace(np.asarray(dense, np.float64), axis1=-2, axis2=-1).tolist()


def main() -> None:
    dataset = load_molecules(progress=False).subset(CONFIG.num_examples, DATA_SEED)
    with tempfile.TemporaryDirectory() as folder:
        killed(dataset, Path(folder) / "study")
        shutil.make_archive(str(HERE / "study"), "zip", folder, "study")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder)
        study = run_study(CONFIG, dataset, whole, progress=False)
        held = {
            "history of seed 1": study.runs[1].history.to_dict("list"),
            "traces": [
                [record.trace.value.tolist() for record in run.curvature] for run in study.runs
            ],
            "trace errors": [
                [record.trace.standard_error.tolist() for record in run.curvature]
                for run in study.runs
            ],
            "spectral traces": [
                [np.asarray(record.density.trace().value).tolist() for record in run.curvature]
                for run in study.runs
            ],
            "cosines": study.runs[0].curvature[-1].gradients.cosines.tolist(),
            "eigenvalues": study.runs[0].curvature[-1].eigenspaces.values.tolist(),
            "hutchinson": study.runs[0].hutchinson[2].value.tolist(),
            "exact traces of seed 1": exact_traces(dataset, whole, 1),
            "num_params": study.num_params,
        }
    (HERE / "study.json").write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
