"""The spectral density: quadrature, atoms, bounds, bands, the record, distances."""
