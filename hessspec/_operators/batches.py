"""Data sets as batches: re-iterable, ragged, with the exact mean over all their items."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessspec._base.arguments import did_you_mean
from hessspec._base.memory import resolve_budget
from hessspec._base.meshes import example_like, on_mesh_of
from hessspec._operators.batch_leaves import Families, Parts, admit


class Batches:
    """A data set given as batches; the loss of the set is the exact mean over its items.

    With L_b the mean loss of batch b and n_b its number of items, the set's loss is
    Σ n_b L_b / Σ n_b: a ragged last batch counts for what it holds. With `reduction="sum"`
    (for losses that are sums over items) it is Σ L_b.

    Args:
        batches: a sequence of batches, or any object that can be iterated more than once, or a
            function that returns a fresh iterator. Each batch is a pytree and is never split.
            What numpy can read becomes an array; numbers and text that differ from batch to
            batch do not make programs of their own (docs/operators.md).
        sizes: number of items of each batch, the weights of a mean. Needed unless all leaves of
            a batch share their leading axis, whose length is then the size; text and single
            random keys are not counted.
        reduction: "mean" if the loss is a mean over the items of a batch, "sum" if a sum.

    Raises:
        TypeError: for a one-shot iterator, which a second product would find empty, or anything
            else that does not hold batches.
        ValueError: for no batches, sizes that do not match, sizes that cannot be told, or sizes
            of a sum, which has no weights.
    """

    def __init__(
        self,
        batches: Iterable[PyTree] | Callable[[], Iterator[PyTree]],
        sizes: Sequence[float] | None = None,
        *,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        if isinstance(batches, Iterator):
            raise TypeError(
                "`batches` must be iterable more than once (every product passes over the data), "
                "got an iterator; pass a list, or a function that returns a fresh iterator."
            )
        holds = callable(batches) or hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        if isinstance(batches, Mapping) or not holds:
            raise TypeError(
                f"`batches` must be a sequence of batches, got {type(batches).__name__}; a single "
                "batch is passed as `data=batch`, or as `Batches([batch])`."
            )
        if reduction not in ("mean", "sum"):
            near = did_you_mean(reduction, ("mean", "sum"))
            raise ValueError(f"`reduction` must be 'mean' or 'sum', got {reduction!r}{near}")
        if sizes is not None and reduction == "sum":
            raise ValueError(
                "`sizes` must be left out with `reduction='sum'`: they are the weights of a mean, "
                "and a sum of losses has none."
            )
        self._batches = batches
        self._sizes = None if sizes is None else _positive(sizes)
        self._read = False
        self.reduction = reduction

    def __repr__(self) -> str:
        # Batches are counted where that reads none of them: a loader may take long for its first.
        if isinstance(self._batches, list | tuple):
            held = _counted(len(self._batches), _sizes_at_hand(self._batches))
        else:
            name = getattr(self._batches, "__qualname__", type(self._batches).__name__)
            held = f"batches from {name}"
        if self._sizes is not None:
            held = _counted(len(self._sizes), self._sizes)
        return f"Batches({held}; the loss is their {self.reduction})"

    def __iter__(self) -> Iterator[PyTree]:
        iterable = self._batches() if callable(self._batches) else self._batches
        return iter(iterable)

    def weighted(self) -> Iterator[tuple[PyTree, float]]:
        """Pairs (batch, weight), the weight still to be divided by the sum of all.

        Raises:
            ValueError: for no batches, or another number of them than of `sizes`.
        """
        count = 0
        for index, batch in enumerate(self):
            count += 1
            batch = admit(batch, f"batch {index} of `data`")
            yield batch, self._size(index, batch)
        if count == 0 and self._read:
            raise ValueError(
                "`batches` was empty when it was read again, as every product must; pass a list, "
                "or a function that returns a fresh iterator."
            )
        if count == 0:
            raise ValueError("`batches` must hold at least one batch, got none")
        self._read = True
        if self._sizes is not None and count != len(self._sizes):
            raise ValueError(
                f"`sizes` must give one size for each batch, got {len(self._sizes)} sizes for "
                f"{count} batches"
            )

    def _size(self, index: int, batch: PyTree) -> float:
        if self.reduction == "sum":
            return 1.0
        if self._sizes is not None:
            if index >= len(self._sizes):
                raise ValueError(
                    f"`sizes` must give one size for each batch, got only {len(self._sizes)}"
                )
            return self._sizes[index]
        lengths = {_length(leaf) for leaf in jax.tree.leaves(batch) if not _is_of_batch(leaf)}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                f"`sizes` is required: the leaves of batch {index} do not share a leading axis "
                f"(found {sorted(map(str, lengths))}), so its number of items cannot be told; "
                "pass `Batches(batches, sizes=[...])`."
            )
        if lengths == {0}:
            raise ValueError(
                f"batch {index} of `data` is empty (its leaves have length 0), so the loss has no "
                "mean over it; leave it out."
            )
        (length,) = lengths
        return float(length)  # type: ignore[arg-type]


def _counted(count: int, sizes: Sequence[float] | None) -> str:
    if not sizes:
        return _many(count)
    first, last = f"{sizes[0]:g}", f"{sizes[-1]:g}"
    each = first if len(set(sizes)) == 1 else f"{first}, ..., {last}"
    return f"{_many(count)} of {each} items, {sum(sizes):,g} in all"


def _many(count: int) -> str:
    return "1 batch" if count == 1 else f"{count:,} batches"


def _sizes_at_hand(batches: Sequence[PyTree]) -> list[float] | None:
    """The number of items of each batch, as the shapes of its arrays have it."""
    found = []
    for batch in batches:
        lengths = {_length(leaf) for leaf in jax.tree.leaves(batch) if hasattr(leaf, "shape")}
        length = lengths.pop() if len(lengths) == 1 else None
        if length is None:
            return None
        found.append(float(length))
    return found


def _length(leaf: Any) -> int | None:
    return np.shape(leaf)[0] if np.ndim(leaf) else None


def _is_of_batch(leaf: Any) -> bool:
    """Whether a leaf belongs to a batch as a whole: text, or one random key."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return isinstance(leaf, str | bytes) or (is_key and leaf.ndim == 0)


def _positive(sizes: Iterable[float]) -> tuple[float, ...]:
    try:
        found = tuple(float(size) for size in sizes)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`sizes` must be a sequence of numbers, got {sizes!r}") from error
    if not all(0 < size < math.inf for size in found):
        raise ValueError(f"`sizes` must be positive and finite, got {list(found)}")
    return found


class BatchGroup(eqx.Module):
    """Batches of equal shape, stacked so that one compiled loop can scan them."""

    arrays: PyTree  # leaves have a leading axis, one entry per batch
    constants: Any  # what is not an array, the same for all; of data, all but its arrays
    weights: Float[Array, " batches"]
    places: tuple[int, ...] = eqx.field(static=True, default=())  # of its batches in the data

    def batch(self, arrays: PyTree) -> PyTree:
        """One batch again, from one entry of `arrays`."""
        if isinstance(self.constants, Parts):
            return self.constants.whole(arrays)
        return arrays if self.constants is None else eqx.combine(arrays, self.constants)

    def example(self) -> PyTree:
        """A batch of the shapes of all, to trace with; its numbers mean nothing."""

        def alike(leaf: Array) -> Array | np.ndarray:
            is_plain = isinstance(leaf.dtype, np.dtype)  # a random key is not
            return example_like(leaf) if is_plain else leaf[0]

        return self.batch(jax.tree.map(alike, self.arrays))

    def traced(self) -> "BatchGroup":
        """The group as programs take it: all but its arrays is part of the trace already."""
        return BatchGroup(self.arrays, None, self.weights)

    def weighted_sum(self, function: Callable[[PyTree], Array]) -> Array:
        """Σ weight · function(batch), by one loop."""

        def weighted(arrays: PyTree, weight: Array) -> Array:
            value = function(self.batch(arrays))
            return value * weight.astype(value.dtype)

        first = jax.tree.map(lambda leaf: leaf[0], self.arrays)
        if self.weights.size == 1:
            return weighted(first, self.weights[0])
        shape = jax.eval_shape(weighted, first, self.weights[0])
        total, _ = jax.lax.scan(
            lambda carry, item: (carry + weighted(*item), None),
            jnp.zeros(shape.shape, shape.dtype),
            (self.arrays, self.weights),
        )
        return total

    def mapped(self, function: Callable[[PyTree], PyTree]) -> "BatchGroup":
        """function(batch) of every batch, as a group with the same weights."""

        def of(arrays: PyTree) -> PyTree:
            return function(self.batch(arrays))

        if self.weights.size == 1:
            only = of(jax.tree.map(lambda leaf: leaf[0], self.arrays))
            results = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], only)
        else:
            results = jax.lax.map(of, self.arrays)
        return BatchGroup(*eqx.partition(results, eqx.is_array), self.weights)


class StreamedData(eqx.Module):
    """Batches too large to keep: read again for each product, one at a time."""

    batches: Batches = eqx.field(static=True)
    total_weight: float = eqx.field(static=True)
    families: Families = eqx.field(static=True)

    def groups(self) -> Iterator[tuple[BatchGroup, ...]]:
        """One group of a single batch at a time."""
        for index, (batch, weight) in enumerate(self.batches.weighted()):
            settled = self.families.settled(Parts.of(batch))
            yield (_stack([settled], [weight / self.total_weight], (index,)),)


def collect(
    data: PyTree, memory_budget: int | None = None, *, by_value: bool = False
) -> tuple[BatchGroup, ...] | StreamedData:
    """`data` as stacked groups, one for each batch shape; streamed if they exceed the budget.

    A quarter of the budget may hold data; the rest is for activations and vectors. Numbers and
    text that differ between batches make groups of their own only if `by_value` asks for it.

    Raises:
        TypeError: for an iterator, which could be read only once; for what holds batches and is
            none; and for leaves as `admit`.
        ValueError: as `Batches.weighted`.
    """
    if not isinstance(data, Batches):
        _check_one_batch(data)
        return (_stack([Parts.of(admit(data, "`data`"))], [1.0], (0,)),)
    budget = resolve_budget(memory_budget) // 4
    families = Families(by_value)
    total_weight, nbytes, streamed = 0.0, 0, False
    for index, (batch, weight) in enumerate(data.weighted()):
        parts = Parts.of(batch)
        total_weight += weight
        nbytes += sum(leaf.nbytes for leaf in parts.arrays)
        family = families.add(index, parts)
        if nbytes > budget and not streamed:
            # Only the weights and constants are still needed; the batches are not kept.
            streamed = True
            for other in families.found.values():
                other.items.clear()
        if not streamed:
            family.items.append((parts, weight, index))
    if data.reduction == "sum":
        total_weight = 1.0
    if streamed:
        return StreamedData(data, total_weight, families)
    return tuple(
        _stack(
            [families.settled(parts, family) for parts, _, _ in family.items],
            [weight / total_weight for _, weight, _ in family.items],
            tuple(index for _, _, index in family.items),
        )
        for family in families.found.values()
    )


def _check_one_batch(data: PyTree) -> None:
    if isinstance(data, Iterator):
        raise TypeError(
            "`data` must be one batch or `hessspec.Batches`, got an iterator, which a second "
            "product would find empty; pass `Batches(list(data))`."
        )
    is_tree = not jax.tree_util.all_leaves([data])
    is_array = hasattr(data, "shape") or hasattr(data, "__array__")
    holds = hasattr(data, "__iter__") or (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
    if is_tree or is_array or isinstance(data, str | bytes) or not holds:
        return
    way_out = (
        "if it is one batch, pass `data=dict(batch)`"
        if isinstance(data, Mapping)
        else ("if it holds batches, pass `data=hessspec.Batches(data)`")
    )
    raise TypeError(
        f"`data` must be one batch or `hessspec.Batches`, got a {type(data).__name__}, which JAX "
        f"does not know as a tree of arrays; {way_out}."
    )


@contextmanager
def hint_at_batches(data: PyTree) -> Iterator[None]:
    """A note on errors of the body, if `data` looks like batches passed as one, or as `Batches`."""
    try:
        yield
    except Exception as error:
        if isinstance(data, Batches) and isinstance(data._batches, tuple):
            error.add_note(
                "hessspec: each entry of `Batches((x, y))` is a batch; if the two are one batch, "
                "pass `data=(x, y)` or `Batches([(x, y)])`."
            )
        elif inspect.isroutine(data):
            error.add_note(
                "hessspec: `data` is a function, which the loss got as it is; if it returns an "
                "iterator over batches, fresh each time, pass `data=hessspec.Batches(data)`."
            )
        elif _looks_like_batches(data):
            error.add_note(
                f"hessspec: `data` is one batch, which the loss got whole ({type(data).__name__}); "
                "if it holds several batches, pass `data=hessspec.Batches(data)`."
            )
        raise


def _looks_like_batches(data: PyTree) -> bool:
    """Trees of one structure whose leaves differ in the leading axis only, or a loader of them."""
    if isinstance(data, list | tuple):
        kinds = {
            (jax.tree.structure(item), *(np.shape(leaf)[1:] for leaf in jax.tree.leaves(item)))
            for item in data
        }
        # A pair of arrays is what a batch usually is.
        pair = isinstance(data, tuple) and not any(isinstance(i, list | tuple | dict) for i in data)
        return len(data) > 1 and len(kinds) == 1 and not pair
    if isinstance(data, Iterator):  # refused already, with its own way out
        return False
    is_array = hasattr(data, "shape")
    return not is_array and not isinstance(data, Mapping | Batches) and hasattr(data, "__iter__")


def _stack(batches: list[Parts], weights: list[float], places: tuple[int, ...]) -> BatchGroup:
    arrays = tuple(map(_stacked, zip(*(batch.arrays for batch in batches), strict=True)))
    rest = batches[0].without_arrays()
    return BatchGroup(arrays, rest, jnp.asarray(weights, dtype=float), places)


def _stacked(leaves: tuple[Array | np.ndarray, ...]) -> Array:
    """`jnp.stack`, without a compiled program where the host can read the arrays in place."""
    if all(isinstance(leaf, np.ndarray) or _in_host_memory(leaf) for leaf in leaves):
        return jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves]))
    with on_mesh_of(leaves):
        return jnp.stack(leaves)


def _in_host_memory(array: Array) -> bool:
    is_plain = isinstance(array.dtype, np.dtype)  # a random key is not
    return (
        is_plain and {d.platform for d in array.devices()} == {"cpu"} and len(array.devices()) == 1
    )
