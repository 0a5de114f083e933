"""flax NNX: a module whole or split, batch normalisation in both modes, dropout with its keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec

nnx = pytest.importorskip("flax.nnx", reason="flax is part of the extra `mtl`")

X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jnp.sin(X.sum(axis=1, keepdims=True))


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x, rngs=None):
        return self.head(self.dropout(jnp.tanh(self.norm(self.hidden(x))), rngs=rngs))


def network():
    """With statistics that a step of training has moved."""
    model = Network(nnx.Rngs(0))
    model(X)
    return model


def mean_squares(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


PATHS = ("head/bias", "head/kernel", "hidden/bias", "hidden/kernel", "norm/bias", "norm/scale")


def split_loss(model):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        return mean_squares(nnx.merge(graph, params, rest, copy=True), batch)

    return loss, params


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_in_both_modes_whole_or_split(mode, dense, close):
    """In training the statistics are those of the batch, and H knows how they move."""
    model = network()
    getattr(model, mode)()
    model.dropout.deterministic = True
    loss, params = split_loss(model)
    truth = dense(loss, params, (X, Y))
    split = hessspec.HessianOperator(loss, params, data=(X, Y))
    whole = hessspec.HessianOperator(mean_squares, model, data=(X, Y), where=nnx.Param)
    for operator in (split, whole):
        assert operator.space.paths == PATHS
        close(operator.dense(), truth)
    mean = np.asarray(model.norm.mean[...])
    whole.validate()
    np.testing.assert_array_equal(model.norm.mean[...], mean)  # the module was left alone


def test_without_where_the_running_statistics_count_and_the_operator_says_so():
    model = network()
    model.eval()
    operator = hessspec.HessianOperator(mean_squares, model, data=(X, Y))
    assert operator.dim == 29 + 8
    assert "norm/mean: float32[4] (BatchStat)" in repr(operator)


def test_dropout_takes_its_keys_from_the_data(dense, close):
    """H = Σ_b n_b/n H_b, each with the mask that its batch's key draws."""
    model = network()
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, batch):
        model = nnx.merge(graph, params, rest, copy=True)
        outputs = model(batch["x"], rngs=nnx.Rngs(dropout=batch["key"]))
        return ((outputs - batch["y"]) ** 2).mean()

    keys = jax.random.split(jax.random.key(3), 2)
    batches = [
        {"x": X[:6], "y": Y[:6], "key": keys[0]},
        {"x": X[6:], "y": Y[6:], "key": keys[1]},
    ]
    operator = hessspec.HessianOperator(loss, params, data=hessspec.Batches(batches))
    truths = [dense(loss, params, batch) for batch in batches]
    close(operator.dense(), np.mean(truths, axis=0))
    assert np.abs(truths[0] - truths[1]).max() > 0.01 * np.abs(truths[0]).max()


def test_dropout_that_draws_from_the_module_itself_is_one_fixed_mask(dense, close):
    """Its stream is part of the module, which every call of the loss gets as it was."""
    model = network()
    model.train()
    loss, params = split_loss(model)
    whole = hessspec.HessianOperator(mean_squares, model, data=(X, Y), where=nnx.Param)
    whole.validate()
    close(whole.dense(), dense(loss, params, (X, Y)))


def test_filters_of_variables_are_refused_rather_than_misread():
    """`Not(BatchStat)` called with a path and an array is true of the running statistics too."""
    for chosen in (nnx.Not(nnx.BatchStat), nnx.PathContains("kernel")):
        with pytest.raises(TypeError, match=f"filter nnx.{type(chosen).__name__}.*`where=nnx.P"):
            hessspec.HessianOperator(mean_squares, network(), data=(X, Y), where=chosen)
