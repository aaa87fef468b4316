"""Critic training for implicit families: inputs, updates and final log ratios."""

from __future__ import annotations

import torch
from torch import Tensor

from advae.density_ratio import logistic_contrast
from advae.errors import NoDensityError
from advae.inference.adaptive_contrast import GaussianContrast
from advae.inference.affine_map import AffineMap
from advae.inference.critic import PosteriorCritic, clamp_log_ratio
from advae.inference.ensemble import ModuleEnsemble
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import log_prob_in_u
from advae.inference.target import Target
from advae.training.optimizers import PlayerOptimizer
from advae.training.train_options import TrainOptions

OFFSET_DECAY = (
    0.02  # fraction by which c moves per step to the current mean of log p − log r over samples of q
)


class CriticTrainer:
    """The critics of all fits.

    Args:
        target: the target.
        options: of inference.
        train_options: learning rates.
        nonfinite_flag: see :class:`PlayerOptimizer`.

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

    # --- state --------------------------------------------------------------------------------------------------

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
