"""Errors and predictions of all splits: one program, and padding that counts for nothing."""

import jax
import numpy as np

from hessspec_mtl.datasets.computed import load_molecules
from hessspec_mtl.graphs import balanced_padding
from hessspec_mtl.network.model import NetworkConfig, init_params, predict
from hessspec_mtl.training.config import TrainConfig
from hessspec_mtl.training.evaluation import EVALUATION_BATCH, evaluation, evaluation_batches
from hessspec_mtl.training.predictions import predictions
from hessspec_mtl.training.train import splits_of, train

DATASET = load_molecules(num_examples=40, seed=0)
ENCODED = DATASET.encode(DATASET.split(0))
NETWORK = NetworkConfig(
    ENCODED.node_features, ENCODED.edge_features, ("f1", "E1"), num_steps=1, width=2, head_width=3
)


def test_errors_of_both_splits_and_predictions_are_one_compiled_program(tmp_path):
    splits = splits_of(ENCODED, NETWORK)
    shapes = {balanced_padding(graphs, EVALUATION_BATCH) for graphs, _ in splits.values()}
    assert len(shapes) == 2  # alone they would be two programs
    train(TrainConfig(num_epochs=1, batch_size=40), NETWORK, ENCODED, tmp_path, progress=False)
    predictions(NETWORK, ENCODED, tmp_path, 1)
    assert evaluation(NETWORK)._cache_size() == 1


def test_sums_are_over_the_examples_of_their_split_alone():
    params, splits = init_params(jax.random.key(0), NETWORK), splits_of(ENCODED, NETWORK)
    for split, (graphs, targets) in splits.items():
        (batch,) = evaluation_batches(splits, split)
        predicted, sums = evaluation(NETWORK)(params, batch)
        assert batch.num_graphs == len(graphs)
        errors = np.asarray(predicted)[: len(graphs)] - targets
        wanted = np.stack([(errors**2).sum(axis=0), np.abs(errors).sum(axis=0)])
        np.testing.assert_allclose(sums, wanted, rtol=1e-5)
        np.testing.assert_allclose(predicted, predict(params, batch, NETWORK), rtol=1e-5, atol=1e-6)
