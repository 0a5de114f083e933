"""What is measured on an accelerator, each problem with its product by hand to check against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.clock import seconds_each
from benchmarks.gpu.decoder import Decoder
from benchmarks.problems import (
    FORWARD_FLOPS,
    TanhNetwork,
    graph_problem,
    mean_squared_error,
)
from hessspec import HessianOperator
from hessspec._base.space import VectorSpace

ROOT = Path(__file__).parents[2]
# A kit holds its encoded data at its root; a checkout has the kit within.
_FOLDERS = ("", "gpu-kit/")
_ENCODED = tuple(f"{folder}data/{name}.npz" for name in ("qm8", "molecules") for folder in _FOLDERS)
_MOLECULES = 2400  # encoded; the network and its Hessian take a random few of them
_APPLICATION = 22.8 / 38.4  # matrix products of a linear application, of 8 forward passes


@dataclass(frozen=True)
class Problem:
    """A scalar Hessian in the three ways that are compared.

    Attributes:
        make: `make(**choices)` is the operator.
        gradient: the gradient of the loss, jitted, without arguments.
        plain: one product of a flat vector, by a jitted jvp of the gradient.
        product_flops: multiplications and additions of a product that cannot be avoided.
        sizes: what was run.
        graph: the problem with several tasks of which this Hessian is the first one's.
    """

    make: Callable[..., HessianOperator]
    gradient: Callable[[], Any]
    plain: Callable[[jax.Array], jax.Array]
    space: VectorSpace
    product_flops: float
    sizes: Mapping[str, Any]
    graph: Any = None

    @property
    def dim(self) -> int:
        return self.space.dim

    def operator(self, *, all_tasks: bool = False, **choices: Any) -> Any:
        """The operator as `choices` have it: of the first task, or of all."""
        found = self.make(**choices)
        return found if all_tasks or found.num_tasks is None else found.task(0)


def of_loss(
    loss: Callable[..., Any], params: Any, batch: Any, flops: float, sizes: Mapping[str, Any]
) -> Problem:
    """A scalar loss of all its parameters."""
    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(lambda p, b, v: jax.jvp(lambda q: jax.grad(loss)(q, b), (p,), (v,))[1])
    space = VectorSpace.of(params)
    return Problem(
        make=partial(HessianOperator, loss, params, data=batch),
        gradient=partial(gradient, params, batch),
        plain=lambda v: space.flatten(product(params, batch, space.unflatten(v))),
        space=space,
        product_flops=flops,
        sizes=sizes,
    )


def tanh_network(tiny: bool) -> TanhNetwork:
    """That of the other benchmarks, with examples enough to fill a card."""
    return TanhNetwork((8, 16, 16, 4), 64) if tiny else TanhNetwork(num_examples=8192)


def tanh(tiny: bool) -> Problem:
    """The tanh network with all of them as one batch."""
    network = tanh_network(tiny)
    sizes = {"N": network.num_examples, "layers": list(network.sizes)}
    params, batch = network.params_and_batch()
    return of_loss(mean_squared_error, params, batch, network.product_flops, sizes)


def decoder(tiny: bool) -> Problem:
    """The decoder, on a thousand tokens."""
    model = Decoder(64, 8, 16, 2, 2, 2) if tiny else Decoder()
    sizes = {"layers": model.layers, "tokens": model.sequences * model.places}
    return of_loss(model.loss, model.params(), model.batch(), model.product_flops, sizes)


def graphs(tiny: bool) -> Problem:
    """The paper's network on 256 molecules."""
    # Here, since it imports the other benchmarks.
    from benchmarks.bench_network_hvp import PlainProduct

    problem = graph_problem(4 if tiny else 256, tiny=tiny, molecules=_encoded(tiny))
    plain = PlainProduct(problem)
    first = {"molecules": problem.num_graphs, "data": problem.source, "network": problem.state}
    space = problem.operator().space
    return Problem(
        make=problem.operator,
        gradient=partial(plain.gradient, 0),
        plain=lambda v: plain(v, 0),
        space=space,
        product_flops=8 * FORWARD_FLOPS * problem.num_graphs * _APPLICATION,
        sizes=first,
        graph=problem,
    )


def _encoded(tiny: bool) -> tuple[Any, str] | None:
    """Molecules from an encoded file, which asks for no chemistry package; None without one."""
    found = [ROOT / name for name in _ENCODED if (ROOT / name).exists()]
    if not found:
        return None
    from hessspec_mtl.datasets.encoded import read_encoded

    whole = read_encoded(found[0])
    dataset = whole.subset(min(60 if tiny else _MOLECULES, len(whole)), 0)
    return dataset.encode(dataset.split(0)), found[0].name


def peak(tiny: bool) -> dict[str, float]:
    """Tflop/s of a matrix product in float32 proper and in TF32."""
    size = 128 if tiny else 4096
    left, right = jax.random.normal(jax.random.key(0), (2, size, size))
    found = {}
    for name in ("highest", "tensorfloat32"):
        product = jax.jit(partial(jnp.matmul, precision=name))
        seconds = seconds_each(partial(product, left, right), most=0.5)["median_s"]
        found[f"{name}, Tflop/s"] = 2.0 * size**3 / seconds / 1e12
    return found


def in_full() -> None:
    """Matrix products in float32 proper from here on, on all threads."""
    jax.config.update("jax_default_matmul_precision", "highest")


@contextmanager
def in_precision(name: str | None) -> Iterator[None]:
    """Matrix products in this precision within, on all threads; None: what JAX takes by itself."""
    before = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_default_matmul_precision", name)
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)
