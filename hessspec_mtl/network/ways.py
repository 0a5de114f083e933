"""How rows of features get from nodes and graphs to edges, and sums of them back.

Every one of these maps is linear and the transpose of another one: x_s(j), the features of the
sender of each edge, and the sum over the edges that leave each node; the features of the graph of
each node, and the sum over the nodes of each graph. There are two ways to compute them.

`by_segments` adds each row to where it belongs. On a CPU nothing is faster. On a GPU many threads
then add to the same number, in an order that no two runs share, and the sums end in other digits.

`by_lists` reads, for each node, the rows that a list names (`hessspec_mtl.graphs.Incidence`). A
derivative of it, of any order, is again a reading of rows by the edges' ends or by the lists: no
two threads ever write to one place, so the numbers are those of the run before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from hessspec_mtl.graphs import GraphBatch, Incidence, with_incidence

Way = Callable[[Array], Array]
"""A linear map of rows to rows."""


@dataclass(frozen=True)
class Ways:
    """Rows of nodes or graphs where they are needed, and sums of rows, in one batch.

    Attributes:
        at_sender: rows of nodes -> for each edge that of its sender.
        at_receiver: rows of nodes -> for each edge that of its receiver.
        graph_of_edge: rows of graphs -> for each edge that of its graph.
        graph_of_node: rows of graphs -> for each node that of its graph.
        leaving: rows of edges -> for each node the sum over the edges that leave it.
        entering: rows of edges -> for each node the sum over the edges that enter it.
        over_edges: rows of edges -> for each graph the sum over its edges.
        over_nodes: rows of nodes -> for each graph the sum over its nodes.
    """

    at_sender: Way
    at_receiver: Way
    graph_of_edge: Way
    graph_of_node: Way
    leaving: Way
    entering: Way
    over_edges: Way
    over_nodes: Way


def by_segments(graph: jraph.GraphsTuple) -> Ways:
    """Each row is added to where it belongs."""
    arrays: Any = graph  # jraph's fields may be trees; ours are single arrays
    senders, receivers = arrays.senders, arrays.receivers
    num_nodes, num_graphs = len(arrays.nodes), len(arrays.n_node)
    graphs = jnp.arange(num_graphs)
    of_node = jnp.repeat(graphs, graph.n_node, total_repeat_length=num_nodes)
    of_edge = jnp.repeat(graphs, graph.n_edge, total_repeat_length=len(arrays.edges))

    def in_order(rows: Array, segments: Array) -> Array:
        return jraph.segment_sum(rows, segments, num_graphs, indices_are_sorted=True)

    return Ways(
        at_sender=lambda x: x[senders],
        at_receiver=lambda x: x[receivers],
        graph_of_edge=lambda u: u[of_edge],
        graph_of_node=lambda u: u[of_node],
        leaving=lambda e: jraph.segment_sum(e, senders, num_nodes),
        entering=lambda e: jraph.segment_sum(e, receivers, num_nodes),
        over_edges=lambda e: in_order(e, of_edge),
        over_nodes=lambda x: in_order(x, of_node),
    )


def by_lists(graph: jraph.GraphsTuple, incidence: Incidence) -> Ways:
    """Each sum reads what its list names.

    An edge reaches its graph through its sender: the lists of a graph's nodes are short where those
    of its edges would not be.
    """
    arrays: Any = graph
    senders, receivers = arrays.senders, arrays.receivers

    def at_sender(x: Array) -> Array:
        return named_rows(x, senders, incidence.leaving)

    def leaving(e: Array) -> Array:
        return listed_sums(e, senders, incidence.leaving)

    def graph_of_node(u: Array) -> Array:
        return named_rows(u, incidence.graph_of_node, incidence.nodes)

    def over_nodes(x: Array) -> Array:
        return listed_sums(x, incidence.graph_of_node, incidence.nodes)

    return Ways(
        at_sender=at_sender,
        at_receiver=lambda x: named_rows(x, receivers, incidence.entering),
        graph_of_edge=lambda u: at_sender(graph_of_node(u)),
        graph_of_node=graph_of_node,
        leaving=leaving,
        entering=lambda e: listed_sums(e, receivers, incidence.entering),
        over_edges=lambda e: over_nodes(leaving(e)),
        over_nodes=over_nodes,
    )


def for_device(batches: Sequence[GraphBatch]) -> list[GraphBatch]:
    """Batches of the host on the device, with lists where sums should read them: off a CPU."""
    chosen = list(batches) if jax.default_backend() == "cpu" else with_incidence(batches)
    return jax.device_put(chosen)


def full_precision() -> AbstractContextManager[object]:
    """On accelerators, products of matrices in float32 proper: with TF32 a Hessian is symmetric to
    three digits only. A CPU knows nothing else."""
    on_cpu = jax.default_backend() == "cpu"
    return nullcontext() if on_cpu else jax.default_matmul_precision("highest")


def named_rows(
    x: Float[Array, "n width"], names: Int[Array, " m"], lists: Int[Array, "n depth"]
) -> Float[Array, "m width"]:
    """x[names]; where `lists` are those of `names`, the transpose of `listed_sums`."""
    return _named.bind(x, names, lists)


def listed_sums(
    y: Float[Array, "m width"], names: Int[Array, " m"], lists: Int[Array, "n depth"]
) -> Float[Array, "n width"]:
    """For each list the sum of the rows that it names; m in a list names none.

    Row i of `lists` holds the j with names[j] = i, in order, so this is a segment sum of y. An i
    whose list lacks some of them, as that of a node of padding does, must be one whose rows and
    cotangents are never used.
    """
    return _listed.bind(y, names, lists)


def _named_impl(x: Array, names: Array, lists: Array) -> Array:
    del lists
    return jnp.asarray(x).at[..., names, :].get(mode="promise_in_bounds")


def _listed_impl(y: Array, names: Array, lists: Array) -> Array:
    del names
    return jnp.asarray(y).at[..., lists, :].get(mode="fill", fill_value=0).sum(axis=-2)


def _linear_in_rows(name: str, function: Callable[..., Array], count: int) -> Primitive:
    """A primitive for `function(rows, names, lists)`, whose result has as many rows as argument
    `count` has. Rows may have leading axes, so that a map over rows stays the same primitive."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(
        lambda rows, *ends: ShapedArray(
            (*rows.shape[:-2], ends[count - 1].shape[0], rows.shape[-1]), rows.dtype
        )
    )
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    ad.defjvp(primitive, lambda tangent, _, *ends: primitive.bind(tangent, *ends), None, None)

    def mapped(
        arguments: tuple[Array, Array, Array], dims: tuple[int | None, int | None, int | None]
    ) -> tuple[Array, int]:
        rows, *ends = arguments
        if dims[0] is not None and dims[1] is dims[2] is None:
            return primitive.bind(jnp.moveaxis(rows, dims[0], 0), *ends), 0
        return jax.vmap(function, in_axes=dims)(*arguments), 0

    batching.primitive_batchers[primitive] = mapped
    return primitive


_named = _linear_in_rows("named_rows", _named_impl, 1)
_listed = _linear_in_rows("listed_sums", _listed_impl, 2)


def _transposed(other: Primitive) -> Callable[..., tuple[Any, None, None]]:
    def transpose(cotangent: Any, rows: Any, names: Array, lists: Array) -> tuple[Any, None, None]:
        if type(cotangent) is ad.Zero:
            return ad.Zero(rows.aval), None, None
        return other.bind(cotangent, names, lists), None, None

    return transpose


ad.primitive_transposes[_named] = _transposed(_listed)
ad.primitive_transposes[_listed] = _transposed(_named)
