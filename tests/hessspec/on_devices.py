"""Results on 8 devices of the host beside those of one, for `test_devices.py`.

`python -m tests.hessspec.on_devices NAME` runs one of `CHECKS` in a process of its own, since
devices must be asked for before JAX starts; a failed assertion ends it with its text.
"""

import contextlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import hessspec
from hessspec._base.memory import default_memory_budget, host_memory
from hessspec._krylov import basis, lockstep
from hessspec._krylov.basis import Basis, LockstepBases
from hessspec._krylov.lanczos import Recurrence
from hessspec._krylov.tiles import Layout

# The largest difference allowed, in eps of the largest entry: sums over 40 examples, 24 features
# and (in Lanczos steps) some hundred parameters are taken in another order. Adding n terms in two
# orders differs by at most 2 n eps of the sum of their sizes, and by about n^(1/2) eps.
UNITS = 64
DEVICES = 8
SPLITS = {"whole": [40], "equal": [8] * 5, "ragged": [16, 16, 8]}  # examples of each batch


def problem(ragged):
    """Parameters and examples; with `ragged`, P is no multiple of the number of devices."""
    rng = np.random.default_rng(0)
    sizes = {"first": (16, 24), "second": (24, 8), **({"last": (5,)} if ragged else {})}
    dtype = jnp.zeros(()).dtype
    params = {name: jnp.asarray(0.3 * rng.normal(size=s), dtype) for name, s in sizes.items()}
    return params, jnp.asarray(rng.normal(size=(40, 16)), dtype)


def loss(params, x):
    """With `reshard` where JAX needs it to differentiate a contraction over a sharded axis."""
    outputs = jnp.tanh(jnp.tanh(x @ whole(params["first"])) @ whole(params["second"]))
    extra = jnp.sum(params["last"] ** 4) if "last" in params else 0.0
    return jnp.mean(jnp.sum(outputs**2, axis=1)) + extra


def losses(params, x):
    """Two of them."""
    return jnp.stack([loss(params, x), loss(jax.tree.map(jnp.sin, params), x)])


def whole(leaf):
    """The leaf on every device, where its axes are Explicit; Auto ones leave that to JAX."""
    mesh = jax.typeof(leaf).sharding.mesh
    return jax.sharding.reshard(leaf, P()) if mesh.explicit_axes else leaf


def a_mesh(kind, shape=(DEVICES,)):
    """Of one axis or two, whose devices all hold a piece of every matrix."""
    names = ("x", "y")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(getattr(AxisType, kind),) * len(shape))


def placed(mesh, params, x):
    """Matrices cut along their axes, the vector whole, examples along the first axis."""
    cut = P(*mesh.axis_names) if len(mesh.axis_names) > 1 else P("x", None)
    specs = {name: P() if leaf.ndim == 1 else cut for name, leaf in params.items()}
    put = {
        name: jax.device_put(leaf, NamedSharding(mesh, specs[name]))
        for name, leaf in params.items()
    }
    return put, jax.device_put(x, NamedSharding(mesh, P("x", None)))


def close(found, expected):
    """Whether trees of arrays agree to the stated multiple of eps."""
    eps = float(jnp.finfo(jnp.zeros(()).dtype).eps)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
        worst = np.abs(new - old).max() / (eps * np.abs(old).max())
        assert worst <= UNITS, f"differs by {worst:.3g} eps, allowed are {UNITS}"


def same_products(loss_fn, mesh, *, ragged=True, split="ragged", current=False, **options):
    """Gradients, products, forms and losses of one operator; both operators are given back."""
    params, x = problem(ragged)
    ends = np.cumsum(SPLITS[split])[:-1]
    one = hessspec.HessianOperator(
        loss_fn, params, data=hessspec.Batches(jnp.split(x, ends)), **options
    )
    vectors = jax.random.normal(jax.random.key(1), (17, one.dim))
    expected = (one.losses(), one.gradients(), one.rows(vectors), one.forms(vectors))
    with jax.set_mesh(mesh) if current else contextlib.nullcontext():
        put, _ = placed(mesh, params, x)
        batches = hessspec.Batches([placed(mesh, {}, part)[1] for part in jnp.split(x, ends)])
        spread = hessspec.HessianOperator(loss_fn, put, data=batches, **options)
        found = (spread.losses(), spread.gradients(), spread.rows(vectors), spread.forms(vectors))
        product = hessspec.hvp(loss_fn, put, put, data=batches)
    close(found, expected)
    close(product, hessspec.hvp(one, vector=params))
    return one, spread


def same_answers(one, spread):
    """Every verb, with one key, of a scalar loss or several."""
    key = jax.random.key(2)
    for ask, read in VERBS:
        close(read(ask(spread, key)), read(ask(one, key)))


VERBS = (
    (
        lambda H, key: hessspec.trace(H, key=key, num_matvecs=20, method="hutchinson"),
        lambda t: t.value,
    ),
    (lambda H, key: hessspec.trace(H, key=key, num_matvecs=24, method="xtrace"), lambda t: t.value),
    (lambda H, key: hessspec.diagonal(H, key=key, num_matvecs=24), lambda d: d.value),
    (
        lambda H, key: hessspec.density(H, key=key, num_probes=2, num_steps=6),
        lambda d: (d.alpha, d.beta),
    ),
    (lambda H, key: hessspec.eigenpairs(H, key=key, k=2), lambda e: e.values),
)


def quick():
    """One network on Explicit axes, several batches, chunks of 2 rows: right, and not 8 times."""
    same_products(loss, a_mesh("Explicit"), split="equal", block_rows=2)
    layout = Layout.of_lanes(581, np.dtype("float32"), 1, a_mesh("Auto"))
    pieces = {piece.data.shape for piece in layout.zeros(16).addressable_shards}
    assert pieces == {(1, 1, 16, 73)}, pieces
    assert default_memory_budget() == host_memory() // 2 // DEVICES


def products():
    """All ways of chunking, on both kinds of axes, one axis and two, P a multiple of 8 or not."""
    for kind in ("Explicit", "Auto"):
        for loss_fn in (loss, losses):
            for ragged in (False, True):
                for rows in (1, 2, 16):
                    options = {"block_rows": rows, "rematerialize": rows == 2}
                    same_products(loss_fn, a_mesh(kind), ragged=ragged, **options)
            same_products(loss_fn, a_mesh(kind, (4, 2)))
            same_products(loss_fn, a_mesh(kind), split="whole", where=lambda path: path != "second")
            same_products(loss_fn, a_mesh(kind), current=True)
            same_products(loss_fn, a_mesh(kind), memory_budget=30_000)  # batches are streamed


def verbs():
    """All of them, where a scalar loss or several are spread over Explicit and Auto axes."""
    for kind in ("Explicit", "Auto"):
        for loss_fn in (loss, losses):
            same_answers(*same_products(loss_fn, a_mesh(kind)))
            with jax.set_mesh(a_mesh(kind)):
                same_answers(*same_products(loss_fn, a_mesh(kind)))


def bases():
    """Each device holds its share of every basis, and no step of Lanczos gathers a vector."""
    dtype, mesh = np.dtype(jnp.zeros(()).dtype), a_mesh("Auto")
    rng = np.random.default_rng(0)
    for dim in (576, 581):
        columns = np.linalg.qr(rng.normal(size=(dim, 24)))[0]
        rows, turn = jnp.asarray(columns.T, dtype), np.linalg.qr(rng.normal(size=(24, 24)))[0][:10]
        one, spread = (Basis(Layout.of_blocks(dim, dtype, where)) for where in (None, mesh))
        lanes = [LockstepBases(Layout.of_lanes(dim, dtype, 2, where)) for where in (None, mesh)]
        for each in (one, spread):
            each.append(rows)
        close(spread.split(rows[:3] + 1)[1], one.split(rows[:3] + 1)[1])
        for each in (one, spread):
            each.recombine(turn)
        close(spread.rows(0, 10), one.rows(0, 10))
        for j in range(5):
            for each in lanes:
                each.append(rows[2 * j : 2 * j + 2] + rows[11])
        close(*[each.gram() for each in lanes])
        close(*[each.rows() for each in lanes])
        close(*[each.combined_lengths(np.ones((1, 2, 5))) for each in lanes])
        for chunk, held in ((spread.chunks[0], dim), (lanes[1].chunks[0], 2 * dim)):
            pieces = [piece.data.nbytes for piece in chunk.addressable_shards]
            least = 16 * held * dtype.itemsize / DEVICES
            assert len(pieces) == DEVICES
            assert max(pieces) <= least * 1.12, (pieces, least)  # a tile is filled up to 16
        if dim % DEVICES == 0:
            assert spread.rows(0, 3).sharding.spec == P(None, ("x",))
            _messages(lanes[1], rows[:2])


# The shape that a message between devices has in a compiled program, and its kind.
_MESSAGE = r"= \w+?(\[\S*?\])(?:\{\S*)? (all-\w+|collective-\w+|reduce-scatter)[\w-]*\("


def _messages(lanes, rows):
    """The programs of a step add up lengths and coefficients over devices, and do no more."""
    layout, chunk = lanes.layout, lanes.chunks[0]
    vectors = jax.jit(layout.spread)(rows)
    block = jax.jit(lambda rows: layout.tiled(rows)[:, :, 0])(vectors)
    found = Recurrence.begin(jnp.ones(2, bool), 16, rows.dtype)
    known = jnp.zeros((2, 16), rows.dtype)
    ones = jnp.ones(2, rows.dtype)
    first = lockstep._first_pass.lower(vectors, vectors, vectors, ones, found, 1, layout=layout)
    programs = {
        "first": (first, "[2]"),
        "store": (basis._store.lower(chunk, vectors, 3, layout=layout), None),
        "project": (basis._project.lower(chunk, block, known, 0), "[2,16]"),
        "extend": (lockstep._extend_tiles.lower(found, 1, block, known, layout=layout), "[2]"),
    }
    for name, (program, shape) in programs.items():
        text = program.compile().as_text()
        sent = re.findall(_MESSAGE, text)
        assert sent == ([] if shape is None else [(shape, "all-reduce")]), (name, sent)


CHECKS = {check.__name__: check for check in (quick, products, verbs, bases)}

if __name__ == "__main__":
    assert jax.device_count() == DEVICES, jax.devices()
    CHECKS[sys.argv[1]]()
