"""The critic's side of a fit: what it is told, how it learns, and what it says of draws in the end."""

from __future__ import annotations

import torch
from torch import Tensor

from advae.density_ratio import logistic_contrast
from advae.errors import NoDensityError
from advae.inference.adaptive_contrast import Normals
from advae.inference.critic import Critic, held
from advae.inference.ensemble import Stack
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import Place, log_density
from advae.inference.target import Target
from advae.training.optimizers import Player
from advae.training.train_options import TrainOptions

OFFSET_RATE = 0.02  # by which c follows the bound: the mean of log p − log r over draws of q


class Game:
    """The critics of all fits.

    Args:
        target: what is fitted.
        options: how.
        course: rates.
        found: see :class:`Player`.

    Attributes:
        moments: the normals of the settled q, once it is.
        report: what the critics said of the last batch, ``[F]`` by name.
    """

    def __init__(self, target: Target, options: InferOptions, course: TrainOptions, found: Tensor) -> None:
        self.target, self.full, self.told = target, options.contrast == "full", options.known == "target"
        d, width, blocks = target.space.dim, options.critic_width, options.critic_blocks
        where = target.device, target.dtype
        self.critic = Stack(lambda: Critic(d, width, blocks), options.fits).to(*where)
        self.player = Player("critic", self.critic.parameters(), course, found)
        self.offset = torch.zeros(options.fits).to(*where)
        self.moments: Normals | None = None
        self.report: dict[str, Tensor] = {}

    def normals(self, u: Tensor) -> Normals:
        """``r`` of draws ``u [F, n, d]``."""
        return Normals.of(u, self.full)

    def follow(self, log_p: Tensor, log_r: Tensor, *, first: bool) -> None:
        """Let c follow the mean of ``log p − log r``."""
        self.offset = self.offset.lerp((log_p - log_r).detach().mean(1), 1.0 if first else OFFSET_RATE)

    def known(self, log_p: Tensor, log_r: Tensor) -> Tensor:
        """``κ [F, n]`` at draws, by their log densities."""
        return held(log_p - log_r - self.offset.unsqueeze(1)) if self.told else torch.zeros_like(log_p)

    @torch.no_grad()
    def noise(self, place: Place, r: Normals, power: float, n: int) -> tuple[Tensor, Tensor]:
        """``η [F, n, d]``, and ``κ`` there."""
        eta = torch.randn(*r.mean.shape, n).to(r.mean).mT.contiguous()
        if not self.told:
            return eta, torch.zeros_like(eta[..., 0])
        u = r.mean.unsqueeze(1) + eta @ r.factor.mT
        return eta, self.known(log_density(self.target, place, u, power), r.standardised(u)[1])

    def opinion(self, known: Tensor, bar: Tensor) -> Tensor:
        """``T [F, n]`` with the weights held fixed: q moves by what the critics say, not they."""
        return self.critic(known, bar, weights=self.critic.fixed())

    def learn(self, bar: Tensor, known_bar: Tensor, eta: Tensor, known_eta: Tensor, share: float) -> None:
        """One update of the critics, by draws of q and of r, standardised, and κ there."""
        both, known = torch.cat([bar, eta], 1), torch.cat([known_bar, known_eta], 1)
        t_p, t_q = self.critic(known, both).chunk(2, 1)
        contrast = logistic_contrast(t_p, t_q)
        total = contrast.loss.mean(1).sum()
        total.backward(inputs=self.player.parameters)
        self.player.set_rate(share)
        self.player.update(total)
        self.report = {name: value.mean(1) for name, value in contrast.report("critic").items()}

    @torch.no_grad()
    def ratios(self, place: Place, u: Tensor) -> tuple[Tensor, Tensor]:
        """The settled critics' ``T`` and ``log r`` at draws ``u [F, n, d]``, by all of the data: ``[F, n]`` each.

        Raises:
            NoDensityError: they have not settled.
        """
        if self.moments is None:
            raise NoDensityError("these fits have no settled critic", remedy="train them to the end")
        bar, log_r = self.moments.standardised(u)
        log_p = log_density(self.target, place, u, 1.0, whole=True) if self.told else log_r
        return self.critic(self.known(log_p, log_r), bar), log_r

    # --- state --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that a step depends on, by slash-named key."""
        found = {"offset": self.offset}
        found |= {f"weights/{key}": weight.detach() for key, weight in self.critic.weights.items()}
        found |= {f"optimiser/{key}": value for key, value in self.player.state().items()}
        if self.moments is not None:
            found |= {"moments/mean": self.moments.mean, "moments/factor": self.moments.factor}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        self.offset = tensors["offset"]
        self.critic.load(under(tensors, "weights/"))
        if states := under(tensors, "optimiser/"):
            self.player.load_state(states)
        if moments := under(tensors, "moments/"):
            self.moments = Normals(**moments)


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins so, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
