"""A search for eigenpairs that was killed goes on from the last block, to the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from tests.hessspec.killed import counted, goes_on, killed, same

DIM = 80


def quadratics(w, matrices):
    """Losses whose Hessians are the matrices."""
    return 0.5 * jnp.einsum("p,tpq,q->t", w, matrices, w)


def ask(checkpoint=None, *, tasks=1, **options):
    rng = np.random.default_rng(0)
    values = np.concatenate([[9.0, 9.0, 9.0, 5.0], rng.normal(size=DIM - 4)])  # one is threefold
    turns = [np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(tasks)]
    dtype = jnp.zeros(()).dtype
    matrices = jnp.asarray(np.stack([(turn * values) @ turn.T for turn in turns]), dtype)
    loss = quadratics if tasks > 1 else lambda w, m: quadratics(w, m)[0]
    options = {"k": 3, "which": "LA", "tol": 1e-5, "max_matvecs": 90, **options}
    key, point = jax.random.key(1), jnp.zeros(DIM, dtype)
    return hessspec.eigenpairs(loss, point, key, data=matrices, checkpoint=checkpoint, **options)


def blocks_again(options):
    """Residuals are measured in one step, two in each block."""
    return 1 + (options.get("k", 3) + 1) // 2


def test_a_killed_search_ends_with_the_same_bits(tmp_path):
    # A second sweep looks for more copies of the threefold one, the basis is replaced in between.
    goes_on(ask, tmp_path, {}, again=blocks_again({}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tasks": 2},
        {"k": 1, "tol": 1e-7, "which": "SA", "max_matvecs": 40},  # not all converge
        {"k": 2, "start": np.eye(2, DIM)},
        {"k": 12, "which": "SA", "tol": 1e-6, "max_matvecs": 300},  # ends with the whole matrix
    ],
)
def test_a_killed_search_of_any_kind_ends_with_the_same_bits(tmp_path, options):
    goes_on(ask, tmp_path, options, again=blocks_again(options), everywhere=True)


def test_rows_of_a_basis_that_was_replaced_leave_the_disk(tmp_path):
    room = 30 * DIM * jnp.zeros(()).dtype.itemsize  # for so many rows, those of products among them
    options = {"k": 1, "which": "SA", "memory_budget": room}
    with counted() as whole:
        ask(**options)
    killed(ask, len(whole) - 1, checkpoint=tmp_path, **options)
    names = [path.name.split(".")[0] for path in (tmp_path / "run0").glob("*basis-*.npy")]
    replaced = {name.split("-")[1] for name in names}
    assert len(replaced) == 1  # rows of one basis alone
    assert replaced != {"0000"}  # and not of the first
    with counted():
        same(ask(tmp_path, **options), ask(**options))
