"""Training options, importable without torch so that ``--help`` is quick."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from advae.errors import ConfigError

SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_in_seconds(time: str | float, options: Mapping[str, Any]) -> float:
    """Return how long to train.

    Raises:
        ConfigError: the time is invalid, or the options, by dotted name, have a number of steps too.
    """
    if "train.steps" in options:
        raise ConfigError(
            "Both a training time and a number of steps are given.",
            given=f"time {time}, train.steps {options['train.steps']}",
            expected="one of them",
        )
    return parse_duration(time if isinstance(time, str) else f"{time:f}s")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration.

    Raises:
        ConfigError: it is not a positive number with a unit.

    >>> parse_duration("90s"), parse_duration("10m"), parse_duration("1.5h"), parse_duration("1h30m")
    (90.0, 600.0, 5400.0, 5400.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])\s*", text)
    seconds = sum(float(number) * SECONDS_PER_UNIT[unit] for number, unit in parts)
    if seconds <= 0 or not re.fullmatch(r"(\d+(\.\d+)?\s*[smhd]\s*)+", text):
        raise ConfigError("Invalid training time.", given=text, expected="a duration, such as 90s, 10m or 2h")
    return seconds


RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "steps batch_size accumulation_steps log_every validate_every checkpoint_every",
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        "lr_warmup grad_clip max_skipped_steps samples_every checkpoint_keep_every patience",
        lambda value: value >= 0,
        "0 or more",
    ),
    ("lr critic_lr", lambda value: value > 0, "more than 0"),
    ("beta1 critic_beta1 beta2 ema_decay", lambda value: 0 <= value < 1, "in [0, 1)"),
)
"""Options, what is valid, and in words."""


@dataclass(frozen=True)
class TrainOptions:
    """Training options."""

    steps: int = 10_000
    """Number of training steps, each of which updates encoder and decoder once."""
    batch_size: int = 128
    """Examples per batch and process."""
    accumulation_steps: int = 1
    """Number of equal chunks that a batch is split into to save memory; their gradients are averaged."""
    lr: float = 1e-3
    """Adam's learning rate for encoder and decoder."""
    critic_lr: float = 1e-3
    """Adam's learning rate for critics."""
    beta1: float = 0.9
    """Adam's β₁ for encoder and decoder."""
    critic_beta1: float = 0.9
    """Adam's β₁ for critics."""
    beta2: float = 0.999
    """Adam's β₂ for all players."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rates: constant, or a half cosine that ends at 1 % of the rate."""
    lr_warmup: int = 0
    """Steps over which the learning rates increase linearly from zero."""
    grad_clip: float = 0.0
    """Maximum norm of each player's gradient; 0 for no clipping."""
    max_skipped_steps: int = 0
    """Maximum number of updates skipped because of non-finite losses or gradients before training stops. Meant for
    flows: their scales multiply, and one sample of millions can overflow."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which evaluation uses; 0 for no averaging."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of the networks; likelihoods and log ratios stay in fp32. "auto" is bf16 if the device supports it."""
    backend: Literal["auto", "eager", "compile", "cuda-graph"] = "auto"
    """How steps are executed: eagerly, compiled, or as a CUDA graph; "auto" selects by device, operation count and
    number of steps. All give the same results within rounding. A resumed run keeps its backend."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    validate_every: int = 500
    """Steps between two validations."""
    samples_every: int = 1000
    """Steps between two sample grids; 0 for none."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    checkpoint_keep_every: int = 0
    """Steps between two checkpoints that are never replaced; 0 for none."""
    patience: int = 0
    """Stop after this many validations without improvement, and keep the best weights; 0 for no early stopping. The
    criterion is the ELBO for methods without critics, otherwise the reconstruction error. Validations during warm-up
    do not count."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (extra: tensorboard)."""

    def __post_init__(self) -> None:
        for names, is_valid, expected in RANGES:
            for name in names.split():
                if not is_valid(value := getattr(self, name)):
                    raise ConfigError(f"train.{name} is out of range.", given=value, expected=expected)
        if self.batch_size % self.accumulation_steps:
            raise ConfigError(
                "train.batch_size is not a multiple of train.accumulation_steps.",
                given=f"{self.batch_size} and {self.accumulation_steps}",
            )
