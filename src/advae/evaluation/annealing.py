"""Annealed importance sampling of log p(x) (Neal 2001; Wu et al. 2017), images × chains in one batch.

    f_t(z) = f_0(z)^(1−β_t) p(x, z)^β_t,    0 = β_0 < … < β_T = 1
    z_0 ~ f_0;   log w = Σ_t (β_t − β_{t−1}) (log p(x, z_{t−1}) − log f_0(z_{t−1}));   z_t: HMC on f_t from z_{t−1}
    log p(x) ≈ log 1/C Σ_c w_c

``w`` is unbiased for p(x), so by Jensen's inequality the estimate of log p(x) is a stochastic lower bound. ``f_0`` is
the prior, or a normal with the moments of q(z|x), which works for encoders without a density too.

Step sizes are tuned for each image by a pilot run of chains of their own, at temperatures of its own, and then
frozen: adapting them inside the chain would void the guarantee.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.estimate import Estimate, from_images
from advae.evaluation.hmc import State, Target, transition
from advae.evaluation.observed import Observed, likelihood, scored_as
from advae.model import LatentModel

Schedule = Literal["sigmoid", "linear"]
Start = Literal["prior", "normal"]
SIGMOID_ENDS = 4.0  # the sigmoid schedule runs over ±4 (Wu et al. 2017): more temperatures near both ends
ACCEPTANCE = 0.65  # the rate at which HMC in many dimensions is most efficient (Neal 2011)
PILOT_TEMPERATURES, PILOT_CHAINS, FIRST_STEP, GAIN = 100, 4, 0.2, 0.2
BATCH = 8192  # chains moved at a time


@dataclass(frozen=True)
class AISResult:
    """What annealing gave for each image.

    Attributes:
        log_prob: the estimate of log p(x), ``[N]``.
        ess: effective sample size of the chains' weights, between 1 and C, ``[N]``.
        acceptance: mean acceptance probability of the transitions, ``[N]``.
    """

    log_prob: Tensor
    ess: Tensor
    acceptance: Tensor


def temperatures(count: int, schedule: Schedule) -> list[float]:
    """``β_0 = 0 … β_count = 1``."""
    t = torch.linspace(-1, 1, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return ((t + 1) / 2).tolist()
    s = torch.sigmoid(SIGMOID_ENDS * t)
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


@dataclass(frozen=True)
class Path:
    """The densities between ``f_0`` and ``p(x, ·)``, for ``N`` chains.

    Attributes:
        start: ``f_0``, a normal ``[N, d]``.
        log_joint: ``z [N, d]`` to ``log p(x, z) [N]``, each row under its own x.
    """

    start: Normal
    log_joint: Callable[[Tensor], Tensor]

    def ends(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``log f_0`` and ``log p(x, z)`` at ``z`` with their gradients."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_joint = self.log_joint(z)
            (grad,) = torch.autograd.grad(log_joint.sum(), z)
        z = z.detach()
        grad_start = (self.start.mean - z) / self.start.scale.square()
        return self.start.log_prob(z), log_joint.detach(), grad_start, grad

    def at(self, beta: float) -> Target:
        """The target ``f_t``."""

        def target(z: Tensor) -> tuple[Tensor, Tensor]:
            log_0, log_1, grad_0, grad_1 = self.ends(z)
            return torch.lerp(log_0, log_1, beta), torch.lerp(grad_0, grad_1, beta)

        return target


def anneal(
    path: Path,
    betas: list[float],
    step: Callable[[int], Tensor],
    leapfrogs: int,
    observe: Callable[[Tensor], None] = lambda accept: None,
) -> tuple[Tensor, Tensor]:
    """One annealing run of every chain: log weights ``[N]`` and mean acceptance ``[N]``.

    Args:
        path: from where to where.
        betas: temperatures.
        step: step sizes ``[N, 1]`` for the t-th temperature; unbiased only if they are fixed beforehand.
        leapfrogs: leapfrog steps a transition.
        observe: is given the acceptance probabilities ``[N]`` of each transition.
    """
    z = path.start.sample()
    log_w, accepted = torch.zeros_like(z[:, 0]), torch.zeros_like(z[:, 0])
    for t in range(1, len(betas)):
        log_0, log_1, grad_0, grad_1 = path.ends(z)
        log_w = log_w + (betas[t] - betas[t - 1]) * (log_1 - log_0)
        here = State(z, torch.lerp(log_0, log_1, betas[t]), torch.lerp(grad_0, grad_1, betas[t]))
        state, accept = transition(path.at(betas[t]), here, step(t), path.start.scale, leapfrogs)
        z, accepted = state.z, accepted + accept
        observe(accept)
    return log_w, accepted / max(1, len(betas) - 1)


def tuned_steps(
    path: Path, images: int, schedule: Schedule, leapfrogs: int, tick: Callable[[], None]
) -> Tensor:
    """Step sizes by a pilot run, ``[PILOT_TEMPERATURES + 1, images]``.

    After each transition an image's step grows or shrinks by its chains' mean acceptance; the main run reads the
    sizes off at the same β, and never changes them.
    """
    betas = temperatures(PILOT_TEMPERATURES, schedule)
    log_step = torch.full((images,), math.log(FIRST_STEP), device=path.start.mean.device)
    record = [log_step]

    def adapt(accept: Tensor) -> None:
        tick()
        record.append(record[-1] + GAIN * (accept.reshape(-1, images).mean(0) - ACCEPTANCE))

    def step(t: int) -> Tensor:
        return record[-1].exp().repeat(len(path.start.mean) // images).unsqueeze(-1)

    anneal(path, betas, step, leapfrogs, adapt)
    return torch.stack(record).exp()


@torch.no_grad()
def annealed(
    path_of: Callable[[int], Path],
    images: int,
    *,
    chains: int = 16,
    count: int = 1000,
    schedule: Schedule = "sigmoid",
    leapfrogs: int = 10,
    tick: Callable[[], None] = lambda: None,
) -> AISResult:
    """Anneal ``chains`` chains for each of ``images`` targets.

    Args:
        path_of: ``path_of(c)`` is the path of c chains an image, chain-major: ``[c · images, d]``.
        images: how many.
        chains: chains an image.
        count: temperatures.
        schedule: how they are spaced.
        leapfrogs: leapfrog steps a transition.
        tick: called after each transition, those of the pilot run included.
    """
    steps = tuned_steps(path_of(PILOT_CHAINS), images, schedule, leapfrogs, tick)

    def step(t: int) -> Tensor:
        return steps[round(t / count * PILOT_TEMPERATURES)].repeat(chains).unsqueeze(-1)

    betas = temperatures(count, schedule)
    log_w, accept = anneal(path_of(chains), betas, step, leapfrogs, lambda _: tick())
    log_w = log_w.reshape(chains, images).double()
    total = torch.logsumexp(log_w, 0)
    ess = torch.exp(2 * total - torch.logsumexp(2 * log_w, 0))
    return AISResult(total - math.log(chains), ess, accept.reshape(chains, images).mean(0))


def images_at_once(chains: int) -> int:
    """How many images' chains move together, at most."""
    return max(1, BATCH // chains)


def ticks(observed: Observed, chains: int, count: int) -> int:
    """How many transitions :func:`ais` makes, pilot runs included."""
    return observed.parts(images_at_once(chains)) * (count + PILOT_TEMPERATURES)


def frozen(model: LatentModel) -> LatentModel:
    """The model on the same weights without their gradients: those in z alone are wanted, the rest would cost."""
    copied = copy.copy(model)
    memo = {id(p): p.detach() for p in model.parameters()}
    copied._modules = copy.deepcopy(model._modules, memo)
    return copied.eval()


def start_of(model: LatentModel, x: Tensor, start: Start) -> Normal:
    """``f_0`` for each x: the prior, or a normal with the moments of q(z|x)."""
    if start == "prior":
        zeros = torch.zeros(len(x), model.latent, device=x.device)
        return Normal(zeros, zeros)
    mean, var = model.encode(x).moments()
    return Normal(mean.detach(), 0.5 * (var.detach() + 1e-6).log())


def paths(model: LatentModel, x: Tensor, start: Start, bins: bool) -> Callable[[int], Path]:
    """From ``f_0`` to ``p(x, ·)`` for each of ``x [B, …]``, by the number of chains, chain-major."""
    first = start_of(model, x, start)

    def path_of(chains: int) -> Path:
        many = x.repeat(chains, *[1] * (x.dim() - 1))

        def log_joint(z: Tensor) -> Tensor:
            return likelihood(model.decode(z), bins).log_prob(many) + model.prior.log_prob(z)

        return Path(Normal(first.mean.repeat(chains, 1), first.log_scale.repeat(chains, 1)), log_joint)

    return path_of


def ais(
    model: LatentModel,
    observed: Observed,
    *,
    chains: int = 16,
    count: int = 1000,
    schedule: Schedule = "sigmoid",
    start: Start = "normal",
    leapfrogs: int = 10,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Estimate, AISResult]:
    """``log p(x)`` by annealed importance sampling, in nats: the estimate and what was found for each image.

    Args:
        model: its decoder needs a density; the encoder only moments, and with start "prior" not even those.
        observed: the images.
        chains: chains an image.
        count: temperatures.
        schedule: "sigmoid" or "linear".
        start: "normal", with the moments of q(z|x), or "prior".
        leapfrogs: leapfrog steps a transition.
        tick: called after each transition of a chunk of images: :func:`ticks` times in all.

    Raises:
        NoDensityError: the decoder is implicit.
        ConfigError: no chain or no temperature.
    """
    if chains < 1 or count < 1:
        raise ConfigError("annealing needs a chain and a temperature", given=f"{chains} and {count}")
    bins, found = observed.scores_bins(model), []
    model = frozen(model)
    for x, _ in observed.chunks(model.device, images_at_once(chains)):
        if not model.decode(torch.zeros(1, model.latent, device=x.device)).has_log_prob:
            raise NoDensityError("an implicit decoder has no likelihood to anneal to")
        found.append(
            annealed(
                paths(model, x, start, bins),
                len(x),
                chains=chains,
                count=count,
                schedule=schedule,
                leapfrogs=leapfrogs,
                tick=tick,
            )
        )
    result = AISResult(
        *(
            torch.cat([getattr(part, key).cpu() for part in found])
            for key in ("log_prob", "ess", "acceptance")
        )
    )
    protocol = observed.protocol(
        estimator="annealed importance sampling",
        chains=chains,
        temperatures=count,
        schedule=schedule,
        start=start,
        leapfrogs=leapfrogs,
        likelihood=scored_as(bins),
    )
    return from_images(result.log_prob, "ais", "lower bound", "nats", protocol), result
