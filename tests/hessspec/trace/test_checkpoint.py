"""A trace or diagonal that was killed goes on from the last state written, to the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessspec
from tests.hessspec.killed import counted, goes_on, killed, same

DIM = 60


def quadratics(params, batch):
    """Two losses whose Hessians are matrices with some large eigenvalues."""
    matrices = batch["matrices"]
    return 0.5 * jnp.einsum("p,tpq,q->t", params["w"], matrices, params["w"])


def one_quadratic(params, batch):
    """The first of them."""
    return quadratics(params, batch)[0]


def data(parts):
    rng = np.random.default_rng(0)
    values = np.concatenate([[40.0, 25.0, -10.0], 0.3 * rng.normal(size=DIM - 3)])
    turns = [np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] for _ in range(2 * parts)]
    matrices = [(turn * values) @ turn.T for turn in turns]
    whole = jnp.asarray(np.stack(matrices).reshape(parts, 2, DIM, DIM), jnp.zeros(()).dtype)
    if parts == 1:
        return {"matrices": whole[0]}
    return hessspec.Batches([{"matrices": part} for part in whole], sizes=[1] * parts)


def ask(checkpoint=None, *, verb=hessspec.trace, loss_fn=quadratics, parts=1, **options):
    params = {"w": jnp.zeros(DIM)}
    key = jax.random.key(3)
    return verb(loss_fn, params, key, data=data(parts), checkpoint=checkpoint, **options)


SEVERAL = {"num_matvecs": 56}
ONE = {"loss_fn": one_quadratic, "num_matvecs": 56}
MORE = {
    "several tasks": SEVERAL,
    "one task": ONE,
    "looks": {"loss_fn": one_quadratic, "rtol": 1e-3, "num_matvecs": 300},
    "looks, several tasks": {"rtol": 1e-3, "num_matvecs": 300},
    "no looks": {"loss_fn": one_quadratic, "num_matvecs": 60},
    "groups of batches": {"parts": 8, "num_matvecs": 56},
    "groups of batches, one task": {"loss_fn": one_quadratic, "parts": 8, "num_matvecs": 56},
    "signs": {"method": "hutchinson", "num_matvecs": 40},
    "signs, one task": {"loss_fn": one_quadratic, "method": "hutchinson", "num_matvecs": 40},
    "directions": {"directions": np.eye(3, DIM), "num_matvecs": 56},
    "blocks": {"by": lambda path, _: path, "num_matvecs": 56},
    "diagonal": {"verb": hessspec.diagonal, "loss_fn": one_quadratic, "num_matvecs": 40},
    "diagonal, groups of batches": {"verb": hessspec.diagonal, "parts": 8, "num_matvecs": 56},
    "exact diagonal": {"verb": hessspec.diagonal, "num_matvecs": 60},
}


def blocks_again(options):
    """One step is made again where it had begun: forms of new rows and of the pilot, by groups."""
    return 3 * max(options.get("parts", 1), 3) - 1


def test_a_killed_trace_of_several_tasks_ends_with_the_same_bits(tmp_path):
    assert goes_on(ask, tmp_path, SEVERAL, again=blocks_again(SEVERAL)) < 40_000


@pytest.mark.slow
@pytest.mark.parametrize("run", MORE)
def test_a_killed_trace_of_any_kind_ends_with_the_same_bits(tmp_path, run):
    options = MORE[run]
    left = goes_on(ask, tmp_path, options, again=blocks_again(options), everywhere=True)
    assert left < 40_000


def test_a_trace_killed_twice_keeps_one_state_on_disk(tmp_path):
    held = []
    for _ in range(2):
        killed(ask, 9, checkpoint=tmp_path, **ONE)
        names = [path.name for path in (tmp_path / "run0").iterdir()]
        held.append(len(names) - len([name for name in names if "basis-" in name]))
    assert held == [3, 3]  # the state, the pilot's products and the block that comes next
    with counted():
        same(ask(tmp_path, **ONE), ask(**ONE))


@pytest.mark.any_dtype
def test_other_settings_and_methods_that_keep_nothing_are_refused_by_name(tmp_path):
    options = {"method": "hutchinson", "num_matvecs": 8}
    ask(tmp_path, **options)
    for name, other in {
        "`num_matvecs`: 8, now 9": {"num_matvecs": 9},
        "`method`: hutchinson, now auto": {"method": "auto"},
        "`rtol`: 0.0, now 0.1": {"rtol": 0.1},
        "`by`": {"by": lambda path, _: path},
        "number of tasks: 2, now 1": {"loss_fn": one_quadratic},
    }.items():
        with pytest.raises(ValueError, match=f"another {name}"):
            ask(tmp_path, **{**options, **other})
    with pytest.raises(ValueError, match="`checkpoint` needs method='auto' or 'hutchinson'"):
        ask(tmp_path / "new", method="xtrace")
    assert not (tmp_path / "new").exists()
