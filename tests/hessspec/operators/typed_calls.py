"""Calls of verbs as a checker of types sees them: read by `make types`, run by nobody.

Every comment that excuses an error must excuse one (the setting below): a wrong call that the
checker no longer finds fails as well.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=error

from typing import Any, assert_type

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

import hessspec
from hessspec import HessianOperator


def loss_fn(params: dict[str, Array], batch: Array) -> Array:
    return jnp.sum(params["w"] * batch)


def right_calls(
    params: dict[str, Array], batch: Array, key: PRNGKeyArray, options: dict[str, Any]
) -> None:
    operator = HessianOperator(loss_fn, params, data=batch)
    assert_type(hessspec.trace(loss_fn, params, key), hessspec.TraceEstimate)
    assert_type(hessspec.density(operator, key=key), hessspec.SpectralDensity)
    assert_type(hessspec.diagonal(operator, key=key), hessspec.DiagonalEstimate)
    assert_type(hessspec.eigenpairs(operator, key=key, k=3), hessspec.EigenPairs)
    assert_type(hessspec.verify(operator, key=key), hessspec.Verification)
    assert_type(
        hessspec.density(operator, key=key).cdf(0.0), np.ndarray[tuple[Any, ...], np.dtype[Any]]
    )
    hessspec.density(operator, key=key).cdf_band([0.0, 1.0], level=0.9)
    hessspec.trace(loss_fn, params, key, data=batch, method="xtrace", rtol=0.1)
    hessspec.trace(loss_fn, params=params, key=key, where=lambda path, leaf: leaf.ndim > 1)
    hessspec.trace(operator, key=key, num_matvecs=64, progress=False)
    hessspec.density(loss_fn, params, key, data=batch, num_probes=3, **options)
    hessspec.eigenpairs(2.0 * operator + operator, key=key, which="SA")
    hessspec.hvp(loss_fn, params, params, data=batch)
    hessspec.hvp(operator, vector=params)


def wrong_calls(params: dict[str, Array], batch: Array, key: PRNGKeyArray) -> None:
    operator = HessianOperator(loss_fn, params, data=batch)
    hessspec.trace(loss_fn, params)  # pyright: ignore[reportArgumentType, reportCallIssue]
    hessspec.trace(operator)  # pyright: ignore[reportCallIssue]
    hessspec.trace(operator, params, key)  # pyright: ignore[reportArgumentType, reportCallIssue]
    hessspec.trace(operator, key=key, data=batch)  # pyright: ignore[reportCallIssue]
    hessspec.trace(operator, key=key, where=lambda p, x: True)  # pyright: ignore[reportCallIssue]
    hessspec.trace(loss_fn, params, key, batch)  # pyright: ignore[reportArgumentType, reportCallIssue]
    hessspec.trace(loss_fn, params, key, method="best")  # pyright: ignore[reportArgumentType, reportCallIssue]
    hessspec.trace(operator, key=key, rtol="1e-2")  # pyright: ignore[reportArgumentType, reportCallIssue]
    hessspec.trace(operator, key=key, nonsense=1)  # pyright: ignore[reportCallIssue]
    hessspec.density(operator, key=key, num_matvecs=64)  # pyright: ignore[reportCallIssue]
    hessspec.eigenpairs(params, key=key)  # pyright: ignore[reportArgumentType]
    hessspec.hvp(operator, params)  # pyright: ignore[reportCallIssue]
