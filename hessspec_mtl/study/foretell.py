"""What the curvature of a study will take, told before anything of it is done."""

from __future__ import annotations

import tempfile

import jax

import hessspec
from hessspec_mtl.curvature.subject import task_hessians
from hessspec_mtl.datasets.base import MultitaskDataset
from hessspec_mtl.network.model import init_params
from hessspec_mtl.study.pipeline import begin_study
from hessspec_mtl.study.presets import StudyConfig


def foretold(config: StudyConfig, dataset: MultitaskDataset) -> str:
    """Sentences on the products, bytes and seconds of the curvature; nothing is kept.

    The density of one epoch is forecast from a few steps at the weights of the first seed. Traces
    are taken to cost as much for a product as densities do, which is more than they need. Training
    is not timed, nor are networks for one task and eigenpairs, whose number of products is open.

    Raises:
        ValueError: as `begin_study`.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = begin_study(config, dataset, folder, progress=False)
    first, wanted = work.seeds[0], config.curvature
    params = init_params(jax.random.key(first.seed), first.network)
    hessians = task_hessians(params, first.network, first.examples, wanted.batch_size)
    density = hessspec.forecast(hessians, num_probes=wanted.num_probes, num_steps=wanted.num_steps)
    tasks, epochs = len(first.network.tasks), len(first.epochs)
    traces = tasks * (wanted.trace_matvecs * epochs + wanted.hutchinson_samples)
    products = len(work.seeds) * (epochs * density.num_matvecs + traces)
    seconds = products * density.seconds / density.num_matvecs
    whole = hessspec.Forecast(
        num_matvecs=products,
        nbytes=density.nbytes,
        seconds=seconds,
        spent=density.spent,
        question=(
            f"{dataset.name}: the curvature of {tasks} tasks with {hessians.dim:,} shared "
            f"parameters, at {epochs} epochs of {len(work.seeds)} training "
            f"{'runs' if len(work.seeds) > 1 else 'run'},"
        ),
    )
    apart = ["training"]
    apart += ["networks for one task"] if config.single_task else []
    apart += ["eigenpairs"] if wanted.num_eigenpairs else []
    return f"{whole} Not counted: {', '.join(apart)}."
