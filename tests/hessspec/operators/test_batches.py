"""Batches of what people put in them: random keys, labels, text, tensors; each works or is named.

The model is linear, so the Hessian of a mean of squares is known: 2/n X'X.
"""

import datetime
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessspec import Batches, HessianOperator
from hessspec._operators.rows import compiled_rows

DIM = 3
GENERATOR = np.random.default_rng(0)
ITEMS = 1000
X = GENERATOR.normal(size=(ITEMS, DIM))
Y = GENERATOR.normal(size=ITEMS)
KEEP = 0.8


def dtype():
    return np.dtype(jnp.asarray(0.0).dtype)


def params():
    return jnp.ones(DIM, dtype())


def dropped(params, batch):
    """A mean of squares with a dropout mask of the batch's own."""
    mask = jax.random.bernoulli(batch["key"], KEEP, batch["x"].shape[:1]).astype(params.dtype)
    return jnp.mean(mask * (batch["x"] @ params - batch["y"]) ** 2) / KEEP


def labelled(params, batch):
    return (batch["x"] @ params - batch["y"]) ** 2


def curvature(rows):
    """2/n X'X in float64."""
    return 2 * rows.T @ rows / len(rows)


def close(actual, expected):
    actual = np.asarray(actual, np.float64)
    tolerance = 500 * np.finfo(dtype()).eps * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def rows_of(count, size):
    return [X[size * b : size * (b + 1)].astype(dtype()) for b in range(count)]


@pytest.mark.any_dtype
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("vectors", [None, 60], ids=["kept", "streamed"])
def test_a_dropout_key_a_batch_drops_what_it_says(impl, vectors):
    """H = mean_b 2/(n keep) X'D_b X, with D_b the mask that the key of batch b draws."""
    sizes, keys = [7, 7, 7, 4], jax.random.split(jax.random.key(1, impl=impl), 4)
    cuts = np.split(X[:25].astype(dtype()), np.cumsum(sizes)[:-1])
    targets = np.split(Y[:25].astype(dtype()), np.cumsum(sizes)[:-1])
    batches = [{"x": x, "y": y, "key": key} for x, y, key in zip(cuts, targets, keys, strict=True)]
    truth = np.zeros((DIM, DIM))
    for x, key in zip(cuts, keys, strict=True):
        mask = np.asarray(jax.random.bernoulli(key, KEEP, (len(x),)), float)
        truth += 2 / KEEP * (x.T * mask) @ x / 25
    budget = None if vectors is None else vectors * DIM * dtype().itemsize
    for data in (Batches(batches), Batches(batches, sizes=sizes)):
        operator = HessianOperator(dropped, params(), data=data, memory_budget=budget)
        assert (operator.streamed is not None) == (vectors is not None)
        close(operator.dense(), truth)


LEAVES = {
    "floats": lambda item: float(Y[item]),
    "whole numbers": lambda item: item,
    "truths": lambda item: item % 3 == 0,
    "numbers of numpy": lambda item: dtype().type(Y[item]),
    "arrays without axes": lambda item: jnp.asarray(Y[item], dtype()),
}


def labels(kind):
    return np.array([float(LEAVES[kind](item)) for item in range(ITEMS)])


def mixed_loss(params, batch):
    label = jnp.asarray(batch["y"]).astype(params.dtype)
    return (batch["x"] @ params - label) ** 4 / 12


@pytest.mark.parametrize("kind", LEAVES)
def test_a_thousand_items_are_one_program_whatever_their_labels_are(kind):
    """Of the mean of (x'w - y)⁴/12 the Hessian is the mean of (x'w - y)² xx'."""
    x = X.astype(dtype())
    batches = [
        {"x": x[item], "y": LEAVES[kind](item), "name": f"item {item}", "made": None}
        for item in range(ITEMS)
    ]
    traces = []

    def counted(params, batch):
        traces.append(1)
        return mixed_loss(params, batch)

    operator = HessianOperator(counted, params(), data=Batches(batches, sizes=[1] * ITEMS))
    assert len(operator.chunks) == 1
    before = compiled_rows._cached._cache_size()
    residual = x.sum(axis=1, dtype=float) - labels(kind)
    close(operator.dense(), np.einsum("n,np,nq->pq", residual**2, x, x, dtype=float) / ITEMS)
    assert compiled_rows._cached._cache_size() <= before + 1
    assert len(traces) <= 4  # and not one an item


@pytest.mark.any_dtype
def test_numbers_that_differ_are_one_program_for_a_stream_too():
    batches = [{"x": rows, "y": float(b)} for b, rows in enumerate(rows_of(40, 25))]
    data = Batches(batches, sizes=[25] * 40)

    def loss(params, batch):
        return ((batch["x"] @ params - batch["y"]) ** 2).mean()

    operator = HessianOperator(loss, params(), data=data, memory_budget=60 * DIM * 8)
    assert operator.streamed is not None
    before = compiled_rows._cached._cache_size()
    close(operator.dense(), curvature(X))
    assert compiled_rows._cached._cache_size() <= before + 1


@pytest.mark.any_dtype
def test_numbers_and_text_that_a_loss_reads_as_values_still_count():
    """A count of segments and the name of a power must be known when the loss is compiled."""
    powers = {"square": 2, "fourth": 4}

    def loss(params, batch):
        sums = jnp.zeros(batch["segments"], params.dtype).at[0].set((batch["x"] @ params).sum())
        return (sums ** powers[batch["power"]]).sum() / batch["segments"]

    rows = rows_of(3, 5)
    batches = [
        {"x": rows[0], "segments": 2, "power": "square"},
        {"x": rows[1], "segments": 4, "power": "square"},
        {"x": rows[2], "segments": 2, "power": "fourth"},
    ]
    operator = HessianOperator(loss, params(), data=Batches(batches, sizes=[5, 5, 5]))
    assert len(operator.chunks) == 3
    a, b, c = (part.sum(axis=0, dtype=float) for part in rows)
    truth = np.outer(a, a) + np.outer(b, b) / 2 + 6 * c.sum() ** 2 * np.outer(c, c)
    close(operator.dense(), truth / 3)
    many = [dict(batches[0], segments=count) for count in range(1, 40)]
    with pytest.raises(TypeError, match=r"differs in `power`, `segments`, .*: 16 programs"):
        HessianOperator(loss, params(), data=Batches(many, sizes=[5] * 39))


@pytest.mark.any_dtype
def test_a_number_of_valid_items_may_bound_a_slice():
    """Batches padded to one shape: L_b = sum over the first n_b items of (x'w)^2 / 2."""

    def loss(params, batch):
        return 0.5 * jnp.sum((batch["x"] @ params)[: batch["n"]] ** 2)

    rows, counts = rows_of(3, 5), (1, 4, 2)
    batches = [{"x": x, "n": n} for x, n in zip(rows, counts, strict=True)]
    operator = HessianOperator(loss, params(), data=Batches(batches, sizes=[1, 1, 1]))
    valid = np.concatenate([x[:n] for x, n in zip(rows, counts, strict=True)]).astype(float)
    close(operator.dense(), valid.T @ valid / 3)


class Tensor:
    """What numpy can read and JAX cannot, like the tensors of other libraries."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        if self.values is None:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return np.asarray(self.values, dtype)


def squares(params, batch):
    x, y = batch[:2]
    return ((x @ params - y) ** 2).mean()


def test_tensors_of_other_libraries_are_read_as_arrays():
    rows, targets = rows_of(3, 8), [part.astype(dtype()) for part in np.split(Y[:24], 3)]
    pairs = [(Tensor(x), Tensor(y)) for x, y in zip(rows, targets, strict=True)]
    close(HessianOperator(squares, params(), data=pairs[0]).dense(), curvature(rows[0]))
    whole = HessianOperator(squares, params(), data=Batches(pairs))
    assert len(whole.chunks) == 1
    close(whole.dense(), curvature(X[:24]))


def test_tensors_of_torch_are_read_as_arrays():
    torch = pytest.importorskip("torch", reason="torch is no dependency")
    rows = rows_of(2, 8)
    pairs = [(torch.from_numpy(x), torch.ones(8, dtype=torch.float32)) for x in rows]

    def loss(params, batch):
        return ((batch[0] @ params - batch[1].astype(params.dtype)) ** 2).mean()

    close(HessianOperator(loss, params(), data=Batches(pairs)).dense(), curvature(X[:16]))
    wanted = torch.ones(8, requires_grad=True)
    with pytest.raises(TypeError, match=r"`data` at `1` holds a Tensor that cannot be read .*grad"):
        HessianOperator(loss, params(), data=(pairs[0][0], wanted))


UNUSED = {
    "text": [f"sample {item}" for item in range(8)],
    "bytes": [bytes([item]) for item in range(8)],
    "arrays of text": [np.array([f"{item}", "b"]) for item in range(8)],
    "objects": [np.array([object(), None], dtype=object) for _ in range(8)],
    "dates": [np.array([f"2020-01-0{item + 1}"], "datetime64[D]") for item in range(8)],
    "huge numbers": [10**30 + item for item in range(8)],
    "one kind": [datetime.date(2020, 1, 1)] * 8,
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("kind", UNUSED)
def test_what_no_loss_looks_at_may_stand_in_a_batch(kind):
    rows = rows_of(8, 4)
    batches = [(x, np.zeros(4, x.dtype), note) for x, note in zip(rows, UNUSED[kind], strict=True)]
    close(HessianOperator(squares, params(), data=batches[0]).dense(), curvature(rows[0]))
    whole = HessianOperator(squares, params(), data=Batches(batches, sizes=[4] * 8))
    assert len(whole.chunks) == 1
    close(whole.dense(), curvature(X[:32]))


def table():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X[:4].astype(dtype()), columns=list("abc"))


def test_columns_of_a_table_are_arrays_and_the_table_itself_says_how_to_be_one():
    frame = table()
    target = frame["a"]  # a series, which numpy reads
    pairs = [(frame.to_numpy(), target)] * 2
    close(HessianOperator(squares, params(), data=Batches(pairs)).dense(), curvature(X[:4]))
    with pytest.raises(TypeError, match=re.escape("batch 0 of `data` at `0` holds a DataFrame")):
        HessianOperator(squares, params(), data=Batches([(frame, target)]))


REFUSED = {
    "a mask that would be lost": (
        lambda: np.ma.masked_array(np.ones(4), [0, 0, 1, 0]),
        "holds a masked array, whose mask would be lost; pass `array.filled(0)` and the mask.",
    ),
    "a generator": (
        lambda: (x for x in range(4)),
        "holds a generator, which a second product would find empty; make a list",
    ),
    "a tensor on its way to a gradient": (
        lambda: Tensor(None),
        "holds a Tensor that cannot be read as an array (Can't call numpy() on Tensor that",
    ),
    "a table": (table, "pass its numbers, `table.to_numpy()`, or a dict of its columns"),
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("several", [False, True])
def test_what_a_loss_could_only_misread_is_refused_with_its_place(case, several):
    make, message = REFUSED[case]
    batch = {"x": X[:4].astype(dtype()), "y": make()}
    place = "batch 0 of `data` at `y` " if several else "`data` at `y` "
    with pytest.raises(TypeError, match=re.escape(place) + ".*" + re.escape(message)):
        HessianOperator(
            lambda p, b: labelled(p, b).mean(),
            params(),
            data=Batches([batch], sizes=[4]) if several else batch,
        )


LOOKED_AT = {
    "objects": lambda: np.array([1.0, 2.0, 3.0, 4.0], dtype=object),
    "text": lambda: np.array(["1", "2", "3", "4"]),
}


@pytest.mark.any_dtype
@pytest.mark.parametrize("kind", LOOKED_AT)
def test_a_loss_that_looks_at_what_is_no_number_is_told_its_place(kind):
    batch = {"x": X[:4].astype(dtype()), "y": LOOKED_AT[kind]()}
    for data in (batch, Batches([batch])):
        with pytest.raises(TypeError, match=r"`data` at `y` holds an array of .*, which the loss"):
            HessianOperator(lambda p, b: labelled(p, b).mean(), params(), data=data)
    assert (
        HessianOperator(  # its length may be known
            lambda p, b: (b["x"] @ p).sum() ** 2 / len(b["y"]), params(), data=batch
        ).dim
        == DIM
    )


@pytest.mark.any_dtype
def test_sets_that_cannot_be_told_apart_are_refused_by_place():
    batch = (X[:4].astype(dtype()), np.zeros(4, dtype()), {1, 2})
    close(HessianOperator(squares, params(), data=batch).dense(), curvature(X[:4]))
    with pytest.raises(TypeError, match=r"batch 0 of `data` holds a set at `2`"):
        HessianOperator(squares, params(), data=Batches([batch], sizes=[4]))


@jax.tree_util.register_pytree_node_class
class Checked:
    """A data set that looks at the shapes of its arrays whenever it is made, as GPJax's does."""

    def __init__(self, x, y):
        if x is not None and (x.ndim != 2 or x.shape[0] != y.shape[0]):
            raise ValueError("rows of inputs and their targets are wanted")
        self.x, self.y = x, y

    def tree_flatten(self):
        return (self.x, self.y), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


@pytest.mark.any_dtype
def test_trees_that_check_their_leaves_may_be_batches():
    def loss(params, batch):
        return squares(params, (batch.x, batch.y))

    sets = [Checked(x, y) for x, y in pairs(7, 7, 4)]
    close(HessianOperator(loss, params(), data=sets[0]).dense(), curvature(X[:7]))
    whole = HessianOperator(loss, params(), data=Batches(sets))
    close(whole.dense(), (14 * curvature(X[:7]) + 4 * curvature(X[:4])) / 18)
    broken = Checked(X[:7] * np.nan, Y[:7])
    with pytest.raises(ValueError, match=r"of batch 1 of `data`, not finite"):
        HessianOperator(loss, params(), data=Batches([sets[0], broken])).validate()


class Loader:
    """Holds batches, as loaders of other libraries do."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def pairs(*lengths):
    return [(X[:n].astype(dtype()), Y[:n].astype(dtype())) for n in lengths]


@pytest.mark.any_dtype
def test_a_loader_is_a_set_of_batches_and_no_batch():
    loader = Loader(pairs(6, 6, 3))
    truth = (6 * curvature(X[:6]) * 2 + 3 * curvature(X[:3])) / 15
    close(HessianOperator(squares, params(), data=Batches(loader)).dense(), truth)
    with pytest.raises(TypeError, match=r"got a Loader, .* pass `data=hessspec.Batches\(data\)`"):
        HessianOperator(squares, params(), data=loader)


@pytest.mark.any_dtype
def test_one_item_is_a_batch_and_none_is_refused_by_its_index():
    operator = HessianOperator(squares, params(), data=Batches(pairs(5, 1)))
    close(operator.dense(), (5 * curvature(X[:5]) + curvature(X[:1])) / 6)
    with pytest.raises(ValueError, match=r"batch 1 of `data` is empty .* leave it out"):
        HessianOperator(squares, params(), data=Batches(pairs(5, 0, 3)))

    def total(params, batch):
        return 5 * squares(params, batch) if len(batch[1]) else 0.0 * params.sum()

    sums = HessianOperator(total, params(), data=Batches(pairs(5, 0), reduction="sum"))
    close(sums.dense(), 5 * curvature(X[:5]))


@pytest.mark.any_dtype
def test_a_function_that_returns_a_used_iterator_is_found_out():
    once = iter(pairs(8, 8))
    with pytest.raises(ValueError, match=r"`batches` was empty when it was read again"):
        HessianOperator(squares, params(), data=Batches(lambda: once), memory_budget=200)


def test_sums_over_batches_are_sums():
    def total(params, batch):
        return ((batch @ params) ** 2).sum()

    rows = rows_of(1, 11)[0]
    parts = Batches([rows[:6], rows[6:]], reduction="sum")
    close(HessianOperator(total, params(), data=parts).dense(), 2 * rows.T @ rows)


@pytest.mark.any_dtype
def test_one_shot_iterators_and_unknown_sizes_are_refused():
    (x,) = rows_of(1, 11)
    with pytest.raises(TypeError, match="iterable more than once"):
        Batches(iter([x]))
    ragged_leaves = Batches([{"x": x, "scale": jnp.float32(2.0)}])
    with pytest.raises(ValueError, match="`sizes` is required"):
        HessianOperator(lambda p, b: (b["x"] @ p).sum(), jnp.ones(3), data=ragged_leaves)
    with pytest.raises(ValueError, match="one size for each batch"):
        HessianOperator(lambda p, b: (b @ p).sum(), jnp.ones(3), data=Batches([x], sizes=[1, 2]))
    with pytest.raises(ValueError, match="at least one batch"):
        HessianOperator(lambda p, b: (b @ p).sum(), jnp.ones(3), data=Batches([]))
