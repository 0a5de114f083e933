"""Whether the core is right on an accelerator, and what TF32 does to it.

python -m benchmarks.gpu.precision --out FOLDER

Answers are compared with dense eigendecompositions in float64 on the host. Nothing is timed, so it
may run beside another step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import hessspec
from benchmarks.claims import relative_difference
from benchmarks.gpu.first_look import first_look
from benchmarks.gpu.problems import in_full, in_precision
from benchmarks.gpu.reference import computed, vectors
from benchmarks.gpu.step import Figures, Measurement, command
from benchmarks.problems import TanhNetwork
from hessspec import HessianOperator

SMALL, WIDE = TanhNetwork((8, 16, 16, 3), 256), TanhNetwork((64, 256, 256, 4), 4096)
TINY_WIDE = TanhNetwork((8, 32, 32, 4), 128)
DIM, STEPS = 200, 40
SURE = 0.9999  # of the intervals that must hold the truth


def measurements(tiny: bool, out: Path) -> Sequence[Measurement]:
    """All of them; whether it works at all comes first."""
    in_full()
    wide = TINY_WIDE if tiny else WIDE
    truth = partial(computed, SMALL, wide, out)
    names = list(spectra())[: 1 if tiny else None]
    return [
        Measurement("first look", 60, first_look),
        Measurement("products", 15, partial(products, truth)),
        Measurement("the same twice", 30, repeats),
        Measurement("TF32: products", 20, partial(products_in_tf32, wide, truth)),
        Measurement("TF32: Lanczos and trace", 20, partial(lanczos_in_tf32, wide)),
        Measurement("TF32: what is said", 40, partial(verbs_in_tf32, wide)),
        Measurement("the network's spectrum", 20, lambda: network_answers(truth()["dense"])),
        *(Measurement(f"spectrum: {name}", 15, partial(prescribed, name)) for name in names),
        Measurement("scales", 20, scales),
    ]


def products(truth: Callable[[], Mapping[str, np.ndarray]]) -> Figures:
    """The largest relative error of a product: one after the other, abreast, rematerialised."""
    dense = truth()["dense"]
    ways: dict[str, dict[str, Any]] = {
        "one by one": {"abreast": 1},
        "4 abreast": {"abreast": 4},
        "16 abreast": {"abreast": 16},
        "rematerialised": {"rematerialize": True, "abreast": 16},
    }
    found = {
        name: relative_difference(SMALL.operator(**way).dense(), dense)
        for name, way in ways.items()
    }
    return {"P": SMALL.dim, "plan": str(SMALL.operator().plan), **found}


def spectra() -> dict[str, Float[np.ndarray, " n"]]:
    """Eigenvalues that have been hard for some code."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=DIM // 2)
    return {
        "outliers": np.concatenate([[100.0, 50.0, -30.0], 0.01 * rng.normal(size=DIM - 3)]),
        "two copies": np.concatenate([half, half]),
        "3 I": np.full(DIM, 3.0),
        "decaying": 0.8 ** np.arange(DIM),
        "half of it 0": np.concatenate([half, np.zeros(DIM - half.size)]),
    }


def quadratic(x: Float[Array, " n"], matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """x'Ax / 2."""
    return 0.5 * jnp.vdot(x, matrix @ x)


def prescribed(name: str) -> Figures:
    """What the verbs find of a matrix with these eigenvalues in a random basis."""
    matrix = _matrix(spectra()[name])
    operator = HessianOperator(quadratic, jnp.zeros(DIM), data=jnp.asarray(matrix))
    return answers(operator, matrix.astype(np.float64))


def _matrix(eigenvalues: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    n = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))
    matrix = ((basis * eigenvalues) @ basis.T).astype(np.float32)
    return (matrix + matrix.T) / 2


def network_answers(dense: Float[np.ndarray, "n n"]) -> Figures:
    """The same of a network's Hessian, where the matrix is known in float64."""
    return answers(SMALL.operator(), dense)


def answers(operator: HessianOperator, dense: Float[np.ndarray, "n n"]) -> Figures:
    """Density, traces, diagonal and eigenpairs against the matrix, in units of its norm."""
    options: dict[str, Any] = {"key": jax.random.key(0), "progress": False}
    eigenvalues = np.linalg.eigvalsh((dense + dense.T) / 2)
    norm = float(np.abs(eigenvalues).max())
    spectrum = hessspec.density(operator, num_steps=STEPS, **options)
    ends = spectrum.extremes()
    found: dict[str, Any] = {
        "density, W1": _w1(_measure(spectrum.nodes, spectrum.weights), _uniform(eigenvalues))
        / norm,
        "largest": abs(float(ends.largest) - eigenvalues[-1]) / norm,
        "smallest": abs(float(ends.smallest) - eigenvalues[0]) / norm,
    }
    for method in ("auto", "xtrace", "hutch++", "hutchinson"):
        trace = hessspec.trace(operator, method=method, num_matvecs=64, **options)
        found[f"trace, {method}"] = _judged(trace, float(np.trace(dense)), norm)
    pairs = hessspec.eigenpairs(operator, k=4, **options)
    wanted = np.sort(np.abs(eigenvalues))[::-1][:4]
    gaps = np.abs(np.sort(np.abs(np.asarray(pairs.values)))[::-1] - wanted)
    found["eigenpairs"] = float(gaps.max()) / norm
    entries = hessspec.diagonal(operator, num_matvecs=64, **options)
    value, error = (
        np.asarray(operator.space.flatten(tree), np.float64)
        for tree in (entries.value, entries.standard_error)
    )
    off = np.abs(value - np.diagonal(dense))
    found["diagonal, rms in stated errors"] = float(
        np.sqrt(np.mean((off / np.maximum(error, 1e-6 * norm)) ** 2))
    )
    return found


def _judged(trace: hessspec.TraceEstimate, truth: float, norm: float) -> dict[str, Any]:
    low, high = (float(end) for end in trace.confidence_interval(SURE))
    slack = 1e-5 * norm  # rounding of a trace that is exact otherwise
    return {
        "off": float(trace.value) - truth,
        "stated": float(trace.standard_error),
        "interval holds": bool(low - slack <= truth <= high + slack),
    }


def scales() -> Figures:
    """c H against H: Lanczos coefficients, trace and eigenvalues, relative to those of H."""
    base = _matrix(spectra()["outliers"])
    options: dict[str, Any] = {"key": jax.random.key(0), "progress": False}

    def read(scale: float) -> dict[str, np.ndarray]:
        matrix = jnp.asarray(base * np.float32(scale))
        operator = HessianOperator(quadratic, jnp.zeros(DIM), data=matrix)
        return {
            "density": np.asarray(hessspec.density(operator, num_steps=30, **options).alpha),
            "trace": np.asarray(hessspec.trace(operator, **options).value),
            "eigenpairs": np.asarray(hessspec.eigenpairs(operator, k=3, **options).values),
        }

    one = read(1.0)
    found = {}
    for scale in (2.0**-40, 2.0**40, 1e-12, 1e12):
        for name, value in read(scale).items():
            gap = np.abs(value / scale - one[name]).max() / np.abs(one[name]).max()
            found[f"{name} at {scale:.3g}"] = float(gap)
    return found


def repeats() -> Figures:
    """Whether the same key gives the same digits again; else how far apart they are, relatively."""
    found: dict[str, Any] = {}
    makers = {"network": SMALL.operator, "scattered sums": _scattered}
    for name, make in makers.items():
        for abreast in (1, 16):
            rows = make(abreast=abreast).rows
            block = jnp.asarray(vectors(make().dim, 16))
            found[f"{name}, products {abreast} abreast"] = _apart(partial(rows, block))
        options: dict[str, Any] = {"key": jax.random.key(3), "progress": False}
        density = partial(hessspec.density, make(), num_steps=20, **options)
        trace = partial(hessspec.trace, make(), **options)
        found[f"{name}, density"] = _apart(lambda density=density: density().alpha)
        found[f"{name}, trace"] = _apart(lambda trace=trace: trace().samples)
    return found


def _apart(read: Callable[[], Any]) -> float:
    """Largest relative difference of five readings; 0 if they agree in every bit."""
    readings = [np.asarray(read(), np.float64) for _ in range(5)]
    scale = max(float(np.abs(readings[0]).max()), 1e-30)
    return max(float(np.abs(other - readings[0]).max()) / scale for other in readings[1:])


def _scattered(**choices: Any) -> HessianOperator:
    """Messages along random edges, summed at their receivers: many sums into the same places."""
    rng = np.random.default_rng(5)
    nodes, edges = 200, 4000
    batch = (
        jnp.asarray(rng.normal(size=(nodes, 8)), jnp.float32),
        jnp.asarray(rng.integers(0, nodes, edges)),
        jnp.asarray(rng.integers(0, nodes, edges)),
    )
    params = {
        "message": jnp.asarray(0.3 * rng.normal(size=(8, 16)), jnp.float32),
        "node": jnp.asarray(0.3 * rng.normal(size=(16, 8)), jnp.float32),
    }
    return HessianOperator(_message_loss, params, data=batch, **choices)


def _message_loss(params: Mapping[str, Array], batch: tuple[Array, Array, Array]) -> Array:
    x, senders, receivers = batch
    for _ in range(2):
        messages = jnp.tanh(x[senders] @ params["message"])
        gathered = jax.ops.segment_sum(messages, receivers, num_segments=x.shape[0])
        x = jnp.tanh(gathered @ params["node"])
    return jnp.mean(x**2)


def products_in_tf32(
    network: TanhNetwork, truth: Callable[[], Mapping[str, np.ndarray]]
) -> Figures:
    """Error and asymmetry of products in each precision, the latter in units of rounding of |H|."""
    exact = truth()["products"]
    block = jnp.asarray(vectors(network.dim))
    with in_precision("highest"):
        ends = _ends(_run(network))
    norm = max(map(abs, ends))
    found: dict[str, Any] = {"P": network.dim, "|H|": norm}
    for name in _PRECISIONS:
        with in_precision(name):
            rows = np.asarray(network.operator().rows(block), np.float64)
        u, v = np.asarray(block, np.float64)
        gap = abs(u @ rows[1] - v @ rows[0]) / (norm * np.linalg.norm(u) * np.linalg.norm(v))
        found[_named(name)] = {
            "error of H v": relative_difference(rows, exact),
            "error of H v, of |H| |v|": float(
                np.linalg.norm(rows - exact, axis=1).max() / norm / np.linalg.norm(u)
            ),
            "asymmetry, of |H| |u| |v|": float(gap),
            "asymmetry, units of rounding": float(gap / np.finfo(np.float32).eps),
        }
    return found


_PRECISIONS = ("highest", "tensorfloat32", None)
_COMPARED = _PRECISIONS[:2]  # products tell which of them JAX's own is


def _named(precision: str | None) -> str:
    return precision or "JAX's own"


def lanczos_in_tf32(network: TanhNetwork) -> Figures:
    """Bases, ends, spectra and forms in each precision, against those in float32 proper."""
    found: dict[str, Any] = {}
    signs = hessspec.rademacher(jax.random.key(2), jnp.arange(64), network.dim, jnp.float32)
    runs, forms = {}, {}
    for name in _COMPARED:
        with in_precision(name):
            runs[name] = _run(network)
            forms[name] = np.asarray(network.operator().forms(signs), np.float64)
    full, norm = runs["highest"], max(map(abs, _ends(runs["highest"])))
    error = forms["highest"].std(ddof=1) / len(signs) ** 0.5
    for name, run in runs.items():
        basis = np.asarray(run.basis, np.float64)
        ends, rest = _ends(run), _ends(full)
        found[_named(name)] = {
            "|QQ' - 1|": float(np.abs(basis @ basis.T - np.eye(len(basis))).max()),
            "asymmetry seen, units of rounding": float(run.asymmetry / np.finfo(np.float32).eps),
            "ends, of |H|": max(abs(a - b) for a, b in zip(ends, rest, strict=True)) / norm,
            "W1, of |H|": _w1(_rule(run), _rule(full)) / norm,
            "shift of the trace, in stated errors": float(
                (forms[name] - forms["highest"]).mean() / error
            ),
        }
    return found


def _run(network: TanhNetwork) -> hessspec.KrylovDecomposition:
    operator = network.operator()
    start = jnp.asarray(vectors(network.dim, 1)[0])
    return hessspec.lanczos(lambda v: operator.rows(v[None])[0], start, min(STEPS, network.dim))


def _rule(run: hessspec.KrylovDecomposition) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss' rule of a run."""
    m = int(run.num_valid_steps)
    alpha, beta = (np.asarray(part, np.float64) for part in (run.alpha[:m], run.beta[: m - 1]))
    nodes, vectors_of_t = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    return nodes, vectors_of_t[0] ** 2


def _ends(run: hessspec.KrylovDecomposition) -> tuple[float, float]:
    nodes, _ = _rule(run)
    return float(nodes[0]), float(nodes[-1])


def verbs_in_tf32(network: TanhNetwork) -> Figures:
    """What each verb says where matrix products are not in float32 proper: an answer, or an error.

    Answers are compared with those in float32 proper, in units of |H| or of the stated error.
    """
    options: dict[str, Any] = {"key": jax.random.key(6), "progress": False}
    verbs: dict[str, Callable[[HessianOperator], Any]] = {
        "density": lambda h: hessspec.density(h, num_steps=STEPS, **options).extremes().largest,
        "trace": lambda h: hessspec.trace(h, **options).value,
        "eigenpairs": lambda h: hessspec.eigenpairs(h, k=2, **options).values[0],
    }
    found: dict[str, Any] = {}
    for name in _COMPARED:
        with in_precision(name):
            for verb, call in verbs.items():
                try:
                    said = f"{float(call(network.operator())):.6g}"
                except ValueError as error:
                    said = " ".join(f"{type(error).__name__}: {error}".split())
                found[f"{verb}, {_named(name)}"] = said
    return found


def _uniform(values: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    return values, np.full(len(values), 1.0 / len(values))


def _measure(nodes: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a density as one measure of mass 1."""
    weights = np.asarray(weights, np.float64).ravel()
    return np.asarray(nodes, np.float64).ravel(), weights / weights.sum()


def _w1(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """∫ |F_a - F_b| of two discrete measures."""
    places = np.concatenate([a[0], b[0]])
    jumps = np.concatenate([a[1], -b[1]])
    order = np.argsort(places)
    gaps = np.diff(places[order])
    return float(np.sum(np.abs(np.cumsum(jumps[order])[:-1]) * gaps))


if __name__ == "__main__":
    sys.exit(command("precision", measurements, seconds=150))
