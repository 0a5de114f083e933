"""A short text that tells operators apart by their numbers, however these lie on devices.

Entries are read at fixed places of each array as a whole, so neither shards, nor copies of them,
nor the stacking of batches of equal shape change the text. Batches count in their order.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from hessspec._base.origin import Origin, digest
from hessspec._base.space import leaf_paths
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.batches import BatchGroup
from hessspec._operators.lift import LiftedFunction
from hessspec._operators.over_data import Chunk, DataOperator

# Entries of each array, evenly spaced: another checkpoint or another batch differs in nearly all.
LOOKED_AT = 4096
_LOSS = "loss, or array that it closes over"


def origin_of(key: PRNGKeyArray, operator: AbstractOperator) -> Origin | None:
    """The origin of a run, or None where other processes hold numbers that this one cannot read."""
    try:
        return Origin.of(key, fingerprint(operator), operator.dtype)
    except _OutOfReachError:
        return None


def fingerprint(operator: AbstractOperator) -> str:
    """The fingerprint of an operator: its kind, parameters, data and the weights of batches.

    Two losses of the same parameters and data have the same one: how a loss is computed may be
    written down differently on another machine, and is not looked at. Arrays that a loss closes
    over are.

    Cost: no product. At most 4,096 entries of each array (of data: for each batch) are read on
    the host; streamed data are read once.
    """
    return digest(_words(operator))


def identity(operator: AbstractOperator) -> dict[str, str]:
    """Fingerprints by what they are of, for runs that go on later: the same ones in each process.

    Beside what `fingerprint` looks at, these know the loss: its trace as text. A rule of a
    `custom_jvp` or `custom_vjp` stands there by its name alone.
    """
    found: dict[str, list[str | bytes]] = {
        name: [] for name in (_LOSS, "point", "data", "operator")
    }
    _collect(operator, found)
    return {name: digest(words) for name, words in found.items()}


def array_digest(array: Array) -> str:
    """The fingerprint of an array, however it lies on devices."""
    return digest([_leaf(array)])


def _collect(operator: AbstractOperator, found: dict[str, list[str | bytes]]) -> None:
    found["operator"].append(type(operator).__name__)
    if isinstance(operator, DataOperator):
        found["point"].extend(_words_of_point(operator))
        found["data"].extend(words for _, words in sorted(_batches(operator)))
        for function in _first_chunk(operator).functions:
            found[_LOSS].extend(_words_of_function(function))
        if operator.weights is not None:
            found["operator"].append(_leaf(operator.weights))
        return
    is_part = (AbstractOperator, LiftedFunction)
    for part in jax.tree.leaves(
        operator, is_leaf=lambda x: x is not operator and isinstance(x, is_part)
    ):
        if isinstance(part, AbstractOperator):
            _collect(part, found)
        elif isinstance(part, LiftedFunction):
            found[_LOSS].extend(_words_of_function(part))
        else:
            found["operator"].append(_leaf(part))


def _words_of_function(function: LiftedFunction) -> Iterator[str | bytes]:
    # Functions inside a trace print with their address in memory.
    yield re.sub(r"0x[0-9a-f]+", "", str(function.program.trace))
    yield from map(_leaf, function.constants)


def _first_chunk(operator: DataOperator) -> Chunk:
    if operator.streamed is None:
        return operator.chunks[0]
    return operator._view(next(iter(operator.streamed.groups()))).chunks[0]


class _OutOfReachError(Exception):
    """Some entries lie on devices of other processes."""


def _words(operator: AbstractOperator) -> Iterator[str | bytes]:
    """What identifies an operator; sums and multiples by their parts."""
    parts = jax.tree.leaves(operator, is_leaf=lambda node: isinstance(node, DataOperator))
    yield type(operator).__name__
    for part in parts:
        if isinstance(part, DataOperator):
            yield from _words_of_data(part)
        elif isinstance(part, AbstractOperator):
            yield from _words(part)
        else:
            yield _leaf(part)


def _words_of_data(operator: DataOperator) -> Iterator[str | bytes]:
    yield type(operator).__name__
    yield from _words_of_point(operator)
    if operator.weights is not None:
        yield _leaf(operator.weights)
    yield from (words for _, words in sorted(_batches(operator)))


def _words_of_point(operator: DataOperator) -> Iterator[str | bytes]:
    for tree in (operator.chosen, eqx.filter(operator.held, eqx.is_array)):
        yield " ".join(leaf_paths(tree))
        yield from map(_leaf, jax.tree.leaves(tree))


def _batches(operator: DataOperator) -> Iterator[tuple[int, str]]:
    """The place of each batch, and what identifies it; the first with what the loss closes over."""
    if operator.streamed is not None:
        for groups in operator.streamed.groups():
            (group,) = groups
            if group.places == (0,):
                yield -1, _closed_over(operator._view(groups).chunks[0])
            yield from _rows(group, group.places)
        return
    for chunk, (places, _) in zip(operator.chunks, operator.source.groups, strict=True):
        if 0 in places:
            yield -1, _closed_over(chunk)
        yield from _rows(chunk.group, places)


def _closed_over(chunk: Chunk) -> str:
    leaves = (jax.tree.leaves(function.constants) for function in chunk.functions)
    return digest(_leaf(leaf) for of_function in leaves for leaf in of_function)


def _rows(group: BatchGroup, places: Iterable[int]) -> Iterator[tuple[int, str]]:
    arrays = jax.tree.leaves(group.arrays)
    kinds = [f"{leaf.dtype}{leaf.shape[1:]}" for leaf in arrays]
    leaves = [_entries(leaf, 1) for leaf in arrays]
    weights = np.asarray(group.weights, np.float32)  # of float64 where it is switched on
    for row, place in enumerate(places):
        entries = (leaf[row].tobytes() for leaf in leaves)
        yield place, digest([*kinds, *entries, weights[row].tobytes()])


def _leaf(leaf: Any) -> bytes:
    """An array, or a number beside the arrays; what is neither has no part in H."""
    if eqx.is_array(leaf) or isinstance(leaf, np.ndarray):
        return f"{leaf.dtype}{leaf.shape}".encode() + _entries(leaf).tobytes()
    return repr(leaf).encode() if isinstance(leaf, bool | int | float) else b""


def _entries(leaf: Array | np.ndarray, lead: int = 0) -> np.ndarray:
    """Entries at evenly spaced places of an array, or of each row of it: shape (n,) or (rows, n).

    Of each shard only those that lie in it are picked, from one copy of it on the host.
    """
    if not isinstance(leaf, jax.Array):
        return _picked(np.asarray(leaf), lead)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            return _picked(np.asarray(leaf.addressable_shards[0].data), lead)
        return _picked_by_all(leaf, lead)
    whole = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    if len(whole) == 1:
        return _picked(np.asarray(whole[0].data), lead)
    rows, places = _places(leaf.shape, lead)
    count = places[0].size if places else 1
    found = np.zeros((rows.size, count), leaf.dtype)
    for shard in whole:
        ends = [one.indices(size)[:2] for one, size in zip(shard.index, leaf.shape, strict=True)]
        index = [rows, *places] if lead else places
        inside = [(i >= low) & (i < high) for i, (low, high) in zip(index, ends, strict=True)]
        own = inside[0] if lead else np.ones(1, bool)
        here = np.logical_and.reduce([np.ones(count, bool), *inside[lead:]])
        moved = [i - low for i, (low, _) in zip(index, ends, strict=True)]
        at = tuple(m[here][None] for m in moved[lead:])
        picked = np.asarray(shard.data)[(moved[0][own][:, None], *at) if lead else at]
        found[np.ix_(own, here)] = np.broadcast_to(picked, (own.sum(), here.sum()))
    return found if lead else found[0]


def _picked_by_all(leaf: Array, lead: int) -> np.ndarray:
    """The entries of an array that several processes hold, picked by all of them together."""
    if not isinstance(leaf.sharding, NamedSharding):
        raise _OutOfReachError
    rows, places = _places(leaf.shape, lead)
    index = (rows[:, None], *places) if lead else places
    everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return np.asarray(jax.jit(lambda x: x[index], out_shardings=everywhere)(leaf))


def _picked(block: np.ndarray, lead: int) -> np.ndarray:
    flat = block.reshape(block.shape[0] if lead else 1, -1)
    step = _step(flat.shape[1])
    return flat[:, ::step] if lead else flat[0, ::step]


def _step(size: int) -> int:
    """Coprime to the length of every axis: a step of 8 would see one of 8 columns and no other."""
    step = max(1, -(-size // LOOKED_AT))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _places(shape: tuple[int, ...], lead: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The rows, and the index along each further axis of the entries looked at."""
    rows = np.arange(shape[0] if lead else 1)
    rest = shape[lead:]
    size = int(np.prod(rest, dtype=int))
    flat = np.arange(0, size, _step(size))
    return rows, tuple(np.unravel_index(flat, rest)) if rest else ()
