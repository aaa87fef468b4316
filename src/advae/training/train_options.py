"""Options of training, read without importing torch so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advae.errors import ConfigError


@dataclass(frozen=True)
class TrainOptions:
    """How to train."""

    steps: int = 10_000
    """Updates of encoder and decoder."""
    batch: int = 128
    """Examples in a batch, of each process."""
    accumulate: int = 1
    """Parts in which a batch is taken, one after another, to need less memory; their gradients are averaged."""
    rate: float = 1e-3
    """Adam's learning rate for encoder and decoder."""
    critic_rate: float = 1e-3
    """Adam's learning rate for critics."""
    beta1: float = 0.9
    """Adam's β₁ for encoder and decoder."""
    critic_beta1: float = 0.9
    """Adam's β₁ for critics."""
    beta2: float = 0.999
    """Adam's β₂ for all players."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the rates go: constant, or down a half cosine to a hundredth at the last step."""
    warmup: int = 0
    """Steps over which the rates grow from zero."""
    clip: float = 0.0
    """Largest norm of each player's gradient; 0 for no limit."""
    skip: int = 0
    """How many updates may be left out because a loss or gradient was not finite; at the next one the run stops. For
    flows, whose scales multiply: one draw of millions can overflow."""
    ema: float = 0.999
    """Decay of the average of the weights that evaluation uses; 0 for none."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the networks; likelihoods and log ratios stay in fp32. "auto" is bf16 where the machine has it."""
    step: Literal["auto", "eager", "compile", "graph"] = "auto"
    """How a step is run: eagerly; compiled; captured whole (on a GPU); or the fastest that pays for its start.
    All give the same results within floating point; a run that goes on keeps the way it began with."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    validate_every: int = 500
    """Steps between two validations."""
    samples_every: int = 1000
    """Steps between two sheets of samples; 0 for none."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints to resume from."""
    keep_every: int = 0
    """Steps between two checkpoints that are kept for good; 0 for none."""
    patience: int = 0
    """Stop after so many validations without a better one, and keep the best; 0 to train to the end. A validation
    is better by its error or, of a method without critics, by its ELBO; before the warm-up has ended none counts."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard as well (extra: tensorboard)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "validate_every", "checkpoint_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup", "clip", "skip", "samples_every", "keep_every", "patience"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("rate", "critic_rate"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("beta1", "critic_beta1", "beta2", "ema"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

        if self.batch % self.accumulate:
            raise ConfigError(
                "train.batch must be a multiple of train.accumulate",
                given=f"{self.batch} and {self.accumulate}",
            )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(
                f"train.{name} has an impossible value", given=getattr(self, name), expected=expected
            )
