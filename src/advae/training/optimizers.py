"""Adam for each player, gradient clipping and learning rate schedules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from advae.methods import Method
from advae.model import LatentModel
from advae.training.train_options import TrainOptions

FINAL_LR_SCALE = 0.01  # of the cosine schedule, relative to the initial learning rate


class PlayerOptimizer:
    """Adam over one player's parameters.

    Args:
        name: of the player.
        parameters: of the player.
        options: learning rates and betas, those of "model" or those of critics.
        nonfinite_flag: a scalar on the device; updates have no effect while it is not zero.
    """

    def __init__(
        self, name: str, parameters: list[nn.Parameter], options: TrainOptions, nonfinite_flag: Tensor
    ) -> None:
        self.name, self.parameters, self.grad_clip = name, parameters, options.grad_clip
        self.lr = options.lr if name == "model" else options.critic_lr
        beta1 = options.beta1 if name == "model" else options.critic_beta1
        device = parameters[0].device
        # On a GPU the rate is a tensor, which a captured CUDA graph reads at every replay.
        lr = torch.tensor(self.lr, dtype=torch.float32, device=device) if device.type == "cuda" else self.lr
        self.optimizer = torch.optim.Adam(
            parameters, lr=lr, betas=(beta1, options.beta2), fused=device.type != "mps"
        )
        # The fused update reads `found_inf` on the device, so no step waits for the host. This is GradScaler's private
        # contract with fused optimizers; tests/training/test_optimizers.py pins it.
        self.optimizer.found_inf = nonfinite_flag  # type: ignore[attr-defined]

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient, a scalar on the device."""
        return get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)

    def make_capturable(self) -> None:
        """Allow the update to be captured in a CUDA graph; PyTorch warns if it is allowed but never captured."""
        for group in self.optimizer.param_groups:
            group["capturable"] = True

    def set_lr_scale(self, scale: float) -> None:
        """Set the learning rate of the next updates to ``scale`` times the configured one."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(self.lr * scale)
            else:
                group["lr"] = self.lr * scale

    def update(self, norm: Tensor) -> None:
        """Clip the gradient, whose norm is ``norm``, take one Adam step and clear the gradient."""
        if self.grad_clip:
            clip_grads_with_norm_(self.parameters, self.grad_clip, norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors by ``INDEX.NAME``."""
        states = self.optimizer.state_dict()["state"]
        return {f"{i}.{key}": value for i, state in states.items() for key, value in state.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            parameter = self.parameters[int(index)]
            if value.shape == parameter.shape:  # the fused update requires the parameter's memory layout
                value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
            states.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})


def make_optimizers(
    model: LatentModel, method: Method, options: TrainOptions, nonfinite_flag: Tensor
) -> dict[str, PlayerOptimizer]:
    """Return an optimizer for each player of the method."""
    return {
        name: PlayerOptimizer(name, method.parameters(model, name), options, nonfinite_flag)
        for name in method.players
    }


def compute_lr_scale(options: TrainOptions, step: int) -> float:
    """Return the learning rate at ``step``, counted from 0, relative to the configured one."""
    scale = min(1.0, (step + 1) / options.lr_warmup) if options.lr_warmup else 1.0
    if options.lr_schedule == "cosine":
        fraction = min(1.0, step / max(1, options.steps))
        scale *= FINAL_LR_SCALE + (1 - FINAL_LR_SCALE) * 0.5 * (1 + math.cos(math.pi * fraction))
    return scale
