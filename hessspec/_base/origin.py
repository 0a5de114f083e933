"""Where a record comes from: what tells whether two are independent runs of one question."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from hessspec._base.tasks import task_words

Record = TypeVar("Record")


class Origin(NamedTuple):
    """Keys and operator of a run, as fingerprints: short texts that differ where these do.

    Attributes:
        keys: of the keys of all runs that the record holds.
        operator: of parameters, data and what is made of them.
        dtype: in which products were computed.
        part: which part of the operator the record is about, in words; "" for the whole.
    """

    keys: tuple[str, ...]
    operator: str
    dtype: str
    part: str = ""

    @classmethod
    def of(cls, key: PRNGKeyArray, operator: str, dtype: np.dtype) -> "Origin":
        """The origin of one run with this key."""
        words = [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tobytes()]
        return cls((digest(words),), operator, np.dtype(dtype).name)

    @classmethod
    def read(cls, saved: list[Any] | None) -> "Origin | None":
        """What a file holds of it; None from versions that kept none."""
        return None if saved is None else cls(tuple(saved[0]), *saved[1:])

    def about(self, part: str) -> "Origin":
        """The same run, of a part of what it was about."""
        return self._replace(part=f"{self.part}, {part}" if self.part else part)


def record_tree(record: type[Record]) -> type[Record]:
    """A decorator: a frozen record as a tree of its arrays, without its origin.

    What goes through `jit`, `tree.map` or a stack of several is no longer one run with one key. And
    records that differ in their key alone are trees of one structure.
    """
    known = [entry for entry in fields(record) if entry.name != "origin"]  # type: ignore[arg-type]
    static = [entry.name for entry in known if entry.metadata.get("static")]
    data = [entry.name for entry in known if entry.name not in static]
    return jax.tree_util.register_dataclass(record, data, static, drop_fields=["origin"])


def about(origin: Origin | None, part: str) -> Origin | None:
    """`origin.about(part)`, where there is one."""
    return None if origin is None else origin.about(part)


def digest(words: Iterable[str | bytes]) -> str:
    """A text of 32 characters; lengths count, so that neighbours do not run together."""
    found = hashlib.sha256()
    for word in words:
        data = word.encode() if isinstance(word, str) else word
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()[:32]


class _Run(Protocol):
    @property
    def dim(self) -> int: ...
    @property
    def origin(self) -> Origin | None: ...
    @property
    def num_tasks(self) -> int | None: ...


def merged_origin(one: _Run, other: Any) -> Origin:
    """The origin of two independent runs of one question, taken together.

    Raises:
        TypeError: if `other` is no record of the same kind.
        ValueError: if they are of different questions, are not independent, or cannot be told so.
    """
    name = type(one).__name__
    if type(other) is not type(one):
        raise TypeError(f"`other` must be a {name} like this one, got {type(other).__name__}")
    mine, theirs = one.origin, other.origin
    if mine is None or theirs is None:
        which = "this one" if mine is None else "`other`"
        raise ValueError(
            f"a {name} is merged if it keeps the key it was made with, but {which} keeps none: it "
            "comes from a file of a version before 0.2.0, from several processes at once, or was "
            "put together from other arrays; compute it again, with a key of its own."
        )
    _require_equal("parameters", f"P = {one.dim:,}", f"P = {other.dim:,}")
    _require_equal("tasks", task_words(one), task_words(other))
    _require_equal("products", mine.dtype, theirs.dtype)
    _require_equal("parts", mine.part or "the whole operator", theirs.part or "the whole operator")
    if mine.operator != theirs.operator:
        raise ValueError(
            "`other` must be of the same operator, but its parameters or data are others: their "
            "fingerprints differ; merge runs at one checkpoint, with the same data in the same "
            "batches, that differ in their key alone."
        )
    if set(mine.keys) & set(theirs.keys):
        raise ValueError(
            "`other` must come from another key, but both records hold a run with the same key: "
            "its probes are the same, and nothing is learned from them twice. Give each machine "
            "a key of its own, such as `jax.random.fold_in(key, machine)`."
        )
    return mine._replace(keys=mine.keys + theirs.keys)


def _require_equal(what: str, mine: str, theirs: str) -> None:
    if mine != theirs:
        raise ValueError(
            f"`other` must be of the same operator, but its {what} differ: {theirs}, where this "
            f"one has {mine}."
        )
