"""Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017).

    x         data                                  [B, *x_shape]
    z, x_p    a code from the prior, x_p ~ p(x|z)   [B, d], [B, *x_shape]
    x̂         a point between x and x_p             [B, *x_shape]
    f         critic: a potential, not a log ratio  [B]

    (2)       min_θ max_f   E_q(x)[f(x)] − E_p(x)[f(x)],   f of slope at most 1
    (3)       min_f         E_p(x)[f(x)] − E_q(x)[f(x)] + λ E[(‖∇f(x̂)‖ − 1)²]
    alg. 1    x̂ = ε x + (1 − ε) x_p,   ε ~ U(0, 1), one for each pair

The greatest value of (2) is the Wasserstein distance between data and samples, in the units of x. f is known up to a
constant: a bias of its last layer does nothing, its sign says nothing, and neither do accuracy at 0, saturation or
calibration. What is reported as accuracy is how often f puts x above x_p, one half where it cannot tell them apart.

The penalty is about each example's own slope. With batch normalisation f at one point depends on the others, so a
critic with it is refused; layer normalisation is the paper's replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.methods.base import METHODS, Losses, Method, wanted
from advae.model import LatentModel


def between(x: Tensor, x_p: Tensor) -> Tensor:
    """``x̂ [B, *x_shape]``, constants: on the lines from each ``x_p`` to its ``x``, uniformly (algorithm 1, line 6)."""
    epsilon = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
    return (epsilon * x + (1 - epsilon) * x_p).detach()


def slope(critic: nn.Module, x: Tensor) -> Tensor:
    """``‖∇f(x)‖ [B]``, itself with a gradient to the critic where gradients are recorded.

    Validation records none; the inner derivative is taken all the same.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(potential(critic, x).sum(), x, create_graph=recorded)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # its derivative at 0 is 0, not a NaN


def potential(critic: nn.Module, x: Tensor) -> Tensor:
    """``f(x) [B]``, in float32: the critic sees observations alone."""
    f: Tensor = critic(x, x.new_empty(len(x), 0))
    return f.float()


@METHODS.register("wgan-gp")
@dataclass(frozen=True)
class WGANGP(Method):
    """A generator that moves its samples to the data along the slope of a critic held near 1."""

    penalty: float = 10.0
    """λ, the weight of the gradient penalty."""

    paper: ClassVar[str] = "Gulrajani et al. 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",), "critic": ("critic",)}
    sides: ClassVar[dict[str, tuple[str, str]]] = {"critic": ("q(x)", "p(x)")}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalty > 0:
            raise ConfigError(
                "method.penalty must be more than 0: without it f has no bound", given=self.penalty
            )

    def check(self, model: LatentModel) -> None:
        """See also that the critic answers for each example alone."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.critics.modules()):
            raise ConfigError(
                "a gradient penalty needs a critic that answers for each example alone",
                given="a critic with batch normalisation",
                remedy="set model.critic.norm to layer or none",
            )
        super().check(model)

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        critic = model.critics["critic"]
        moving = torch.is_grad_enabled() and wanted(players, "model")
        with torch.set_grad_enabled(moving):  # a critic's own step needs samples, not their gradients
            x_p = model.decode(model.prior.rsample(x.shape[:1])).rsample()
        f_p = potential(critic, x_p)
        fooled = {"model": -f_p} if wanted(players, "model") else {}  # (2), the part that θ moves
        if not wanted(players, "critic"):
            return Losses(report={}, **fooled)
        f_q, norm = potential(critic, x), slope(critic, between(x, x_p))
        report = {
            "critic/accuracy": 0.5 * (1 + torch.sign(f_q - f_p)),
            "critic/distance": f_q - f_p,
            "critic/slope": norm,
        }
        return Losses(critic=f_p - f_q + self.penalty * (norm - 1).square(), report=report, **fooled)  # (3)
