"""The worker of curvlinops and hessian-eigenthings.

worker_torch problem.npz curvlinops|eigenthings [cpu|cuda]
"""

import importlib.metadata
import os
import sys

import numpy as np
import torch
from torch import nn

from benchmarks.peers.worker import Answer, Work, layers_of, save, serve, vectors


class Problem:
    """The network as a `nn.Sequential`, whose flat vectors hold each kernel as (out, in)."""

    def __init__(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.layers = layers_of(arrays)
        modules: list[nn.Module] = []
        for bias, kernel in self.layers:
            linear = nn.Linear(*kernel.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(kernel.T.copy()))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, nn.Tanh()]
        self.device = device
        self.model = nn.Sequential(*modules[:-1]).to(device)
        data = (torch.from_numpy(arrays[name]) for name in ("inputs", "targets"))
        self.batch = tuple(array.to(device) for array in data)
        self.dim = sum(p.numel() for p in self.model.parameters())
        self._blocks: dict[int, torch.Tensor] = {}

    def block(self, count: int) -> torch.Tensor:
        """The common vectors as rows in the order of the model's parameters."""
        if count not in self._blocks:
            rows = [self._reordered(v) for v in vectors(self.dim, count)]
            self._blocks[count] = torch.from_numpy(np.stack(rows)).to(self.device)
        return self._blocks[count]

    def _reordered(self, v: np.ndarray) -> np.ndarray:
        parts, at = [], 0
        for bias, kernel in self.layers:
            b, k = v[at : at + bias.size], v[at + bias.size : at + bias.size + kernel.size]
            parts += [k.reshape(kernel.shape).T.ravel(), b]
            at += bias.size + kernel.size
        return np.concatenate(parts)

    def restored(self, rows: torch.Tensor) -> np.ndarray:
        """Rows back in the common order."""
        found = []
        for v in rows.detach().cpu().numpy():
            parts, at = [], 0
            for bias, kernel in self.layers:
                k = v[at : at + kernel.size].reshape(kernel.shape[::-1]).T.ravel()
                parts += [v[at + kernel.size : at + kernel.size + bias.size], k]
                at += bias.size + kernel.size
            found.append(np.concatenate(parts))
        return np.stack(found)

    def answer(self, rows: torch.Tensor, out: str | None) -> Answer:
        """When the device has the products: they, kept where they are asked for."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return save(out, self.restored(rows)) if out else {}


def curvlinops(arrays: dict[str, np.ndarray], device: str) -> dict[str, Work]:
    import curvlinops as library

    problem = Problem(arrays, device)
    hessian = library.HessianLinearOperator(
        problem.model, nn.MSELoss(), list(problem.model.parameters()), [problem.batch]
    )
    columns: dict[int, torch.Tensor] = {}

    def products(count: int, out: str | None = None) -> Answer:
        if count not in columns:
            columns[count] = problem.block(count).T.contiguous()
        found = hessian @ columns[count]
        return problem.answer(found.T, out)

    def slq(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        torch.manual_seed(seed)
        low, high = boundaries
        grid, density = library.lanczos_approximate_spectrum(
            hessian, steps, num_repeats=probes, boundaries=(low, high), num_points=8192
        )
        mass = torch.trapezoid(density, grid)
        return {"trace": float(torch.trapezoid(grid * density, grid) / mass) * problem.dim}

    def hutchinson(samples: int, seed: int) -> Answer:
        torch.manual_seed(seed)
        return {"trace": float(library.hutchinson_trace(hessian, samples))}

    def trace(method: str, products: int, seed: int) -> Answer:
        torch.manual_seed(seed)
        ways = {
            "hutchinson": library.hutchinson_trace,
            "hutch++": library.hutchpp_trace,
            "xtrace": library.xtrace,
        }
        return {"trace": float(ways[method](hessian, products))}

    def rule(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        torch.manual_seed(seed)
        low, high = boundaries
        grid, density = library.lanczos_approximate_spectrum(
            hessian, steps, num_repeats=probes, boundaries=(low, high), num_points=8192
        )
        return {"rules": {"smoothed density": [grid.tolist(), density.tolist()]}}

    known = {"products": products, "slq": slq, "hutchinson": hutchinson}
    return {**known, "trace": trace, "rule": rule}


def eigenthings(arrays: dict[str, np.ndarray], device: str) -> dict[str, Work]:
    import hessian_eigenthings as library

    problem = Problem(arrays, device)
    hessian = library.HessianOperator(
        problem.model, [problem.batch], library.supervised_loss(nn.MSELoss())
    )

    def products(count: int, out: str | None = None) -> Answer:
        found = [hessian.matvec(v) for v in problem.block(count)]
        return problem.answer(torch.stack(found), out)

    def slq(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        found = library.spectral_density(hessian, num_runs=probes, lanczos_steps=steps, seed=seed)
        mean = (found.raw_eigenvalues * found.raw_weights).sum(dim=1).mean()
        return {
            "trace": float(mean) * problem.dim,
            "largest": float(found.raw_eigenvalues.max()),
        }

    def hutchinson(samples: int, seed: int) -> Answer:
        return {"trace": library.hutchinson(hessian, num_samples=samples, seed=seed).estimate}

    def trace(method: str, products: int, seed: int) -> Answer:
        found = library.trace(hessian, num_matvecs=products, method=method, seed=seed)
        return {"trace": found.estimate, "stated": {"error": found.stderr}}

    def rule(probes: int, steps: int, seed: int, boundaries: list[float]) -> Answer:
        found = library.spectral_density(hessian, num_runs=probes, lanczos_steps=steps, seed=seed)
        nodes, weights = found.raw_eigenvalues, found.raw_weights
        return {"rules": {"raw rule": [nodes.tolist(), weights.tolist()]}}

    known = {"products": products, "slq": slq, "hutchinson": hutchinson}
    return {**known, "trace": trace, "rule": rule}


if __name__ == "__main__":
    name, device = sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    package = {"curvlinops": "curvlinops-for-pytorch", "eigenthings": "hessian-eigenthings"}[name]
    found = {p: importlib.metadata.version(p) for p in (package, "torch")}
    make = {"curvlinops": curvlinops, "eigenthings": eigenthings}[name]
    serve(lambda arrays: make(arrays, device), found)
