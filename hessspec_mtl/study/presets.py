"""What a study does, as one frozen record, and the presets that fill it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from hessspec_mtl.curvature.follow import CurvatureConfig
from hessspec_mtl.network.model import NetworkConfig
from hessspec_mtl.training.config import TrainConfig

DatasetName = Literal["molecules", "crystals", "qm8", "mp"]

KeptStates = Literal["analysed", "last"]

# The subset and the split are the same for all seeds of training, so that those compare.
DATA_SEED = 0


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of the network; the defaults are the paper's where it states them.

    Attributes:
        num_steps: message-passing steps, each with weights of its own.
        width: size of the features of nodes, edges and graph; hidden layers have 3 to 4 times it.
        head_width: hidden size of a head. The paper does not state it.
        head_layers: hidden layers of a head; 0 makes it affine. The paper does not state it.
        initializer: of every matrix: lecun_normal, glorot_normal, glorot_uniform, torch_uniform.
            The paper does not state it.
        skip: where the skip connection of an update network starts: input or hidden.
        carried: which features go on to the next step: normalised or raw.
    """

    num_steps: int = 5
    width: int = 64
    head_width: int = 64
    head_layers: int = 1
    initializer: str = "lecun_normal"
    skip: str = "input"
    carried: str = "normalised"

    def __post_init__(self) -> None:
        # One place says what is possible; asked here, the answer comes before any data are read.
        NetworkConfig(node_features=1, edge_features=1, tasks=("any",), **asdict(self))


@dataclass(frozen=True)
class StudyConfig:
    """One data set, from examples to curvature.

    Attributes:
        num_examples: a random subset of this size; None takes all.
        seeds: one training run each. Seed s sets the weights, the order of batches and the
            probes; the split and the subset are the same for all, so that seeds compare.
        test_fraction: share of the examples that is held out.
        single_task: whether each task is trained alone too, for comparison.
        keep_groups_whole: whether structures that are one to the network stay on one side of the
            split, as they do in data of one's own. The paper's presets keep to equal names.
        keep_states: which states of training stay, beside `train.keep_epochs`: "analysed", those of
            which the curvature is taken, or "last", the last alone once all results are there (the
            others are dropped as soon as theirs are). A state of the paper's network is 23 MB.
        network, train, curvature: see there. `train.seed` is set from `seeds`.
    """

    num_examples: int | None = None
    seeds: tuple[int, ...] = (0,)
    test_fraction: float = 0.3
    single_task: bool = False
    keep_groups_whole: bool = False
    keep_states: KeptStates = "analysed"
    network: NetworkSizes = field(default_factory=NetworkSizes)
    train: TrainConfig = field(default_factory=TrainConfig)
    curvature: CurvatureConfig = field(default_factory=CurvatureConfig)

    def __post_init__(self) -> None:
        if self.num_examples is not None and self.num_examples < 4:
            raise ValueError(f"`num_examples` must be at least 4, got {self.num_examples}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"`seeds` must name at least one seed and each once, got {self.seeds}."
            )
        if self.keep_states not in ("analysed", "last"):
            raise ValueError(
                f"`keep_states` must be 'analysed' or 'last', got {self.keep_states!r}."
            )
        self.curvature.analysed(self.train.num_epochs)
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"`test_fraction` must lie in (0, 1), got {self.test_fraction}.")


@dataclass(frozen=True)
class Preset:
    """Studies by data set, and what the preset is for."""

    purpose: str
    studies: dict[DatasetName, StudyConfig]


_QUICK = StudyConfig(
    network=NetworkSizes(num_steps=3, width=16, head_width=32),
    train=TrainConfig(num_epochs=60, batch_size=16, learning_rate=2e-3),
    curvature=CurvatureConfig(
        num_epochs=6, num_graphs=128, batch_size=64, num_steps=50, hutchinson_samples=500
    ),
)
_SMALL_QM8 = StudyConfig(
    num_examples=2400,
    train=TrainConfig(num_epochs=100, batch_size=32),
    curvature=CurvatureConfig(num_epochs=7, num_graphs=128, trace_matvecs=64, num_steps=36),
)
# A crystal has three times the edges of a molecule, so fewer of them and fewer steps; and without
# a warm-up of the learning rate the network never leaves the mean of the targets (see `train`).
_SMALL_MP = StudyConfig(
    num_examples=1000,
    train=TrainConfig(num_epochs=100, batch_size=16, warmup_steps=200),
    curvature=CurvatureConfig(num_epochs=6, num_graphs=128, trace_matvecs=48, num_steps=30),
)
# A quarter of the paper's width and three of its five steps (P is a twenty-sixth): 45 runs (each
# task alone and all together, five seeds, two sets) and their curvature take an hour on one core.
# The learning rate decays over the second half, and ends at the share 0.997^256 of its start that
# the paper's does.
_COMPARE_QM8 = StudyConfig(
    num_examples=2000,
    seeds=(0, 1, 2, 3, 4),
    single_task=True,
    network=NetworkSizes(num_steps=3, width=16, head_width=32),
    train=TrainConfig(num_epochs=40, batch_size=16, learning_rate=2e-3, decay_rate=0.962),
    curvature=CurvatureConfig(
        num_epochs=6,
        num_graphs=64,
        trace_matvecs=32,
        num_steps=24,
        num_eigenpairs=8,
        gradient_groups=8,
    ),
)
_COMPARE_MP = replace(
    _COMPARE_QM8,
    num_examples=1000,
    train=replace(_COMPARE_QM8.train, warmup_steps=200),
    curvature=replace(_COMPARE_QM8.curvature, num_graphs=32, batch_size=16),
)
# Weightings against each other (docs/weighting.md): what decides is errors over many seeds, so the
# curvature is taken at three epochs only.
_WEIGHTING_QM8 = replace(
    _COMPARE_QM8,
    seeds=tuple(range(20)),
    curvature=replace(_COMPARE_QM8.curvature, num_epochs=3),
)
_WEIGHTING_MP = replace(
    _COMPARE_MP,
    seeds=tuple(range(20)),
    curvature=replace(_COMPARE_MP.curvature, num_epochs=3),
)
_PAPER = StudyConfig(
    train=TrainConfig(num_epochs=512, batch_size=128),
    curvature=CurvatureConfig(
        num_epochs=18,
        num_graphs=1024,
        batch_size=128,
        trace_matvecs=96,
        num_steps=100,
        hutchinson_samples=500,
        num_eigenpairs=8,
        gradient_groups=8,
    ),
)
# A quarter of an hour of a GPU must do: 7 epochs instead of 18, a quarter of the graphs, in one
# batch, and 60 steps. All of a visit's results and one state are what is carried home.
_GPU = replace(
    _PAPER,
    keep_states="last",
    curvature=replace(
        _PAPER.curvature,
        num_epochs=7,
        num_graphs=256,
        batch_size=256,
        trace_matvecs=64,
        num_steps=60,
    ),
)

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "minutes on 2 cores: a reduced network on the two data sets that come with the project",
        {"molecules": _QUICK, "crystals": _QUICK},
    ),
    "small": Preset(
        "under an hour a data set on 2 cores: the paper's network on subsets of its data sets",
        {"qm8": _SMALL_QM8, "mp": _SMALL_MP},
    ),
    "compare": Preset(
        "about an hour on 1 core: a reduced network, five seeds, each task alone and all together",
        {"qm8": _COMPARE_QM8, "mp": _COMPARE_MP},
    ),
    "weighting": Preset(
        "hours on 1 core: that network with 20 seeds, for one weighting (--train.weighting)",
        {"qm8": _WEIGHTING_QM8, "mp": _WEIGHTING_MP},
    ),
    "gpu": Preset(
        "a GPU for a quarter of an hour a data set: the paper's network, data and 512 epochs",
        {"qm8": _GPU, "mp": replace(_GPU, train=replace(_GPU.train, warmup_steps=200))},
    ),
    "paper": Preset(
        "for a GPU: the paper's network, data sets and 512 epochs",
        {"qm8": _PAPER, "mp": replace(_PAPER, train=replace(_PAPER.train, warmup_steps=200))},
    ),
}
