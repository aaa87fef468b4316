"""What was fitted: draws of it, their density, its bounds and its evidence. Checks and formats are made of these."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advae.data import mix
from advae.errors import ConfigError
from advae.evaluation.estimate import Estimate, Estimates, mean_and_error
from advae.evaluation.resumable import Ticks, unseen
from advae.inference.evidence import Annealed, evidence
from advae.inference.fit import Fit
from advae.inference.infer_options import InferOptions
from advae.inference.target import Target
from advae.model import seeded

if TYPE_CHECKING:
    from advae.inference.hmc_reference import Reference

AT_ONCE = 4096  # draws of each fit at a time
BOUND_DRAWS = 4000  # of each fit, for its bound
NORMAL_DRAWS = 2000  # of each fit, for the normal that annealing starts from

LogLikelihood = Callable[..., Tensor]


class Fitted:
    """``F`` fits of q to one target, kept apart like chains.

    Args:
        fit: finished.
        log_likelihood: constrained parameters by name to ``log p(y_i | θ) [S, N]``, for ArviZ; None for none.

    Attributes:
        history: the bound of every fit over the steps, as ``(step, [F] nats)``.
        seconds: time that it took.
        reference: draws by Hamiltonian Monte Carlo to set beside it, if any.
        baselines: normals fitted to the same target, by name, to set beside it.
    """

    def __init__(self, fit: Fit, log_likelihood: LogLikelihood | None = None) -> None:
        self._fit, self.log_likelihood = fit, log_likelihood
        self.history: list[tuple[int, list[float]]] = []
        self.seconds = 0.0
        self.reference: Reference | None = None
        self.baselines: dict[str, Fitted] = {}
        self._evidence: Estimate | None = None

    @property
    def target(self) -> Target:
        """What it is fitted to."""
        return self._fit.target

    @property
    def options(self) -> InferOptions:
        """How it was fitted."""
        return self._fit.options

    @property
    def seed(self) -> int:
        """Of everything random."""
        return self._fit.seed

    @property
    def fits(self) -> int:
        """How many fits."""
        return self._fit.options.fits

    def __repr__(self) -> str:
        names = ", ".join(self.target.space.names)
        return f"{type(self).__name__}({names}; family {self.options.family!r}, {self.fits} fits, seed {self.seed})"

    # --- draws --------------------------------------------------------------------------------------------------

    def sample(self, n: int = 1000, *, chains: bool = False, seed: int | None = None) -> dict[str, Tensor]:
        """Draws by name, ``[n, *shape]``, as many of every fit (but for a remainder), one fit after the other.

        Args:
            n: how many in all.
            chains: kept apart by fit, ``[F, n / F, *shape]``, for which n is rounded up.
            seed: of the draws; that of the fit by default, so that the same call gives the same draws.

        Raises:
            ConfigError: n is no positive number.
        """
        if n < 1:
            raise ConfigError("a sample has draws", given=n, expected="1 or more")
        z = self.unconstrained(-(-n // self.fits), seed=seed)
        if not chains:
            order = torch.arange(z.shape[0] * z.shape[1]).reshape(z.shape[:2])
            kept = order.T.flatten()[:n].sort().values  # an equal share of every fit
            z = z.flatten(0, 1)[kept.to(z.device)]
        return self.target.space.constrained(z)[0]

    def unconstrained(self, n: int, *, seed: int | None = None) -> Tensor:
        """``z [F, n, d]``, n draws of every fit."""
        return self.drawn(n, seed=seed)[0]

    @torch.no_grad()
    def drawn(self, n: int, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """``z [F, n, d]`` and ``log q(z) [F, n]``: the density, or the critic's estimate of it.

        Raises:
            NoDensityError: the family has no density, and its critic was not trained to the end.
        """
        fit, found = self._fit, []
        with seeded(mix(self.seed if seed is None else seed, 3), self.target.device):
            for start in range(0, n, AT_ONCE):
                u, *log_q = fit.q(n=min(AT_ONCE, n - start), weights=fit.average)
                found.append((fit.place.z(u), log_q[0] if log_q else self._estimated(u)))
        z, log_q_u = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return z, log_q_u - fit.place.log_volume.unsqueeze(1)

    def _estimated(self, u: Tensor) -> Tensor:
        """The critic's ``log q(u) = T(u) + log r(u)``, ``[F, n]``."""
        assert self._fit.game is not None
        T, log_r = self._fit.game.ratios(self._fit.place, u)
        return T + log_r

    @torch.no_grad()
    def log_ratios(self, n: int, *, seed: int | None = None) -> tuple[Tensor, Tensor] | None:
        """The critic's log ratio at n draws of q and at n of its normals, ``[F, n]`` each; None without a critic."""
        fit, game = self._fit, self._fit.game
        if game is None or game.moments is None:
            return None
        with seeded(mix(self.seed if seed is None else seed, 4), self.target.device):
            (u,) = fit.q(n=n, weights=fit.average)
            r = game.moments
            from_r = r.mean.unsqueeze(1) + torch.randn_like(u) @ r.factor.mT
            return game.ratios(fit.place, u)[0], game.ratios(fit.place, from_r)[0]

    # --- figures ------------------------------------------------------------------------------------------------

    def log_weights(self, n: int, *, seed: int | None = None) -> Tensor:
        """``log p(z) − log q(z) [F, n]`` at draws of q, by all of the data."""
        z, log_q = self.drawn(n, seed=seed)
        with torch.no_grad():
            log_p = torch.cat([self.target(part) for part in z.flatten(0, 1).split(AT_ONCE)])
        return log_p.reshape(log_q.shape) - log_q

    def bounds(self) -> Estimates:
        """The bound on log p(data) that every fit reached, in nats; an adversarial estimate where a critic is in it."""
        critic = self.options.has_critic
        name, kind = ("bound (critic)", "adversarial estimate") if critic else ("bound", "lower bound")
        found = []
        for i, weights in enumerate(self.log_weights(BOUND_DRAWS)):
            value, stderr = mean_and_error(weights.cpu())
            protocol = {"family": self.options.family, "fit": i, "draws": BOUND_DRAWS, "seed": self.seed}
            found.append(Estimate(f"{name}, fit {i}", value, stderr, kind, "nats", BOUND_DRAWS, protocol))  # type: ignore[arg-type]
        return Estimates(found)

    def log_evidence(
        self,
        options: Annealed | None = None,
        *,
        stage: Callable[[str, int], AbstractContextManager[Ticks]] = unseen,
    ) -> Estimate:
        """``log p(data)`` by annealed importance sampling, in nats: a lower bound in expectation, with its error.

        Args:
            options: how to anneal.
            stage: shows progress.
        """
        if self._evidence is None or options is not None:
            z = self.unconstrained(NORMAL_DRAWS).flatten(0, 1)
            options = options or Annealed()
            with stage("annealing", options.ticks) as tick:
                self._evidence = evidence(self.target, z, options, mix(self.seed, 5) % 2**31, tick)
        return self._evidence

    def score(self, z: Tensor) -> Tensor:
        """``∇ log p(z) [N, d]`` at ``z [N, d]``, by all of the data."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.target(z).sum(), z)
        return grad
