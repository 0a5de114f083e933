"""A bulk with a closed form: least squares on random features, and Marchenko and Pastur's law."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import hessspec

EXAMPLES, FEATURES = 3000, 1000
x = jax.random.normal(jax.random.key(0), (EXAMPLES, FEATURES))


def loss_fn(w, x):
    return 0.5 * jnp.mean((x @ w - 1.0) ** 2)  # H = x'x / n


spectrum = hessspec.density(loss_fn, jnp.zeros(FEATURES), jax.random.key(1), data=x)
ratio = FEATURES / EXAMPLES
low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
at = np.linspace(low, high, 400)
law = np.sqrt((high - at) * (at - low)) / (2 * np.pi * ratio * at)

figure, (left, right) = plt.subplots(1, 2)
left.plot(at, spectrum.pdf(at, bandwidth=0.1), label="120 products")
left.plot(at, law, "k:", label="Marchenko-Pastur")
left.set(xlabel="eigenvalue", ylabel="density")
left.legend()
band = spectrum.cdf_band(at, level=0.95, uniform=True)
right.fill_between(at, *band, alpha=0.3, label="band of 95 %")
right.plot(at, np.cumsum(law) * (at[1] - at[0]), "k:")
right.set(xlabel="eigenvalue", ylabel="share below")
right.legend()
ends = spectrum.extremes()
print(f"ends seen  {float(ends.smallest):.4f} {float(ends.largest):.4f}")
print(f"ends of the law {low:.4f} {high:.4f}")
