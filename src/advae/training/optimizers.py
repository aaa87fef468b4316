"""Each player's optimiser, the course of the learning rates, and the average of the model's weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from advae.methods import Method
from advae.model import LatentModel
from advae.training.train_options import TrainOptions

FINAL_RATE = 0.01  # where the cosine ends, as a share of the rate


class Player:
    """One player's parameters and their Adam.

    Args:
        name: as the method calls it.
        parameters: what it may move.
        options: rates and β's; the model has its own, all critics share theirs.
        halt: a flag on the device; while it is not zero, updates do nothing.
    """

    def __init__(
        self, name: str, parameters: list[nn.Parameter], options: TrainOptions, halt: Tensor
    ) -> None:
        self.name, self.parameters, self.clip = name, parameters, options.grad_clip
        self.rate = options.lr if name == "model" else options.critic_lr
        beta1 = options.beta1 if name == "model" else options.critic_beta1
        device = parameters[0].device
        # On a GPU the rate is a number there, so that a captured step reads the rate of the day.
        rate = torch.tensor(self.rate, device=device) if device.type == "cuda" else self.rate
        self.optimiser = torch.optim.Adam(
            parameters,
            lr=rate,
            betas=(beta1, options.beta2),
            fused=device.type != "mps",
        )
        # The fused update reads this flag on the device: no step waits for the host to have looked at it.
        self.optimiser.found_inf = halt  # type: ignore[attr-defined]

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient, a scalar on the device."""
        return get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)

    def allow_capture(self) -> None:
        """Let the optimiser be recorded in a CUDA graph; torch warns of one that may be and never is."""
        for group in self.optimiser.param_groups:
            group["capturable"] = True

    def set_rate(self, share: float) -> None:
        """Let the next updates go at ``share`` of the rate."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.rate * share)
            else:
                group["lr"] = self.rate * share

    def update(self, norm: Tensor) -> None:
        """One step of Adam, with the gradient of this norm clipped; then forget the gradient."""
        if self.clip:
            clip_grads_with_norm_(self.parameters, self.clip, norm, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by ``INDEX.NAME``."""
        states = self.optimiser.state_dict()["state"]
        return {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            if (
                value.shape == parameter.shape
            ):  # laid out in memory as its parameter: the fused update asks for it
                value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            states.setdefault(int(index), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})


def make_players(
    model: LatentModel, method: Method, options: TrainOptions, halt: Tensor
) -> dict[str, Player]:
    """The method's players with their optimisers, the model's last in an alternating update."""
    return {name: Player(name, method.parameters(model, name), options, halt) for name in method.players}


def rate_share(options: TrainOptions, step: int) -> float:
    """The learning rate at ``step`` (from 0) as a share of the full one."""
    share = min(1.0, (step + 1) / options.lr_warmup) if options.lr_warmup else 1.0
    if options.lr_schedule == "cosine":
        done = min(1.0, step / max(1, options.steps))
        share *= FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done))
    return share


class Average:
    """Exponential moving average of a model's weights: what evaluation and users get.

    Early on the decay is ``(1 + t) / (10 + t)``, so that the first, random weights are soon forgotten.
    Buffers (statistics of batch and spectral normalisation) are copied. With decay 0 it follows the model.
    """

    def __init__(self, model: LatentModel, decay: float) -> None:
        self.decay, self.source = decay, model
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._mine: list[Tensor] = list(self.model.parameters())
        self._theirs: list[Tensor] = list(model.parameters())
        self._share: float | Tensor = 1.0  # how far it moves; on a GPU a number there, for a captured step
        if self._mine and self._mine[0].device.type == "cuda":
            self._share = torch.ones((), device=self._mine[0].device)
        self._buffers: list[tuple[list[Tensor], list[Tensor]]] = _by_type(model, self.model)

    def set_share(self, step: int) -> None:
        """Settle how far the next :meth:`move` goes: that after ``step`` (from 0)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        if isinstance(self._share, Tensor):
            self._share.fill_(share)
        else:
            self._share = share

    @torch.no_grad()
    def move(self) -> None:
        """Go towards the model's weights."""
        if isinstance(self._share, Tensor):
            way = torch._foreach_sub(self._theirs, self._mine)
            torch._foreach_mul_(way, self._share)
            torch._foreach_add_(self._mine, way)
        else:
            torch._foreach_lerp_(self._mine, self._theirs, self._share)
        for mine, theirs in self._buffers:
            torch._foreach_copy_(mine, theirs)

    def update(self, step: int) -> None:
        """Move towards the model's weights after ``step`` (from 0)."""
        self.set_share(step)
        self.move()


def _by_type(source: LatentModel, copied: LatentModel) -> list[tuple[list[Tensor], list[Tensor]]]:
    """The buffers of a copy and of its source, those of one type together: each is copied by one call."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for mine, theirs in zip(copied.buffers(), source.buffers(), strict=True):
        group = groups.setdefault(mine.dtype, ([], []))
        group[0].append(mine)
        group[1].append(theirs)
    return list(groups.values())
