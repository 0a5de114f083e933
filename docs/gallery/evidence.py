"""One run, all priors: Laplace's evidence from the log determinant of H + α."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

N, P, NOISE = 400, 300, 0.5
keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (N, P)) * jnp.linspace(0.05, 1.0, P)
w_true = jax.random.normal(keys[1], (P,)) * 0.3  # a prior of precision 1 / 0.3² = 11
y = x @ w_true + NOISE * jax.random.normal(keys[2], (N,))


def energy(w, batch):
    """-log likelihood: Gaussian noise of known size."""
    return 0.5 * ((batch[0] @ w - batch[1]) ** 2).sum() / NOISE**2


spectrum = hessspec.density(energy, jnp.zeros(P), jax.random.key(1), data=(x, y), num_probes=8)
priors = np.geomspace(1, 100, 41)
gram, slope = np.asarray(x.T @ x / NOISE**2, float), np.asarray(x.T @ y / NOISE**2, float)
exact = np.linalg.eigvalsh(gram)


def evidence(alpha, logdet):
    w = np.linalg.solve(gram + alpha * np.eye(P), slope)
    at_best = float(energy(jnp.asarray(w, x.dtype), (x, y))) + 0.5 * alpha * w @ w
    return 0.5 * P * np.log(alpha) - at_best - 0.5 * logdet


def logdet(alpha):
    """log det(H + alpha) from each random start; their mean is the estimate."""
    return P * (spectrum.weights * np.log(np.maximum(spectrum.nodes, 0.0) + alpha)).sum(axis=-1)


each = np.array([logdet(a) for a in priors])
error = each.std(axis=1, ddof=1) / each.shape[1] ** 0.5
ours = [evidence(a, d) for a, d in zip(priors, each.mean(axis=1), strict=True)]
dense = [evidence(a, np.log(exact + a).sum()) for a in priors]
figure, ax = plt.subplots()
height = np.array(ours) - max(dense)
ax.fill_between(priors, height - error, height + error, alpha=0.25)  # twice half of the error
ax.semilogx(priors, height, label=f"{spectrum.num_matvecs} products, every α")
ax.semilogx(priors, np.array(dense) - max(dense), "k:", label="dense")
ax.axvline(1 / 0.09, color="C1", ls="--", label="the prior that made the data")
ax.set(xlabel="precision α of the prior", ylabel="log evidence, less its maximum", ylim=(-60, 3))
ax.legend()
best = [float(priors[np.argmax(found)]) for found in (ours, dense)]
print(f"best α: {best[0]:.1f}, dense {best[1]:.1f}, true {1 / 0.09:.1f}")
middle = int(np.argmax(ours))
print(
    f"there log det(H + α) = {each[middle].mean():.1f} ± {error[middle]:.1f}, "
    f"dense {np.log(exact + priors[middle]).sum():.1f}"
)
print(f"largest difference in log evidence {np.abs(np.subtract(ours, dense)).max():.2f}")
