"""Tests mirror the packages, one file for one module; suites of several modules lie at the top."""
