"""An epoch of training in two ways: batches from the host, or one program for all of its steps.

Both take the same batches in the same order through the same step, and differ in how a batch comes
to the device and how much padding it has, so their numbers agree to rounding. On a CPU the host
pads each batch a little and counts steps for the progress bar. Elsewhere a step is shorter than the
host's part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from hessspec._base.progress import ProgressBar
from hessspec_mtl.graphs import (
    GraphBatch,
    MultiGraph,
    Padding,
    balanced_groups,
    padding_for,
    target_weights,
)
from hessspec_mtl.network.model import Params
from hessspec_mtl.training.along import Look
from hessspec_mtl.training.batches import (
    epoch_batches,
    largest_batches,
    padded_batch,
    padding_ladder,
)
from hessspec_mtl.training.evaluation import evaluation_batches
from hessspec_mtl.training.programs import Programs
from hessspec_mtl.training.resident import ResidentGraphs

# Where launching a kernel costs more than what it does to 64 graphs.
RESIDENT_EVALUATION_BATCH = 1024
# So many epochs decide the shape of resident batches, whatever the length of the run.
HORIZON = 1024

Examples = tuple[Sequence[MultiGraph], Float[np.ndarray, "examples tasks"]]
Errors = Float[np.ndarray, "metrics tasks"]


def ignored(step: int, params: Params) -> None:
    """Looks at nothing."""


class Epochs(Protocol):
    """What a run asks for, with `train` and `test` as its splits."""

    def epoch(
        self,
        epoch: int,
        params: Params,
        opt_state: Any,
        bar: ProgressBar,
        stops: Sequence[int] = (),
        look: Look = ignored,
    ) -> tuple[Params, Any, Errors]:
        """One pass: the state after it from that before it, which is used up, and the errors.

        Where tasks are weighted, a third row of these has the means of their weights.
        After each of the steps `stops`, counted from 1 in the epoch and in order, `look` is called.
        """
        ...

    def errors(self, params: Params, split: str) -> Errors:
        """Mean squared and absolute errors of "train" or "test", as they are."""
        ...


class HostEpochs:
    """Each batch is put together on the host, in the smallest of a few shapes."""

    def __init__(
        self,
        programs: Programs,
        splits: dict[str, Examples],
        batch_size: int,
        key: PRNGKeyArray,
        learning_rate: float,
        *,
        measured: GraphBatch | None = None,
    ) -> None:
        self._programs, self._splits, self._key = programs, splits, key
        self._batch_size, self._measured = batch_size, measured
        self._rate = jnp.float32(learning_rate)
        graphs, targets = splits["train"]
        self._weights = target_weights(targets)
        self._paddings = padding_ladder(graphs, batch_size)
        self._batches: dict[str, list[GraphBatch]] = {}

    def epoch(
        self,
        epoch: int,
        params: Params,
        opt_state: Any,
        bar: ProgressBar,
        stops: Sequence[int] = (),
        look: Look = ignored,
    ) -> tuple[Params, Any, Errors]:
        (graphs, targets), sums = self._splits["train"], []
        for members in epoch_batches(self._key, epoch, len(graphs), self._batch_size):
            batch = padded_batch(
                [graphs[i] for i in members], targets[members], self._paddings, self._weights
            )
            batch = jax.device_put(batch)
            params, opt_state, batch_sums = self._programs.step(
                params, opt_state, batch, self._measured, self._rate
            )
            sums.append(batch_sums)
            bar.update(1)
            if len(sums) in stops:
                look(len(sums), params)
        return params, opt_state, _means(sums, len(graphs))

    def errors(self, params: Params, split: str) -> Errors:
        if split not in self._batches:
            self._batches[split] = jax.device_put(evaluation_batches(self._splits, split))
        sums = [self._programs.evaluation(params, batch)[1] for batch in self._batches[split]]
        return _means(sums, len(self._splits[split][0]))


class ResidentEpochs:
    """All graphs lie on the device, and an epoch is one program."""

    def __init__(
        self,
        programs: Programs,
        splits: dict[str, Examples],
        batch_size: int,
        key: PRNGKeyArray,
        learning_rate: float,
        *,
        incidence: bool = True,
        measured: GraphBatch | None = None,
    ) -> None:
        self._programs, self._splits, self._key = programs, splits, key
        self._batch_size, self._measured = batch_size, measured
        self._rate = jnp.float32(learning_rate)
        self._resident = {
            name: ResidentGraphs.of(*split, target_weights(split[1]), incidence=incidence)
            for name, split in splits.items()
        }
        self._sizes = jnp.array([(g.num_nodes, g.num_edges) for g in splits["train"][0]], jnp.int32)
        self._usual = self._holding(self._largest(np.arange(1, HORIZON + 1, dtype=np.int32)))
        self._groups: dict[str, tuple[Array, Padding]] = {}

    def epoch(
        self,
        epoch: int,
        params: Params,
        opt_state: Any,
        bar: ProgressBar,
        stops: Sequence[int] = (),
        look: Look = ignored,
    ) -> tuple[Params, Any, Errors]:
        arguments, length = self.arguments(epoch), -(-len(self._sizes) // self._batch_size)
        if not stops:
            params, opt_state, sums = self._programs.epoch(params, opt_state, *arguments)
            errors = _means(sums, len(self._sizes))
            bar.update(length)
            return params, opt_state, errors
        parts = []
        for bounds in pairwise(sorted({0, *stops, length})):
            on_device = jax.device_put([np.int32(bound) for bound in bounds])
            stretch = self._programs.stretch
            params, opt_state, sums = stretch(params, opt_state, *arguments, *on_device)
            parts.append(jax.device_get(sums)[slice(*bounds)])
            bar.update(len(parts[-1]))
            if bounds[1] in stops:
                look(bounds[1], params)
        return params, opt_state, _means(np.concatenate(parts), len(self._sizes))

    def arguments(self, epoch: int) -> tuple[Any, ...]:
        """What `Programs.epoch` takes beside a state."""
        number = jax.device_put(np.int32(epoch))
        graphs, padding = self._resident["train"], self.padding(epoch)
        return graphs, self._key, number, padding, self._measured, self._rate

    def errors(self, params: Params, split: str) -> Errors:
        graphs = self._splits[split][0]
        if split not in self._groups:
            self._groups[split] = _groups(graphs)
        sums = self._programs.all_sums(params, self._resident[split], *self._groups[split])
        return _means(sums, len(graphs))

    def padding(self, epoch: int) -> Padding:
        """The shape of all batches of `epoch`, a function of the data, the key and `epoch`.

        The sum of 128 sizes hardly varies: one shape for the first `HORIZON` epochs is 7 % larger
        than the mean for QM8. An epoch beyond them that does not fit has the largest there can be.
        """
        if epoch <= HORIZON or self._usual.holds(*self._largest(np.array([epoch], np.int32)), 0):
            return self._usual
        largest = padding_for(self._splits["train"][0], self._batch_size)
        return replace(largest, n_graph=self._usual.n_graph)

    def _largest(self, epochs: np.ndarray) -> tuple[int, int]:
        most = largest_batches(self._key, jax.device_put(epochs), self._sizes, self._batch_size)
        nodes, edges = jax.device_get(most).max(axis=0).tolist()
        return nodes, edges

    def _holding(self, most: tuple[int, int]) -> Padding:
        return Padding.holding(*most, self._batch_size)


def _groups(graphs: Sequence[MultiGraph]) -> tuple[Array, Padding]:
    """All of `graphs` in batches of nearly equal size: their members, and what holds them."""
    groups = balanced_groups(graphs, RESIDENT_EVALUATION_BATCH)
    most = max(map(len, groups))
    filled = [np.pad(g, (0, most - len(g)), constant_values=len(graphs)) for g in groups]
    padding = Padding.holding(
        max(sum(graphs[i].num_nodes for i in group) for group in groups),
        max(sum(graphs[i].num_edges for i in group) for group in groups),
        most,
    )
    return jnp.asarray(np.stack(filled), jnp.int32), padding


def _means(sums: Sequence[Array] | Array | np.ndarray, count: int) -> Errors:
    """Sums over batches, added in float64, as means over the examples that have the target."""
    held = np.asarray(jax.device_get(sums), np.float64)
    return np.sum(held, axis=0) / count
