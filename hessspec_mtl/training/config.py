"""How to train: the settings of a run, each with its default and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import optax

from hessspec._base.arguments import did_you_mean
from hessspec_mtl.training.weightings import MEASURES, WEIGHTINGS

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": optax.adamw,
    "adam": optax.adam,
    "sgd": optax.sgd,
}

MATMUL_PRECISIONS = {"highest": "highest", "tf32": "tensorfloat32"}
"""Names for users, and JAX's names of the same."""

LOSSES = ("squared", "absolute")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are the paper's (appendix B) where it states them.

    Attributes:
        num_epochs: passes over the training examples.
        batch_size: graphs in a step; the last batch of an epoch takes what is left. The paper does
            not state it.
        learning_rate: constant through epoch `decay_start`.
        decay_start: the last epoch of constant learning rate; None means `num_epochs // 2`.
        decay_rate: factor on the learning rate in each later epoch.
        warmup_steps: steps over which the learning rate first rises in proportion; 0 for none, as
            the paper mentions none. Crystals need some, see `train`.
        optimizer: one of `OPTIMIZERS`, with optax's defaults for all else (adamw has weight decay
            1e-4, sgd has no momentum).
        seed: of initial weights and of the order of examples.
        evaluate_every: epochs between evaluations of the test split; the first and the last epoch
            are always evaluated.
        keep_epochs: epochs whose checkpoints stay, beside 0, the last and the two newest; 0 is the
            state before training. One that is missing or damaged is made again, by training from
            the nearest earlier one.
        checkpoint_seconds: the state after an epoch is saved when so much time has passed since
            one was; 0 saves each. Those of `keep_epochs` and the last are saved in any case. What
            was not saved is trained again after a kill, and no number changes. None stands for 0
            on a CPU and 20 elsewhere, where an epoch may take less time than the writing of it.
        matmul_precision: of training, one of `MATMUL_PRECISIONS`. "tf32" rounds what goes into a
            product of matrices to 10 bits, on GPUs that gain by it; a CPU takes it for "highest".
            It says nothing of curvature, which is in full precision always.
        loss: of each standardised error, the "squared" one, as in the paper, or the "absolute".
        reduction: of the examples of a batch: their "mean", or their "sum", as the paper writes it.
            A factor of the loss does not matter to Adam but for its eps.
        weighting: how the tasks are weighed: "equal", as in the paper, fixed, random, uncertainty,
            average, famo, gradnorm, ntk, pcgrad, imtl-g, aligned, mgda, cagrad, nash, or by the
            inverse of a curvature: gauss-newton-root, gauss-newton, frobenius, sharpness,
            preconditioned. See docs/weighting.md.
        task_weights: the weights of "fixed", one a task in the order of the tasks.
        measure_every: steps between two measurements of curvature, for weightings by it.
        measure_graphs: training graphs on which it is measured, the same all along.
    """

    num_epochs: int = 512
    batch_size: int = 32
    learning_rate: float = 1e-3
    decay_start: int | None = None
    decay_rate: float = 0.997
    warmup_steps: int = 0
    optimizer: str = "adamw"
    seed: int = 0
    evaluate_every: int = 1
    keep_epochs: tuple[int, ...] = ()
    checkpoint_seconds: float | None = None
    matmul_precision: str = "highest"
    loss: str = "squared"
    reduction: str = "mean"
    weighting: str = "equal"
    task_weights: tuple[float, ...] = ()
    measure_every: int = 50
    measure_graphs: int = 32

    def __post_init__(self) -> None:
        counts = ("num_epochs", "batch_size", "evaluate_every", "measure_every", "measure_graphs")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.warmup_steps < 0:
            raise ValueError(f"`warmup_steps` must be at least 0, got {self.warmup_steps}.")
        for name in ("learning_rate", "decay_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"`optimizer` must be one of {sorted(OPTIMIZERS)}, got {self.optimizer!r}"
                f"{did_you_mean(self.optimizer, OPTIMIZERS)}."
            )
        if self.matmul_precision not in MATMUL_PRECISIONS:
            raise ValueError(
                f"`matmul_precision` must be one of {sorted(MATMUL_PRECISIONS)}, "
                f"got {self.matmul_precision!r}"
                f"{did_you_mean(self.matmul_precision, MATMUL_PRECISIONS)}."
            )
        for name, options in {"loss": LOSSES, "reduction": REDUCTIONS}.items():
            if (given := getattr(self, name)) not in options:
                raise ValueError(
                    f"`{name}` must be one of {list(options)}, got {given!r}"
                    f"{did_you_mean(given, options)}."
                )
        self._check_weighting()
        if self.checkpoint_seconds is not None and not self.checkpoint_seconds >= 0:
            raise ValueError(
                f"`checkpoint_seconds` must be at least 0, got {self.checkpoint_seconds}."
            )
        if not all(0 <= epoch <= self.num_epochs for epoch in self.keep_epochs):
            raise ValueError(
                f"`keep_epochs` must lie in [0, {self.num_epochs}], got {self.keep_epochs}."
            )

    def _check_weighting(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"`weighting` must be one of {list(WEIGHTINGS)}, got {self.weighting!r}"
                f"{did_you_mean(self.weighting, WEIGHTINGS)}."
            )
        if (self.weighting == "fixed") != bool(self.task_weights):
            raise ValueError(
                "`task_weights` go with `weighting` 'fixed' and with no other, got "
                f"{self.task_weights or 'none'} with {self.weighting!r}."
            )
        if not all(0 <= weight < float("inf") for weight in self.task_weights):
            raise ValueError(
                f"`task_weights` must be finite and not negative, got {self.task_weights}."
            )
        if self.weighting in MEASURES and self.loss != "squared":
            raise ValueError(
                f"`weighting` {self.weighting!r} measures the curvature of squared errors, and "
                f"`loss` is {self.loss!r}; take 'squared', or a weighting that is not by curvature."
            )
        if MEASURES.get(self.weighting) == "preconditioned" and self.optimizer == "sgd":
            raise ValueError(
                "`weighting` 'preconditioned' is of Adam's steps, and `optimizer` is 'sgd'; take "
                "'adam', 'adamw' or the weighting 'sharpness'."
            )

    @property
    def last_constant_epoch(self) -> int:
        """`decay_start`, with its default filled in."""
        return self.num_epochs // 2 if self.decay_start is None else self.decay_start

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of the steps of `epoch`, counted from 1, once warmed up."""
        return self.learning_rate * self.decay_rate ** max(0, epoch - self.last_constant_epoch)
