"""Hessian spectra of multi-task graph networks: data, network, training, curvature, report."""
