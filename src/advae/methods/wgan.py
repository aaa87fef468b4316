"""Wasserstein GAN with a gradient penalty (Gulrajani et al. 2017).

    x         data                                          [B, *x_shape]
    z, x_p    a latent code from the prior, x_p ~ p(x|z)    [B, d], [B, *x_shape]
    x̂         a point between x and x_p                     [B, *x_shape]
    f         critic: a potential, not a log ratio          [B]

    (2)       min_θ max_f   E_q(x)[f(x)] − E_p(x)[f(x)],   f with Lipschitz constant 1
    (3)       min_f         E_p(x)[f(x)] − E_q(x)[f(x)] + λ E[(‖∇f(x̂)‖ − 1)²]
    alg. 1    x̂ = ε x + (1 − ε) x_p,   ε ~ U(0, 1), one per pair

The maximum of (2) is the Wasserstein distance between data and samples, in the units of x. f is known up to a
constant: a bias of its last layer has no effect, its sign has no meaning, and accuracy at 0, saturation and
calibration are not defined. The reported accuracy is how often f(x) > f(x_p): one half where f cannot tell them apart.

The penalty concerns each example's gradient. With batch normalization f at one point depends on the others, so a
critic with batch normalization is refused; layer normalization is the paper's replacement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from advae.density_ratio import input_gradient
from advae.errors import ConfigError
from advae.methods.base import (
    METHODS,
    CriticSpec,
    Losses,
    Method,
    Players,
    Weight,
    is_active,
    sample_for_critic,
)
from advae.model import LatentModel
from advae.networks.base import check_no_batchnorm, critic_of_x


def interpolate(x: Tensor, x_p: Tensor) -> Tensor:
    """Sample ``x̂ [B, *x_shape]``, detached, uniformly between each ``x_p`` and its ``x`` (algorithm 1, line 6)."""
    epsilon = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
    return (epsilon * x + (1 - epsilon) * x_p).detach()


@METHODS.register("wgan-gp")
@dataclass(frozen=True)
class WGANGP(Method):
    """A generator that follows the gradient of a critic with slope near 1."""

    penalty: float = 10.0
    """λ, the weight of the gradient penalty."""

    paper: ClassVar[str] = "Gulrajani et al. 2017"
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": ("decoder",), "critic": ("critic",)}

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        return {"critic": CriticSpec("q(x)", "p(x)", inputs="x", log_ratio=False)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalty > 0:
            raise ConfigError(
                "method.penalty must be above 0: without it f is unbounded.", given=self.penalty
            )

    def check(self, model: LatentModel) -> None:
        """Check also that the critic has no batch normalization."""
        check_no_batchnorm(model.critics)
        super().check(model)

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        critic = model.critics["critic"]
        x_p = sample_for_critic(model, len(x), players)
        f_p = critic_of_x(critic, x_p)
        losses = Losses(diagnostics={})
        if is_active(players, "model"):
            losses["model"] = -f_p  # (2), the part that depends on θ
        if is_active(players, "critic"):
            f_q = critic_of_x(critic, x)
            gradient = input_gradient(partial(critic_of_x, critic), interpolate(x, x_p))
            norm = torch.linalg.vector_norm(gradient, dim=1)  # its derivative at 0 is 0, not NaN
            losses["critic"] = f_p - f_q + self.penalty * (norm - 1).square()  # (3)
            losses.diagnostics = potential_diagnostics(f_q.detach(), f_p.detach(), norm.detach())
        return losses


def potential_diagnostics(f_q: Tensor, f_p: Tensor, norm: Tensor) -> dict[str, Tensor]:
    """Return the diagnostics of a potential at data and samples, ``[B]`` each."""
    accuracy = 0.5 * (1 + torch.sign(f_q - f_p))
    return {"critic/accuracy": accuracy, "critic/distance": f_q - f_p, "critic/slope": norm}
