"""Pictures of spectra. Needs matplotlib, the extra `plot`; nothing else in the package does."""

from hessspec._spectrum.drawing import plot_cdf, plot_densities, plot_density

__all__ = ["plot_cdf", "plot_densities", "plot_density"]
