"""What version 0.1.0 saved of each kind of result: `python write_records.py`, with that version.

Beside the files, `records.json` says what that version read off them.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessspec

HERE = Path(__file__).parent / "records"
P = 40
# Three outliers, a bulk, and zeros; the second task has another sign and scale.
EIGENVALUES = np.concatenate([[50.0, -20.0, 8.0], np.linspace(0.1, 1.0, 29), np.zeros(8)])
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((P, P)))[0]
MATRIX = jnp.asarray((BASIS * EIGENVALUES) @ BASIS.T, jnp.float32)
PARAMS = {"layer": {"kernel": jnp.ones((6, 6)), "bias": jnp.ones(4)}}
SILENT = {"progress": False}


def flat(params):
    return jnp.concatenate([params["layer"]["bias"], params["layer"]["kernel"].ravel()])


def scalar(params):
    return 0.5 * flat(params) @ MATRIX @ flat(params)


def tasks(params):
    return jnp.stack([scalar(params), -2.0 * scalar(params)])


def read_off(record) -> dict:
    """Numbers that a reader asks the record for."""
    kind = type(record).__name__
    if kind == "SpectralDensity":
        asked = {
            "nodes": record.nodes,
            "weights": record.weights,
            "alpha": record.alpha,
            "beta": record.beta,
            "num_valid_steps": record.num_valid_steps,
            "moment 2": record.moment(2),
            "cdf": record.cdf(np.array([-30.0, 0.5, 20.0])),
            "trace": record.trace().value,
            "dim": record.dim,
            "num_matvecs": record.num_matvecs,
        }
    elif kind in ("TraceEstimate", "SpectralTrace"):
        asked = {
            "value": record.value,
            "standard_error": record.standard_error,
            "samples": record.samples,
            "interval": record.confidence_interval(),
            "num_matvecs": record.num_matvecs,
            "method": record.method,
        }
    elif kind == "DiagonalEstimate":
        asked = {
            "kernel": record.value["layer"]["kernel"],
            "error of the bias": record.standard_error["layer"]["bias"],
            "trace": record.trace.value,
            "num_samples": record.num_samples,
            "num_matvecs": record.num_matvecs,
        }
    elif kind == "EigenPairs":
        asked = {
            "values": record.values,
            "residuals": record.residuals,
            "converged": record.converged,
            "bias": record.vectors["layer"]["bias"],
            "num_matvecs": record.num_matvecs,
        }
    else:
        asked = {"value": record.value, "error": record.error, "kind": record.kind}
    return {name: plain(value) for name, value in asked.items()}


def plain(value):
    return value if isinstance(value, str) else np.asarray(value).tolist()


def main() -> None:
    HERE.mkdir(exist_ok=True)
    found = {}

    def keep(name: str, record) -> None:
        record.save(HERE / f"{name}.npz")
        found[name] = {"kind": type(record).__name__, "holds": read_off(record)}

    for name, loss in (("scalar", scalar), ("tasks", tasks)):
        hessian = hessspec.HessianOperator(loss, PARAMS)
        keys = jax.random.split(jax.random.key(0), 4)
        density = hessspec.density(hessian, key=keys[0], num_probes=2, num_steps=10, **SILENT)
        other = hessspec.density(hessian, key=keys[1], num_probes=2, num_steps=10, **SILENT)
        keep(f"density_{name}", density)
        keep(f"spectral_trace_{name}", density.trace())
        keep(f"distance_{name}", hessspec.wasserstein1(density, other))
        for method in ("auto", "xtrace", "hutch++", "hutchinson"):
            trace = hessspec.trace(hessian, key=keys[2], method=method, num_matvecs=12, **SILENT)
            keep(f"trace_{method.replace('+', 'p')}_{name}", trace)
        diagonal = hessspec.diagonal(hessian, key=keys[3], num_matvecs=12, **SILENT)
        keep(f"diagonal_{name}", diagonal)
        keep(f"eigenpairs_{name}", hessspec.eigenpairs(hessian, key=keys[3], k=2, **SILENT))
    (HERE / "records.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
