"""Options of black-box inference, read without importing torch so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from advae.errors import ConfigError, nearest

Family = Literal["implicit", "noise-basis", "mean-field", "full-rank", "flow"]
FAMILIES: tuple[str, ...] = get_args(Family)


@dataclass(frozen=True)
class InferOptions:
    """How a posterior is fitted."""

    family: Family = "implicit"
    """What q(z) may be: a network of noise (implicit), a sum of networks of noise (noise-basis), a normal with a
    diagonal (mean-field) or full (full-rank) covariance, or an inverse autoregressive flow (flow)."""
    fits: int = 4
    """Independent fits, run in one batch and kept apart like chains."""
    steps: int = 3000
    """Updates of q(z) after it was located."""
    batch: int = 256
    """Draws of each fit in a step; with the full contrast never fewer than 4 for each coordinate."""
    rate: float = 1e-3
    """Adam's learning rate for q(z), down a half cosine."""
    critic_rate: float = 3e-3
    """Adam's learning rate for the critic, down a half cosine."""
    critic_steps: int = 2
    """Critic updates for each update of q(z), each on draws of its own."""
    contrast: Literal["full", "diagonal"] = "full"
    """The normal that the critic contrasts q(z) with: its own mean and its full or diagonal covariance."""
    known: Literal["target", "none"] = "target"
    """What the critic is told: the density of the target, or nothing (the paper's critic)."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the networks that turn noise into draws (and of the flow's masked networks)."""
    noise: int = 10
    """Noise numbers of the implicit family beside as many as there are coordinates."""
    critic_width: int = 64
    """Width of the critic."""
    critic_blocks: int = 1
    """Residual blocks of the critic, which start at zero."""
    temper: float = 0.3
    """The power of the log joint that q(z) is located under and starts from; 1 for none. Below 1 the target is wider,
    and modes hang together."""
    minibatch: int = 0
    """Rows of the data in a step; 0 for all."""
    dtype: Literal["float32", "float64"] = "float32"
    """Arithmetic of everything."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            known = get_args(hint)
            if known and all(isinstance(k, str) for k in known) and getattr(self, name) not in known:
                given = getattr(self, name)
                raise ConfigError(f"there is no {name} {given!r}", remedy=nearest(str(given), known))
        for name in ("fits", "steps", "critic_steps", "critic_width"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("noise", "critic_blocks", "minibatch"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("batch", self.batch >= 8, "8 or more")
        for name in ("rate", "critic_rate"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        self._require("temper", 0 < self.temper <= 1, "above 0, at most 1")
        object.__setattr__(self, "hidden", tuple(self.hidden))

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(
                f"the option {name} has an impossible value", given=getattr(self, name), expected=expected
            )

    @property
    def has_critic(self) -> bool:
        """Whether the family has no density, so that a critic stands in for it."""
        return self.family in ("implicit", "noise-basis")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def of(cls, given: dict[str, Any]) -> InferOptions:
        """From a mapping.

        Raises:
            ConfigError: an option that is not known, with the nearest.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(f"inference has no option {name!r}", remedy=nearest(name, known))
        return cls(**given)
