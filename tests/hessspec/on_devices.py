"""Results on 8 devices of the host beside those of one, for `test_devices.py`.

`python -m tests.hessspec.on_devices NAME` runs one of `CHECKS` in a process of its own, since
devices must be asked for before JAX starts; a failed assertion ends it with its text.
"""

import contextlib
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import hessspec
from hessspec._base.memory import default_memory_budget, host_memory
from hessspec._base.meshes import cut_along, off_explicit_axes, over_devices
from hessspec._base.pieces import read_rows, write_rows
from hessspec._base.probes import gaussian_on, rademacher_on
from hessspec._krylov import basis, blocks, lockstep
from hessspec._krylov.basis import Basis, LockstepBases
from hessspec._krylov.blocks import orthonormal_rows, spherical
from hessspec._krylov.lanczos import Recurrence
from hessspec._krylov.tiles import Layout
from tests.hessspec.killed import counted, killed, same

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
    """With `reshard` where JAX needs it to differentiate a contraction over a sharded axis.

    One eigenvalue stands out, so that deflation pays.
    """
    first, second = whole(params["first"]), whole(params["second"])
    outputs = jnp.tanh(jnp.tanh(x @ first) @ second)
    extra = 0.1 * jnp.sum(first) ** 2
    extra = extra + jnp.sum(params["last"] ** 4) if "last" in params else extra
    return jnp.mean(jnp.sum(outputs**2, axis=1)) + extra


def losses(params, x):
    """Two of them."""
    return jnp.stack([loss(params, x), loss(jax.tree.map(jnp.sin, params), x)])


def model(params, x):
    """What `loss` makes a loss of, of each example."""
    return jnp.tanh(jnp.tanh(x @ whole(params["first"])) @ whole(params["second"]))


def outer(outputs, x):
    """Two losses of the outputs, of curvatures of either sign."""
    del x
    return jnp.stack([jnp.mean(jnp.sum(outputs**2, axis=1)), jnp.mean(jnp.cos(outputs))])


def whole(leaf):
    """The leaf on every device, where its axes are Explicit; Auto ones leave that to JAX."""
    mesh = jax.typeof(leaf).sharding.mesh
    return jax.sharding.reshard(leaf, P()) if mesh.explicit_axes else leaf


def a_mesh(kind, shape=(DEVICES,)):
    """Of one axis or two, whose devices all hold a piece of every matrix."""
    names, kinds = ("x", "y")[: len(shape)], (getattr(AxisType, kind),) * len(shape)
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=kinds, devices=devices)


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
        new, old = on_host(new), on_host(old)
        worst = np.abs(new - old).max() / (eps * np.abs(old).max())
        assert worst <= UNITS, f"differs by {worst:.3g} eps, allowed are {UNITS}"


def on_host(array):
    """All of an array, also of one that other processes have a part of."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array, np.float64)


def operators(loss_fn, mesh, ragged=True, split="ragged", **options):
    """The Hessian of the problem on one device, and over a mesh."""
    params, x = problem(ragged)
    parts = jnp.split(x, np.cumsum(SPLITS[split])[:-1])
    one = hessspec.HessianOperator(loss_fn, params, data=hessspec.Batches(parts), **options)
    put, _ = placed(mesh, params, x)
    batches = hessspec.Batches([placed(mesh, {}, part)[1] for part in parts])
    return one, hessspec.HessianOperator(loss_fn, put, data=batches, **options)


def same_products(loss_fn, mesh, *, current=False, **options):
    """Gradients, products, forms and losses, with rows as users give them and as verbs do."""
    with jax.set_mesh(mesh) if current else contextlib.nullcontext():
        one, spread = operators(loss_fn, mesh, **options)
        put = spread.params
        vectors = np.random.default_rng(1).normal(size=(17, one.dim)).astype(one.dtype)
        expected = (one.losses(), one.gradients(), one.rows(vectors), one.forms(vectors))
        found = (spread.losses(), spread.gradients(), spread.rows(vectors), spread.forms(vectors))
        cut = off_explicit_axes(over_devices)(spread.mesh, vectors)
        inside = off_explicit_axes(lambda: (spread.rows(cut)[..., : one.dim], spread.forms(cut)))()
        chosen = {name: put[name] if one.chosen[name] is not None else None for name in put}
        product = hessspec.hvp(spread, vector=chosen)
    close(found, expected)
    close(inside, expected[2:])
    close(product, hessspec.hvp(one, vector=one.chosen))


def same_answers(one, spread):
    """Every verb, with one key, of a scalar loss or several."""
    key = jax.random.key(2)
    for ask, read in VERBS:
        close(read(ask(spread, key)), read(ask(one, key)))
        print("as on one device", flush=True)
    found, expected = (hessspec.eigenpairs(H, key=key, k=2) for H in (spread, one))
    close(found.values, expected.values)
    of_pairs = zip(*(map(flat_vectors, (found, expected))), strict=True)
    cosines = [abs(np.sum(new * old, axis=-1)) for new, old in of_pairs]  # either sign will do
    close(cosines, [np.ones_like(cosine) for cosine in cosines])


def flat_vectors(pairs):
    """The eigenvectors of all tasks as rows."""
    leaves = map(on_host, jax.tree.leaves(pairs.vectors))
    count = np.size(pairs.values)
    return np.concatenate([leaf.reshape(count, -1) for leaf in leaves], axis=1)


VERBS = (
    (
        lambda H, key: hessspec.trace(H, key=key, num_matvecs=20, method="hutchinson"),
        lambda t: t.value,
    ),
    (lambda H, key: hessspec.trace(H, key=key, num_matvecs=24, method="xtrace"), lambda t: t.value),
    (
        lambda H, key: hessspec.trace(H, key=key, num_matvecs=60, directions=np.ones((1, H.dim))),
        lambda t: (t.value, t.exact),
    ),
    (lambda H, key: hessspec.diagonal(H, key=key, num_matvecs=24), lambda d: d.value),
    (
        lambda H, key: hessspec.density(H, key=key, num_probes=2, num_steps=6),
        lambda d: (d.alpha, d.beta),
    ),
)


def quick():
    """One network on Explicit axes, several batches, chunks of 2 rows: right, and not 8 times."""
    same_products(loss, a_mesh("Explicit"), split="equal", block_rows=2)
    pilot = spherical(jax.random.key(0), 0, 16, 581, np.dtype("float32"), a_mesh("Auto"))
    pieces = [piece.data.shape for piece in pilot.addressable_shards]
    assert pieces == [(16, 96)] * DEVICES, pieces  # three words of 32 on each, for 581 entries
    assert default_memory_budget() == host_memory() // 2 // DEVICES
    one, spread = (H.plan for H in operators(loss, a_mesh("Explicit"), split="equal"))
    eight, size = spread.demand, one.demand.vector // 581
    assert one.demand.tree == one.demand.vector == 581 * size
    assert eight.vector == 96 * size
    assert eight.tree == ((16 * 24 + 24 * 8) // DEVICES + 5) * size  # five are on every device
    vectors = (replace(demand, linearised=0.0).of(16, False) for demand in (one.demand, eight))
    assert list(vectors) == [(32 + 3) * 581 * size, 32 * 96 * size + 3 * eight.tree]


def products():
    """Ways of chunking, on both kinds of axes, one axis and two, P a multiple of 8 or not."""
    auto, explicit = a_mesh("Auto"), a_mesh("Explicit")
    same_products(loss, auto, ragged=False, block_rows=1)
    same_products(loss, auto, memory_budget=30_000)  # batches are streamed
    same_products(loss, a_mesh("Auto", (4, 2)), split="equal")
    same_products(loss, a_mesh("Auto", (1,)), block_rows=16)
    same_products(losses, a_mesh("Explicit", (2,)), block_rows=16)
    same_products(losses, explicit, block_rows=2, rematerialize=True)
    same_products(losses, explicit, split="whole", where=lambda path, _: path != "second")
    same_products(losses, explicit, current=True)


def scalar():
    """All verbs of one loss, spread over Explicit axes."""
    with jax.set_mesh(a_mesh("Explicit")):
        same_answers(*operators(loss, a_mesh("Explicit"), split="equal"))


def several():
    """All verbs of two losses, spread over Auto axes."""
    same_answers(*operators(losses, a_mesh("Auto"), split="equal"))


def gauss_newton():
    """The trace of a Gauss-Newton matrix, batch by batch and example by example."""
    params, x = problem(ragged=False)
    for independent in (False, True):
        split = "equal" if independent else "ragged"
        parts = jnp.split(x, np.cumsum(SPLITS[split])[:-1])

        def ask(params, parts, independent=independent):
            data, options = hessspec.Batches(parts), {"independent": independent}
            return hessspec.gauss_newton_trace(model, outer, params, data, **options)

        expected = ask(params, parts)
        for mesh in (a_mesh("Auto"), a_mesh("Explicit"), a_mesh("Auto", (4, 2))):
            put = placed(mesh, params, x)[0]
            spread = [placed(mesh, {}, part)[1] for part in parts]
            found = ask(put, spread)
            close(found.value, expected.value)
            assert (found.method, found.num_matvecs) == (expected.method, expected.num_matvecs)
            print("as on one device", flush=True)


def on_the_way():
    """Runs killed in between and called again end with the same bits, over either kind of axes."""
    for kind, asks in (("Explicit", KEPT[:1]), ("Auto", KEPT)):
        spread = operators(loss, a_mesh(kind), split="equal")[1]
        for ask in asks:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "run"
                with counted() as seen:
                    expected = ask(spread, None)
                killed(ask, len(seen) // 2, H=spread, checkpoint=folder)
                pieces = {int(path.name.split(".")[1]) for path in folder.rglob("*basis-*.npy")}
                # A file for each device's share of 96 entries; 581 of them end on the seventh.
                assert pieces == {96 * device for device in range(7)}, pieces
                with counted() as left:
                    found = ask(spread, folder)
                assert len(left) < len(seen)
                same(found, expected)
                for new, old in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
                    if isinstance(old, jax.Array):
                        assert new.sharding.is_equivalent_to(old.sharding, old.ndim)
                print("goes on", flush=True)


KEPT = (
    lambda H, checkpoint: hessspec.eigenpairs(
        H, key=jax.random.key(2), k=2, max_matvecs=120, tol=1e-4, checkpoint=checkpoint
    ),
    lambda H, checkpoint: hessspec.trace(
        H, key=jax.random.key(2), rtol=1e-2, num_matvecs=100, checkpoint=checkpoint
    ),
)


def processes():
    """Two of them, with four devices each."""
    same_products(losses, a_mesh("Explicit"), split="equal")
    same_answers(*operators(loss, a_mesh("Auto"), split="equal"))


def apart(folder):
    """Each of two processes asks alone, with a key of its own, and the first one merges the files.

    Process 0 of them; the other one only saves.
    """
    process, devices = jax.process_index(), jax.local_devices()
    params, x = jax.device_put(problem(ragged=True), devices[0])
    key = jax.random.fold_in(jax.random.key(5), process)
    hessspec.density(loss, params, key, data=x, num_steps=6).save(folder / f"d{process}.npz")
    options = {"data": x, "num_matvecs": 48}
    hessspec.trace(losses, params, key, **options).save(folder / f"t{process}.npz")
    multihost_utils.sync_global_devices("both have saved")
    for kind, name in ((hessspec.SpectralDensity, "d"), (hessspec.TraceEstimate, "t")):
        one, other = (kind.load(folder / f"{name}{number}.npz") for number in range(2))
        merged = one.merge(other)
        assert merged.num_matvecs == one.num_matvecs + other.num_matvecs
        values = [record.value if name == "t" else record.trace().value for record in (one, other)]
        found = merged.value if name == "t" else merged.trace().value
        np.testing.assert_allclose(found, np.mean(values, axis=0), rtol=1e-6)
        with pytest.raises(ValueError, match="the same key"):
            one.merge(kind.load(folder / f"{name}0.npz"))


def kept_together(folder):
    """Two processes keep one run in one folder; it is killed in both, and goes on in both."""
    spread = operators(loss, a_mesh("Auto"), split="equal")[1]
    for number, ask in enumerate(KEPT):
        with counted() as seen:
            expected = ask(spread, None)
        killed(ask, len(seen) // 2, H=spread, checkpoint=folder / str(number))
        with counted() as left:
            found = ask(spread, folder / str(number))
        assert len(left) < len(seen)
        for new, old in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_array_equal(on_host(new), on_host(old))


def bases():
    """Each device holds its share of every basis, and no step of Lanczos gathers a vector."""
    dtype, mesh = np.dtype(jnp.zeros(()).dtype), a_mesh("Auto")
    rng = np.random.default_rng(0)
    for dim in (768, 4001):
        columns = np.linalg.qr(rng.normal(size=(dim, 24)))[0]
        turn = np.linalg.qr(rng.normal(size=(24, 24)))[0][:10]
        whole = jnp.asarray(columns.T, dtype)
        cut = over_devices(mesh, whole)
        one, spread = _a_basis(None, whole), _a_basis(mesh, cut)
        close(spread.split(cut[:3] + cut[5])[1], one.split(whole[:3] + whole[5])[1])
        for each in (one, spread):
            each.recombine(turn)
        close(spread.rows(0, 10)[:, :dim], one.rows(0, 10)[:, :dim])
        one, spread = _lanes(None, whole), _lanes(mesh, cut)
        close(spread.gram(), one.gram())
        close(spread.rows()[..., :dim], one.rows()[..., :dim])
        mixes = np.ones((1, 2, 5))
        close(spread.combined_lengths(mixes), one.combined_lengths(mixes))
        pieces = [piece.data.nbytes for piece in spread.parts[0].chunks[0].addressable_shards]
        least = 2 * 16 * cut.shape[1] * dtype.itemsize / DEVICES
        assert pieces == [least] * DEVICES, (pieces, least)
        assert spread.rows().sharding.is_equivalent_to(cut_along(mesh, 2), 3)
        _factorised(mesh, dim, dtype)
        _on_disk(mesh, cut[:2], dim)
    _messages(spread, cut[:2])
    _messages_of_starts(mesh, 4001, jnp.dtype(dtype))


def _a_basis(mesh, rows):
    basis = Basis(Layout.of_blocks(rows.shape[1], rows.dtype, mesh))
    basis.append(rows)
    return basis


def _lanes(mesh, rows):
    lanes = LockstepBases(Layout.of_lanes(rows.shape[1], rows.dtype, 2, mesh))
    for j in range(5):
        lanes.append(rows[2 * j : 2 * j + 2] + rows[11])
    return lanes


def _factorised(mesh, dim, dtype):
    """Rows of lengths from 1 down to eps, as sketches have them, are orthonormal afterwards."""
    lengths = jnp.asarray(np.logspace(0, np.log10(np.finfo(dtype).eps), 8), dtype)
    random = spherical(jax.random.key(3), 0, 9, dim, dtype, mesh)
    rows = random[:8] * lengths[:, None] + random[8]
    basis, factor = orthonormal_rows(rows)
    close(basis @ basis.T, jnp.eye(8))
    close(jnp.asarray(factor.T, dtype) @ basis, rows)
    assert not np.any(np.asarray(basis)[:, dim:])  # what rows are filled up with stays zero
    assert basis.sharding.is_equivalent_to(cut_along(mesh, 1), 2) or dim < 1000


def _on_disk(mesh, rows, dim):
    """Files of eight shares are read by eight devices, by two and by one, to the last bit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, "row0", rows, dim)
        assert len(list(folder.iterdir())) == DEVICES
        for other in (mesh, a_mesh("Auto", (2,)), None):
            read = read_rows(folder, "row0", other, dim, rows.dtype)
            np.testing.assert_array_equal(read, over_devices(other, on_one(rows)[:, :dim]))


def on_one(array):
    """A copy on the first device."""
    return jnp.asarray(np.asarray(array))


def sent(program):
    """The messages between devices of a compiled program: shapes and kinds."""
    return re.findall(_MESSAGE, program.compile().as_text())


# The shape that a message between devices has in a compiled program, and its kind.
_MESSAGE = r"= \w+?(\[\S*?\])(?:\{\S*)? (all-\w+|collective-\w+|reduce-scatter)[\w-]*\("


def _messages(lanes, vectors):
    """The programs of a step add up lengths and coefficients over devices, and do no more."""
    layout, chunk = lanes.layout, lanes.parts[0].chunks[0]
    block = jax.jit(lambda rows: layout.tiled(rows)[:, :, 0])(vectors)
    found = Recurrence.begin(jnp.ones(2, bool), 16, vectors.dtype)
    known = jnp.zeros((2, 16), vectors.dtype)
    ones = jnp.ones(2, vectors.dtype)
    first = lockstep._first_pass.lower(vectors, vectors, vectors, ones, found, 1, layout=layout)
    extend = lockstep._extend_tiles.lower(found, 1, (block,), (known,), layout=layout)
    programs = {
        "first": (first, "[2]"),
        "store": (basis._store_each.lower((chunk,), vectors, 3, layout=layout), None),
        "project": (basis._project.lower(chunk, block, known, 0), "[2,16]"),
        "extend": (extend, "[2]"),
    }
    for name, (program, shape) in programs.items():
        expected = [] if shape is None else [(shape, "all-reduce")]
        assert sent(program) == expected, (name, sent(program))


def _messages_of_starts(mesh, dim, dtype):
    """A device draws its share of random vectors; of a block it tells others k x k numbers."""
    key, indices = jax.random.key(0), jnp.arange(4)
    for draw in (gaussian_on, rademacher_on):
        assert sent(draw.lower(key, indices, dim, dtype, mesh)) == []
    rows = gaussian_on(key, indices, dim, dtype, mesh)
    assert sent(blocks._on_sphere.lower(rows, dim)) == [("[4]", "all-reduce")]
    assert sent(blocks._gram.lower(rows, rows, mesh)) == [("[4,4]", "all-reduce")]
    assert sent(blocks._qr.lower(rows, mesh)) == [("[32,4]", "all-gather")]  # factors


_ALL = (quick, products, scalar, several, bases, gauss_newton, on_the_way, processes)
_OF_TWO = (apart, kept_together)
CHECKS = {check.__name__: check for check in _ALL + _OF_TWO}

if __name__ == "__main__":
    if len(sys.argv) > 2:  # one of two processes: its number, and the address of the first
        number, address, *folders = sys.argv[2:]
        jax.distributed.initialize(address, num_processes=2, process_id=int(number))
    assert jax.device_count() == DEVICES, jax.devices()
    CHECKS[sys.argv[1]](*map(Path, folders if len(sys.argv) > 2 else ()))
