"""Adaptive contrast for one posterior: samples of q against a normal of their own moments.

Mescheder, Nowozin and Geiger 2017, algorithm 2:

    u        samples of q                                        [F, n, d]
    ū        u, whitened by the moments of the batch             [F, n, d]
    η        samples of N(0, I)                                  [F, n, d]
    T        critic: log q(u) / r(u)                             [F, n]

    (3.3)    max_T   E_q[log σ(T(ū))] + E_η[log σ(−T(η))]
    alg. 2   max_q   E_q[log p(u) − T(ū) − log r(u)],            r = N(E u, Cov u)

:mod:`advae.methods.avb` has separate moments for every observation; here all samples of a fit share one factor. A batch
is whitened by its own moments. For ``u = A ε`` the mean gradient of log r is then exactly the gradient of the entropy,
``A⁻ᵀ``, for any number of samples.

The critic is given the target density and learns only how q differs from it:

    T(u) = a κ(u) + t(ū, κ)            at the optimum log q(u) / r(u)
    κ    = log p(u) − log r(u) − c     known except for the constant c; clamped to [MIN_LOG_RATIO, MAX_LOG_RATIO]
    a    a learned number              from 0 (q = r) to 1 (q = p up to its normalizer)

At first q equals its normal r and the log ratio is zero. When q reaches the posterior, log q/r equals κ up to a
constant, and again nothing remains to be learned. A critic without κ must represent the whole posterior in a network
that knows nothing of its scales (measured in docs/reference/inference.md).

κ is clamped below because samples of r reach places where p is e^−1000 of itself; there T is t alone. It is clamped
above only at MAX_LOG_RATIO: in a heavy tail p is far above r and log r falls quadratically, so that with a small upper
limit samples would be rewarded for moving outward. The input of t is clamped at MAX_INPUT_LOG_RATIO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from advae.density_ratio import logistic_contrast
from advae.errors import NoDensityError
from advae.inference.ensemble import ModuleEnsemble
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import AffineMap, log_prob_in_u, normal_log_prob
from advae.inference.target import Target
from advae.networks.mlp import ResidualCritic
from advae.training.optimizers import PlayerOptimizer
from advae.training.train_options import TrainOptions

JITTER = 1e-6  # added to variances, which are about 1
MIN_LOG_RATIO, MAX_INPUT_LOG_RATIO = -15.0, 10.0  # nats: beyond, a logistic critic is saturated anyway
MAX_LOG_RATIO = 100.0  # nats: prevents overflow
INPUT_SCALE = 0.1  # brings κ as an input of t to the scale of ū
OFFSET_DECAY = 0.02  # fraction by which c moves per step to the mean of log p − log r over samples of q


@dataclass(frozen=True)
class GaussianContrast(AffineMap):
    """The normal r of each fit: the map from η ~ N(0, I) to ``u ~ r``, ``[F, …]``."""

    @classmethod
    @torch.no_grad()
    def from_batch(cls, u: Tensor, full_covariance: bool) -> Self:
        """Return the normals with the moments of ``u [F, n, d]``, without gradients."""
        mean = u.mean(1)
        centered = u - mean.unsqueeze(1)
        if full_covariance:
            cov = centered.mT @ centered / u.shape[1]
        else:
            cov = torch.diag_embed(centered.square().mean(1))
        eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        return cls(mean, torch.linalg.cholesky_ex(cov + JITTER * eye).L)

    def whiten(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``ū [F, n, d]`` and ``log r(u) [F, n]``; gradients flow through u only."""
        whitened = self.inverse(u)
        return whitened, normal_log_prob(whitened, self.log_volume.unsqueeze(-1))


class PosteriorCritic(nn.Module):
    """One critic of vectors of length ``d``, with ``blocks`` residual blocks of ``width`` in the network t."""

    def __init__(self, d: int, width: int, blocks: int) -> None:
        super().__init__()
        self.residual = ResidualCritic((1,), (d,), width=width, num_blocks=blocks)
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, known: Tensor, whitened: Tensor) -> Tensor:
        """Return ``T [n]`` for ``κ [n]`` and ``ū [n, d]``."""
        known_input = known.clamp(max=MAX_INPUT_LOG_RATIO).unsqueeze(-1)
        return self.residual(INPUT_SCALE * known_input, whitened) + self.slope * known


def clamp_log_ratio(log_ratio: Tensor) -> Tensor:
    """Return ``κ`` for ``log p − log r − c``; no gradient passes where it is clamped."""
    finite = torch.nan_to_num(log_ratio, nan=MIN_LOG_RATIO, neginf=MIN_LOG_RATIO)
    return finite.clamp(MIN_LOG_RATIO, MAX_LOG_RATIO)


class CriticTrainer:
    """The critics of all fits, and their updates.

    Attributes:
        contrast: the normals r of the final q; None until q is final.
        diagnostics: of the last batch, ``[F]`` by name.
    """

    def __init__(
        self, target: Target, options: InferOptions, train_options: TrainOptions, nonfinite_flag: Tensor
    ) -> None:
        self.target = target
        self.full_covariance, self.uses_target = options.contrast == "full", options.known == "target"
        d, width, blocks = target.space.dim, options.critic_width, options.critic_blocks
        placement = target.device, target.dtype
        self.critic = ModuleEnsemble(lambda: PosteriorCritic(d, width, blocks), options.fits).to(*placement)
        self.player = PlayerOptimizer("critic", self.critic.parameters(), train_options, nonfinite_flag)
        self.offset = torch.zeros(options.fits).to(*placement)
        self.contrast: GaussianContrast | None = None
        self.diagnostics: dict[str, Tensor] = {}

    def batch_contrast(self, u: Tensor) -> GaussianContrast:
        """Return ``r`` for samples ``u [F, n, d]``."""
        return GaussianContrast.from_batch(u, self.full_covariance)

    def track_offset(self, log_p: Tensor, log_r: Tensor, *, first: bool) -> None:
        """Move c towards the mean of ``log p − log r``; at the first step, to it."""
        self.offset = self.offset.lerp((log_p - log_r).detach().mean(1), 1.0 if first else OFFSET_DECAY)

    def known_log_ratio(self, log_p: Tensor, log_r: Tensor) -> Tensor:
        """Return ``κ [F, n]`` for log densities ``[F, n]``; zero if the critic is not given the target."""
        if not self.uses_target:
            return torch.zeros_like(log_p)
        return clamp_log_ratio(log_p - log_r - self.offset.unsqueeze(1))

    @torch.no_grad()
    def sample_contrast(
        self, affine: AffineMap, r: GaussianContrast, power: float, n: int
    ) -> tuple[Tensor, Tensor]:
        """Return ``η [F, n, d]``, whitened samples of r, and ``κ [F, n]`` at them."""
        eta = torch.randn(*r.mean.shape, n, dtype=torch.float32).to(r.mean).mT.contiguous()
        if not self.uses_target:
            return eta, torch.zeros_like(eta[..., 0])
        u = r(eta)
        return eta, self.known_log_ratio(log_prob_in_u(self.target, affine, u, power), r.whiten(u)[1])

    def log_ratio_fixed(self, known: Tensor, whitened: Tensor) -> Tensor:
        """Return ``T [F, n]`` with constant weights: for the gradient of q."""
        return self.critic(known, whitened, weights=self.critic.detached_weights())

    def update(
        self, whitened_q: Tensor, known_q: Tensor, whitened_r: Tensor, known_r: Tensor, lr_scale: float
    ) -> None:
        """Update the critics once, from whitened samples of q and of r, and κ at them."""
        whitened, known = torch.cat([whitened_q, whitened_r], 1), torch.cat([known_q, known_r], 1)
        t_q, t_r = self.critic(known, whitened).chunk(2, 1)
        contrast = logistic_contrast(t_q, t_r)
        loss = contrast.loss.mean(1).sum()
        loss.backward(inputs=self.player.parameters)
        self.player.set_lr_scale(lr_scale)
        self.player.update(loss)
        self.diagnostics = {name: value.mean(1) for name, value in contrast.diagnostics("critic").items()}

    @torch.no_grad()
    def final_log_ratios(self, affine: AffineMap, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the final critics' ``T`` and ``log r`` at ``u [F, n, d]``, from all data: ``[F, n]`` each.

        Raises:
            NoDensityError: training has not reached its last phase.
        """
        if self.contrast is None:
            raise NoDensityError("These fits have no final critic.", fix="train them to the end")
        whitened, log_r = self.contrast.whiten(u)
        log_p = log_prob_in_u(self.target, affine, u, 1.0, all_rows=True) if self.uses_target else log_r
        return self.critic(self.known_log_ratio(log_p, log_r), whitened), log_r

    def state(self) -> dict[str, Tensor]:
        """Return everything that a step depends on, by slash-separated key."""
        tensors = {"offset": self.offset}
        tensors |= {f"weights/{key}": weight.detach() for key, weight in self.critic.weights.items()}
        tensors |= {f"optimizer/{key}": value for key, value in self.player.state().items()}
        if self.contrast is not None:
            tensors |= {"contrast/mean": self.contrast.mean, "contrast/factor": self.contrast.factor}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        self.offset = tensors["offset"]
        self.critic.load_weights(strip_prefix(tensors, "weights/"))
        if optimizer_state := strip_prefix(tensors, "optimizer/"):
            self.player.load_state(optimizer_state)
        if contrast := strip_prefix(tensors, "contrast/"):
            self.contrast = GaussianContrast(**contrast)


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose key begins with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
