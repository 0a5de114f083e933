"""An epoch as one program trains as batches from the host do, to rounding."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.timing import Compilations
from hessspec._base.progress import progress_bar
from hessspec_mtl.graphs import MultiGraph, padding_for
from hessspec_mtl.network.model import NetworkConfig, init_params
from hessspec_mtl.training import epochs
from hessspec_mtl.training.batches import epoch_batches, epoch_members, largest_batches
from hessspec_mtl.training.config import MATMUL_PRECISIONS, TrainConfig
from hessspec_mtl.training.epochs import HostEpochs, ResidentEpochs
from hessspec_mtl.training.programs import Optimization, finite_leaves, programs
from hessspec_mtl.training.state import TrainingState

NETWORK = NetworkConfig(
    node_features=2, edge_features=1, tasks=("size", "bonds"), num_steps=2, width=4, head_width=4
)
RANDOM = np.random.default_rng(0)
KEY = jax.random.key(7)


def graph() -> MultiGraph:
    num_nodes = int(RANDOM.integers(2, 6))
    num_edges = int(RANDOM.integers(0, 3)) * num_nodes
    return MultiGraph(
        nodes=RANDOM.normal(size=(num_nodes, 2)),
        edges=RANDOM.normal(size=(num_edges, 1)),
        senders=RANDOM.integers(0, num_nodes, num_edges),
        receivers=RANDOM.integers(0, num_nodes, num_edges),
    )


def examples(count: int) -> tuple[list[MultiGraph], np.ndarray]:
    graphs = [graph() for _ in range(count)]
    targets = np.array([(g.num_nodes / 2, g.num_edges / 5) for g in graphs])
    targets[RANDOM.random(targets.shape) < 0.2] = np.nan
    targets[0] = 1.0
    return graphs, targets


# 20 examples in steps of 8: the last batch of an epoch has 4.
SPLITS = {"train": examples(20), "test": examples(9)}
CONFIG = TrainConfig(num_epochs=3, batch_size=8, learning_rate=1e-2, optimizer="adam")
PROGRAMS = programs(NETWORK, Optimization.of(CONFIG, 20))
GIVEN = PROGRAMS, SPLITS, 8, KEY, CONFIG.learning_rate  # what both kinds of epochs are made of


def trained(way) -> SimpleNamespace:
    """Parameters, optimizer state and errors after two epochs."""
    params = init_params(jax.random.key(0), NETWORK)
    opt_state, errors = PROGRAMS.init(params), []
    before = [way.errors(params, split) for split in ("train", "test")]
    for epoch in (1, 2):
        with progress_bar(3, "training", enabled=False) as bar:
            params, opt_state, sums = way.epoch(epoch, params, opt_state, bar)
        errors.append(sums)
    after = way.errors(params, "test")
    return SimpleNamespace(params=params, opt_state=opt_state, errors=[*before, *errors, after])


@pytest.mark.parametrize("kind", [HostEpochs, ResidentEpochs])
def test_looks_within_an_epoch_change_no_bit_and_compile_once(kind):
    """Parts of any length are one program; what is looked at is the state after that many steps."""
    way, digests, compilations = kind(*GIVEN), {}, Compilations()

    def look(number: int, params) -> None:
        digests[number] = float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))

    ends = []
    for stops in ((), (1, 3), (1,), (2,), (1, 2, 3)):
        params, before = init_params(jax.random.key(0), NETWORK), dict(digests)
        digests.clear()
        compilations.count = 0
        with progress_bar(3, "training", enabled=False) as bar:
            state = params, PROGRAMS.init(params), bar
            ends.append(way.epoch(1, *state, stops, look))
        assert list(digests) == list(stops)
        assert all(digests[number] == before[number] for number in {*stops} & {*before})
    assert compilations.count == 0
    for end in ends[1:]:
        jax.tree.map(np.testing.assert_array_equal, end, ends[0])


def packed(params, opt_state) -> dict:
    return TrainingState(params, opt_state, np.zeros((1, 2, 2, 2)), np.zeros(1)).packed()


@pytest.mark.parametrize("kind", [HostEpochs, ResidentEpochs])
def test_a_later_epoch_compiles_nothing_and_moves_what_it_must(kind):
    """Batches (or the number of the epoch) to the device, errors and what is saved from it.

    Any other way to the device is refused. The first epochs have met all shapes of the host.
    """
    way, params = kind(*GIVEN), init_params(jax.random.key(0), NETWORK)
    opt_state, compilations = PROGRAMS.init(params), Compilations()
    for epoch in range(1, 6):
        with (
            progress_bar(3, "training", enabled=False) as bar,
            jax.transfer_guard("disallow" if epoch == 5 else "allow"),
        ):
            compilations.count = 0
            params, opt_state, _ = way.epoch(epoch, params, opt_state, bar)
            way.errors(params, "test")
            assert all(jax.device_get(finite_leaves(params)))
            saved = packed(params, opt_state)
    assert compilations.count == 0
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(saved))


@pytest.mark.parametrize(("name", "written"), [("highest", "HIGHEST"), ("tf32", "HIGH")])
def test_every_product_of_matrices_has_the_precision_asked_for(name, written):
    """Also where all else runs in another one, as a study does."""
    way, params = ResidentEpochs(*GIVEN), init_params(KEY, NETWORK)
    state = params, PROGRAMS.init(params)
    with (
        jax.default_matmul_precision("highest"),
        jax.default_matmul_precision(MATMUL_PRECISIONS[name]),
    ):
        text = PROGRAMS.epoch.lower(*state, *way.arguments(1)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) > 50
    assert all(f"precision = [{written}, {written}]" in line for line in products)


@pytest.fixture(scope="module")
def by_host() -> SimpleNamespace:
    return trained(HostEpochs(*GIVEN))


@pytest.mark.parametrize("incidence", [True, False], ids=["lists", "segments"])
def test_both_ways_train_alike(by_host, incidence):
    """Missing targets, graphs without edges and a last batch that is not full included.

    Rounding of a gradient by 1e-7 of its scale moves Adam's step by as much of the learning rate,
    1e-2, where the gradient is not itself rounding: six steps, so 1e-6 and a margin.
    """
    resident = trained(ResidentEpochs(*GIVEN, incidence=incidence))
    np.testing.assert_allclose(resident.errors, by_host.errors, rtol=2e-5)
    for ours, theirs in zip(
        jax.tree.leaves(resident.params), jax.tree.leaves(by_host.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_an_epoch_has_the_members_of_the_host_in_their_order():
    members = np.asarray(epoch_members(KEY, jnp.int32(5), 20, 8))
    expected = epoch_batches(KEY, 5, 20, 8)
    assert members[-1, 4:].tolist() == [20] * 4
    for ours, theirs in zip(members, expected, strict=True):
        np.testing.assert_array_equal(ours[: len(theirs)], theirs)


def test_the_largest_batches_are_those_of_the_epochs():
    graphs, _ = SPLITS["train"]
    sizes = np.array([(g.num_nodes, g.num_edges) for g in graphs])
    found = largest_batches(KEY, jnp.array([3, 4]), jnp.asarray(sizes), 8)
    for epoch, most in zip((3, 4), found.tolist(), strict=True):
        sums = [sizes[members].sum(axis=0) for members in epoch_batches(KEY, epoch, 20, 8)]
        assert most == np.max(sums, axis=0).tolist()


def test_an_epoch_beyond_the_horizon_that_is_too_large_has_the_largest_shape(monkeypatch):
    """Its shape is a function of the data, the key and the epoch, not of the run's length."""
    monkeypatch.setattr(epochs, "HORIZON", 1)
    way = ResidentEpochs(*GIVEN)
    shapes = {epoch: way.padding(epoch) for epoch in range(1, 30)}
    largest = padding_for(SPLITS["train"][0], 8)
    assert set(shapes.values()) == {shapes[1], largest}
    for epoch, shape in shapes.items():
        for members in epoch_batches(KEY, epoch, 20, 8):
            graphs = [SPLITS["train"][0][i] for i in members]
            nodes, edges = sum(g.num_nodes for g in graphs), sum(g.num_edges for g in graphs)
            assert shape.holds(nodes, edges, len(graphs))
