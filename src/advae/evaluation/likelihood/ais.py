"""log p(x) by annealed importance sampling, and how far off that may be by bidirectional Monte Carlo.

    AIS     log p(x) ≥ E[log 1/C Σ_c w_c]                w_c upwards from f_0              (Neal 2001; Wu et al. 2017)
    BDMC    log p(x) ≤ −E[log 1/C Σ_c 1/w_c]             1/w_c downwards from z ~ p(z|x)   (Grosse et al. 2015)

Both sides are Jensen's inequality. Exact draws of the posterior exist for data that the model itself has made:
z ~ p(z), x ~ p(x|z). On those the two sides hold log p(x) between them, and their gap bounds the error of AIS in
expectation; for real images the gap is a guide, not a bound.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from advae.data import mix
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError, nearest
from advae.evaluation.estimate import Estimate, Estimates, Remark, from_images
from advae.evaluation.eval_data import CHUNK, Observed, Part, likelihood, scored_as
from advae.evaluation.likelihood.annealing import (
    PILOT_CHAINS,
    PILOT_TEMPERATURES,
    Path,
    Schedule,
    anneal,
    steps_at,
    temperatures,
    tuned_steps,
)
from advae.evaluation.likelihood.log_density_grad import Gradient
from advae.evaluation.likelihood.proposals import fitted
from advae.evaluation.resumable import ALONE, Work
from advae.model import LatentModel, seeded

Start = Literal["prior", "encoder", "diagonal", "full"]
STARTS = ("prior", "encoder", "diagonal", "full")
CHAINS_AT_ONCE = {"cpu": 2048, "cuda": 32768}  # enough that the calls themselves cost little
MAX_GAP = 1.0  # nats between the two sides beyond which an AIS figure is not to be relied on


@dataclass(frozen=True)
class Annealing:
    """How to anneal.

    Attributes:
        chains: for each image.
        temperatures: from the start to p(x, ·).
        schedule: how they are spaced: "sigmoid" (more of them near both ends) or "linear".
        start: "prior"; "encoder", q(z|x) with its own density; or a normal fitted to draws from q(z|x), with a
            "full" or "diagonal" covariance, which works for implicit encoders too.
        leapfrogs: leapfrog steps a transition.
    """

    chains: int = 16
    temperatures: int = 1000
    schedule: Schedule = "sigmoid"
    start: Start = "full"
    leapfrogs: int = 10

    def __post_init__(self) -> None:
        for name in ("chains", "temperatures", "leapfrogs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"annealing needs {name}", given=getattr(self, name), expected="1 or more")
        for name, known in (("start", STARTS), ("schedule", ("sigmoid", "linear"))):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise ConfigError(f"annealing has no {name} {given!r}", remedy=nearest(given, known))

    def ticks(self) -> int:
        """How many transitions one part makes, the pilot run's included."""
        return max(0, self.temperatures - 1) + PILOT_TEMPERATURES - 1

    def at_once(self, device: torch.device) -> int:
        """How many images' chains move together."""
        return max(1, min(CHUNK, CHAINS_AT_ONCE.get(device.type, CHAINS_AT_ONCE["cpu"]) // self.chains))


def ais(
    model: LatentModel, observed: Observed, options: Annealing | None = None, *, work: Work = ALONE
) -> Estimate:
    """``log p(x)`` by annealed importance sampling, in nats; of each image also "ess" and "acceptance".

    The effective sample size is that of the chains' weights, between 1 and the number of chains.

    Args:
        model: its decoder needs a density; the encoder only samples, and with start "prior" not even those.
        observed: the images.
        options: how to anneal.
        work: how the evaluation is carried out.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with start "encoder".
    """
    bins, model = observed.scores_bins(model), frozen(model)
    options = options or Annealing()
    check_density(model)
    protocol = observed.protocol(estimator="annealed importance sampling", **_described(options, bins))

    joint, often = Joint(model, bins), _often(observed, options, model)

    def compute(part: Part) -> Mapping[str, Tensor]:
        path_of = paths(joint, part.x, options.start, often)
        log_w, acceptance = upwards(path_of, options, part)
        total = torch.logsumexp(log_w, 0)
        ess = torch.exp(2 * total - torch.logsumexp(2 * log_w, 0))
        return {"value": total - math.log(options.chains), "ess": ess, "acceptance": acceptance}

    found = _mapped(model, observed, compute, options, protocol, "annealing", work)
    return from_images(found.pop("value"), "ais", "lower bound", "nats", protocol, each=found)


def bdmc(
    model: LatentModel, observed: Observed, options: Annealing | None = None, *, work: Work = ALONE
) -> Estimates:
    """Both sides of ``log p(x)`` for images that the model itself has made, and their gap, in nats.

    As many images are made as ``observed`` has; its own are not looked at. All chains downwards start from the
    one code that an image was made from: each of their weights is unbiased by itself, and so is their mean.

    Args and Raises: as :func:`ais`.
    """
    bins, model = observed.scores_bins(model), frozen(model)
    options = options or Annealing()
    check_density(model)
    described = observed.protocol(estimator="bidirectional Monte Carlo", **_described(options, bins))
    protocol = {**described, "images": "made by the model"}

    joint, often = Joint(model, bins), 2 * _often(observed, options, model)

    def compute(part: Part, *, up: bool) -> Mapping[str, Tensor]:
        z, x = simulated(model, len(part.x), bins, mix(observed.seed, part.start, 2))
        path_of = paths(joint, x, options.start, often)
        run = upwards(path_of, options, part) if up else downwards(path_of, z, options, part)
        value = torch.logsumexp(run[0], 0) - math.log(options.chains)
        return {"value": value if up else -value}

    lower, upper = (
        _mapped(model, observed, partial(compute, up=up), options, protocol, label, work)["value"]
        for up, label in ((True, "annealing up"), (False, "annealing down"))
    )
    gap = from_images(upper - lower, "bdmc gap", "upper bound", "nats", protocol)
    sides = (
        from_images(lower, "bdmc lower", "lower bound", "nats", protocol),
        from_images(upper, "bdmc upper", "upper bound", "nats", protocol),
    )
    return Estimates([*sides, gap], [gap_remark(gap)])


def gap_remark(gap: Estimate) -> Remark:
    """What the gap says of AIS figures made in the same way."""
    apart = f"{gap.value:.2f} ± {gap.stderr:.2f} nats".replace("-", "−")
    text = f"On images made by the model the two sides of log p(x) lie {apart} apart:"
    if gap.value > MAX_GAP:
        more = "AIS under these settings may be too low by as much; give it more temperatures or chains."
        return Remark("bdmc", f"{text} {more}", warning=True)
    if gap.value < 2 * gap.stderr:
        return Remark("bdmc", f"{text} no error of AIS can be seen there under these settings.")
    return Remark("bdmc", f"{text} there AIS is at most about that much too low under these settings.")


PathOf = Callable[[int, int], Path]
"""``path_of(c, t)``: the path of c chains an image, chain-major, ``[c · images, d]``, for t transitions."""


def upwards(path_of: PathOf, options: Annealing, part: Part) -> tuple[Tensor, Tensor]:
    """Log weights ``[chains, images]`` from the start, and each image's mean acceptance."""
    betas = temperatures(options.temperatures, options.schedule)
    path, step = path_of(options.chains, options.temperatures), _tuned(path_of, options, part)
    return _annealed(path, path.first(), betas, step, options, part)


def downwards(path_of: PathOf, z: Tensor, options: Annealing, part: Part) -> tuple[Tensor, Tensor]:
    """Logs of inverse weights ``[chains, images]`` from exact codes ``z [images, d]``, and mean acceptance."""
    betas = temperatures(options.temperatures, options.schedule)[::-1]
    path, step = path_of(options.chains, options.temperatures), _tuned(path_of, options, part)
    return _annealed(path, path.u(z.repeat(options.chains, 1)), betas, step, options, part)


def _tuned(path_of: PathOf, options: Annealing, part: Part) -> Callable[[float], Tensor]:
    pilot = path_of(PILOT_CHAINS, PILOT_TEMPERATURES)
    steps = tuned_steps(pilot, len(part.x), options.schedule, options.leapfrogs, part.tick)
    return steps_at(steps, options.schedule, options.chains)


def _annealed(
    path: Path,
    u: Tensor,
    betas: Sequence[float],
    step: Callable[[float], Tensor],
    options: Annealing,
    part: Part,
) -> tuple[Tensor, Tensor]:
    log_w, accept = anneal(path, u, betas, step, options.leapfrogs, tick=part.tick, slot=part.slot)
    return log_w.reshape(options.chains, -1), accept.reshape(options.chains, -1).mean(0)


class Joint:
    """``log p(x, z)`` of many pairs, and the end of a path that leads there, with its gradient.

    Args:
        model: whose; its weights stay as they are.
        bins: score the bins of 8-bit images.
    """

    def __init__(self, model: LatentModel, bins: bool) -> None:
        self.model, self.bins = model, bins
        self.gradient = Gradient(self._log_end)

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """``[N]`` for ``x [N, …]`` and ``z [N, d]``."""
        return likelihood(self.model.decode(z), self.bins).log_prob(x) + self.model.prior.log_prob(z)

    def _log_end(self, u: Tensor, mean: Tensor, factor: Tensor, x: Tensor) -> Tensor:
        return Path(mean, factor, partial(self, x)).log_end(u)


def paths(joint: Joint, x: Tensor, start: Start, often: int = 0) -> PathOf:
    """From ``f_0`` to ``p(x, ·)`` for each of ``x [B, …]``; ``often`` gradients are taken for a transition, in all."""
    model = joint.model
    mean, factor = whitening(model, x, start)

    def path_of(chains: int, transitions: int) -> Path:
        m, L, many = (value.repeat(chains, *[1] * (value.dim() - 1)) for value in (mean, factor, x))
        q = model.encode(many) if start == "encoder" else None
        return Path(
            m,
            L,
            partial(joint, many),
            q.log_prob if q else None,
            q.sample if q else None,
            lambda u: joint.gradient(u, m, L, many, times=transitions * often),
        )

    return path_of


@torch.no_grad()
def whitening(model: LatentModel, x: Tensor, start: Start) -> tuple[Tensor, Tensor]:
    """``μ [B, d]`` and ``L [B, d]`` or ``[B, d, d]`` of the start's coordinates.

    Raises:
        NoDensityError: start "encoder" and the encoder is implicit.
    """
    if start == "prior":
        zeros = torch.zeros(len(x), model.latent, device=x.device)
        return zeros, zeros + 1
    q = model.encode(x)
    if start == "encoder" and not q.has_log_prob:
        raise NoDensityError(
            "annealing cannot start from an implicit encoder: it has no density",
            remedy='start from a normal fitted to it: "full" or "diagonal"',
        )
    return fitted(q, full=start == "full" and not isinstance(q, Normal))  # a normal's is diagonal as it is


@torch.no_grad()
def simulated(model: LatentModel, n: int, bins: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Codes ``[n, d]`` from the prior and an image made from each, ``[n, *x_shape]``."""
    with seeded(seed, model.device):
        z = model.prior.sample((n,))
        return z, likelihood(model.decode(z), bins).sample()


def check_density(model: LatentModel) -> None:
    """See that there is a likelihood to anneal to.

    Raises:
        NoDensityError: the decoder is implicit.
    """
    if not model.decoder_has_density():
        raise NoDensityError("an implicit decoder has no likelihood to anneal to")


def frozen(model: LatentModel) -> LatentModel:
    """The model on the same weights without their gradients: those in z alone are wanted, the rest would cost."""
    copied = copy.copy(model)
    memo = {id(p): p.detach() for p in model.parameters()}
    copied._modules = copy.deepcopy(model._modules, memo)
    return copied.eval()


def _often(observed: Observed, options: Annealing, model: LatentModel) -> int:
    """How many gradients a transition costs, with all parts that make it."""
    return options.leapfrogs * len(observed.starts(options.at_once(model.device)))


def _described(options: Annealing, bins: bool) -> dict[str, Any]:
    return {**asdict(options), "likelihood": scored_as(bins)}


def _mapped(
    model: LatentModel,
    observed: Observed,
    compute: Callable[[Part], Mapping[str, Tensor]],
    options: Annealing,
    protocol: dict[str, Any],
    label: str,
    work: Work,
) -> dict[str, Tensor]:
    size, ticks = options.at_once(model.device), options.ticks()
    return observed.map(
        model.device,
        torch.no_grad()(compute),
        size=size,
        protocol=protocol,
        label=label,
        ticks=ticks,
        work=work,
    )
