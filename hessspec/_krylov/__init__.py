"""Bases of long vectors, and what is found in them: Lanczos, block bases, restarts, eigenpairs."""
