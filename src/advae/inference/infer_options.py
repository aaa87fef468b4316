"""Options of black-box inference, importable without torch so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from advae.errors import ConfigError, nearest

Family = Literal["implicit", "noise-basis", "mean-field", "full-rank", "flow"]
FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True)
class InferOptions:
    """How a posterior is fitted."""

    family: Family = "implicit"
    """Variational family: implicit (network of noise), noise-basis (sum of networks of noise), mean-field (diagonal
    normal), full-rank (normal), or flow (inverse autoregressive flow)."""
    fits: int = 4
    """Number of independent fits, run in one batch and kept apart like chains."""
    steps: int = 3000
    """Number of updates of q, after the preconditioner is fitted."""
    samples_per_step: int = 256
    """Samples of q per fit and step; with the full contrast at least 4 per coordinate."""
    lr: float = 1e-3
    """Adam's learning rate for q, with a cosine schedule; the normal families use 0.02."""
    critic_lr: float = 3e-3
    """Adam's learning rate for the critic, with a cosine schedule."""
    critic_steps: int = 2
    """Critic updates per update of q, each with new samples."""
    contrast: Literal["full", "diagonal"] = "full"
    """Covariance of the normal that the critic contrasts q with: full or diagonal."""
    known: Literal["target", "none"] = "target"
    """What the critic is given: the log density of the target, or none (the paper's critic)."""
    hidden: tuple[int, ...] = (64, 64)
    """Layer widths of the networks of noise and of the flow's masked networks."""
    noise_dim: int = 10
    """Noise variables of the implicit family in addition to one per coordinate."""
    critic_width: int = 64
    """Layer width of the critic."""
    critic_blocks: int = 1
    """Number of residual blocks of the critic."""
    initial_power: float = 0.3
    """Power of the log joint at the start (an inverse temperature): below 1 the target is wider and its modes are
    connected; 1 disables annealing."""
    minibatch_size: int = 0
    """Rows of the data per step; 0 for all."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type: float32 or float64."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(hint)
            if get_origin(hint) is Literal and value not in choices:
                raise ConfigError(f"Option {name} has no value {value!r}.", fix=nearest(str(value), choices))
            if hint in (int, float):
                kind, expected = (Integral, "an integer") if hint is int else (Real, "a number")
                self._require(name, isinstance(value, kind) and not isinstance(value, bool), expected)
        hidden: Any = self.hidden
        is_list = isinstance(hidden, tuple | list) and all(isinstance(n, Integral) for n in hidden)
        self._require("hidden", is_list, "a list of integers")
        object.__setattr__(self, "hidden", tuple(hidden))
        for name in ("fits", "steps", "critic_steps", "critic_width"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("noise_dim", "critic_blocks", "minibatch_size"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("samples_per_step", self.samples_per_step >= 8, "at least 8")
        for name in ("lr", "critic_lr"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        self._require("initial_power", 0 < self.initial_power <= 1, "more than 0, at most 1")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            given = repr(getattr(self, name))
            raise ConfigError(f"Option {name} is out of range.", given=given, expected=expected)

    @property
    def has_critic(self) -> bool:
        """Whether the family has no density, so that a critic estimates its log ratio to a normal."""
        return self.family in ("implicit", "noise-basis")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> InferOptions:
        """Create options from a mapping.

        Raises:
            ConfigError: an option does not exist; the message names the nearest one.
        """
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                raise ConfigError(f"Inference has no option {name!r}.", fix=nearest(name, names))
        return cls(**options)
