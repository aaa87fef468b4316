"""The posterior: how far the encoder is from the true one, and the codes of the data from the prior.

inference gap            log p(x) − ELBO(x) = KL(q(z|x) ‖ p(z|x))
aggregated posterior     q(z) = E_x q(z|x), which the prior should equal for samples to be good
active units             dimensions u with Var_x(E[z_u|x]) > 0.01       (Burda, Grosse and Salakhutdinov 2016)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advae.data import mix
from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NotFiniteError
from advae.evaluation.estimate import Estimate, Estimates, Kind, Remark, from_images
from advae.evaluation.eval_data import Observed, Part
from advae.evaluation.resumable import ALONE, Work
from advae.metrics.two_sample import FEWEST, SWAPS, blocks, c2st, mmd
from advae.model import LatentModel, seeded

CODES = 10_000  # compared with draws from the prior
ACTIVE = 0.01  # the variance above which a dimension is active; Burda et al. 2016, section 5.2
PRECISION = 0.001  # of the variance of an idle dimension, where means are estimated: a tenth of ACTIVE
AT_ONCE = 2**23  # numbers of repeated observations encoded at a time
SURE = 3.0  # standard errors

MMD, C2ST = "MMD² of aggregated posterior", "C2ST accuracy"
KINDS: dict[str, Kind] = {"exact": "unbiased", "unbiased": "unbiased"}


def posterior(
    model: LatentModel,
    observed: Observed,
    *,
    log_prob: Estimate | None = None,
    bound: Estimate | None = None,
    seed: int = 0,
    work: Work = ALONE,
) -> Estimates:
    """What can be said of the encoder's codes.

    Args:
        model: only its encoder is asked.
        observed: the images.
        log_prob: log p(x) of these images, exact or estimated, with its figure for each.
        bound: their ELBO. Without both of them there is no inference gap.
        seed: of the draws from the prior, the swaps and the classifier.
        work: how it is carried out.

    Returns:
        The inference gap; MMD² of codes and draws from the prior, with its p-value; a classifier's accuracy in
        telling them apart; the number of active units; the aggregated posterior's standard deviation.

    Raises:
        ConfigError: the two figures for the gap are not of the same images.
        NotFiniteError: the encoder gives codes that are not finite.
    """
    found = Estimates()
    if log_prob is not None and bound is not None:
        found.add(inference_gap(log_prob, bound))
    codes = _codes(model, observed, work)
    found.add(_against_prior(model, observed, codes["z"], seed, work))
    found.add(_active(observed, codes))
    found.append(_spread(observed, codes["z"]))
    return found


def inference_gap(log_prob: Estimate, bound: Estimate) -> Estimates:
    """``log p(x) − ELBO(x)`` for each image, in nats: how much of the evidence the encoder gives away.

    It is a lower bound where ``log_prob`` is one. A bound of a normal fitted to the encoder, or a critic's, gives
    the gap of that; the name or the kind says so. That of an encoder with an auxiliary variable holds what its
    reverse model misses too, KL(q(a|x,z) ‖ r); the protocol says so.

    Raises:
        ConfigError: the two figures are not of the same images.
    """
    for name in ("data", "checksum", "split", "observation", "seed", "likelihood"):
        if log_prob.protocol.get(name) != bound.protocol.get(name) or log_prob.n != bound.n:
            raise ConfigError(
                "an inference gap needs log p(x) and the ELBO of the same images",
                given=f"{log_prob.name} of {log_prob.n} images, {bound.name} of {bound.n} ({name})",
            )
    values = log_prob.each["value"].double() - bound.each["value"].double()
    kinds = {log_prob.kind, bound.kind}
    critic = "adversarial estimate" in kinds
    kind: Kind = "adversarial estimate" if critic else KINDS.get(log_prob.kind, log_prob.kind)
    _, bracket, of = bound.name.partition("[")
    protocol = {**bound.protocol, "log_prob": log_prob.name, "bound": bound.name}
    gap = from_images(values, f"inference gap{bracket}{of}", kind, "nats", protocol, "posterior")
    found = Estimates([gap])
    if gap.value < -SURE * gap.stderr:
        text = (
            f"{log_prob.name} lies below {bound.name}, by {-gap.value:.2f} nats: it is too loose an estimate of "
            "log p(x) to say anything of the inference gap."
        )
        found.remarks.append(Remark(gap.name, text, warning=True))
    return found


@torch.no_grad()
def _codes(model: LatentModel, observed: Observed, work: Work) -> dict[str, Tensor]:
    """For each image a draw "z", and "mean", E[z|x]; where that is not known, two estimates, "mean" and "other"."""
    draws = math.ceil(1 / (PRECISION * math.sqrt(observed.count)))

    def compute(part: Part) -> dict[str, Tensor]:
        q = model.encode(part.x)
        if isinstance(q, Normal):
            return {"z": q.sample(), "mean": q.mean}
        return {"z": q.sample(), "mean": _mean(q, draws, part.x), "other": _mean(q, draws, part.x)}

    found = observed.map(model.device, compute, label="codes", work=work)
    if not found["z"].isfinite().all():
        raise NotFiniteError("the encoder gives codes that are not finite", remedy="the training has failed")
    return found


def _mean(q: Distribution, draws: int, x: Tensor) -> Tensor:
    """The mean of so many draws, ``[B, d]``, not too many at a time."""
    at_once = max(1, AT_ONCE // x.numel())
    counts = [min(at_once, draws - start) for start in range(0, draws, at_once)]
    return torch.stack([q.sample((count,)).sum(0) for count in counts]).sum(0) / draws


def _against_prior(model: LatentModel, observed: Observed, z: Tensor, seed: int, work: Work) -> Estimates:
    """Codes ``z [N, d]``, at most CODES of them, against as many draws from the prior."""
    n = min(len(z), CODES)
    z = z[torch.arange(n) * len(z) // n]
    with seeded(mix(seed, 0), model.device):
        prior = model.prior.sample((n,))
    with work.stage("codes against the prior", blocks(n)) as tick:
        distance = mmd(z.to(prior.device), prior, seed=mix(seed, 1), tick=tick)
    protocol = observed.protocol(codes=n, prior_draws=n, draws_seed=seed)
    kernel = {**protocol, "kernel": "5 Gaussians of variance d/2 to 8d", "stderr": "under equality, by swaps"}
    swaps = {**protocol, "test": "MMD²", "swaps": SWAPS}
    p, p_error = distance.p, math.sqrt(distance.p * (1 - distance.p) / SWAPS)
    found = Estimates(
        [
            Estimate(MMD, distance.value, distance.stderr, "error", "", n, kernel, "posterior"),
            Estimate("MMD² p-value", p, p_error, "diagnostic", "", n, swaps, "posterior"),
        ]
    )
    if n >= FEWEST:
        accuracy, tried = c2st(z, prior, seed=mix(seed, 2))
        error = math.sqrt(accuracy * (1 - accuracy) / tried)
        how = {
            **protocol,
            "classifier": "perceptron, one hidden layer of 64",
            "tried on": f"{tried} held out",
        }
        found.append(Estimate(C2ST, accuracy, error, "diagnostic", "", n, how, "posterior"))
        found.remarks.append(_told_apart(accuracy, tried, p))
    return found


def _told_apart(accuracy: float, tried: int, p: float) -> Remark:
    """What the classifier's accuracy means."""
    if accuracy - 0.5 > SURE * 0.5 / math.sqrt(tried):
        text = (
            f"A classifier tells codes of data from draws of the prior with accuracy {accuracy:.2f} (0.50 is a "
            "guess): samples start from codes that the decoder saw seldom."
        )
    elif p <= 0.01:
        text = (
            f"Codes of data differ from draws of the prior (MMD, p = {p:.3f}), but a classifier does not tell "
            f"them apart (accuracy {accuracy:.2f}, 0.50 is a guess): the difference is small, or the images are "
            "too few to learn it from."
        )
    else:
        text = (
            f"Codes of data and draws of the prior cannot be told apart (accuracy {accuracy:.2f}, 0.50 is a "
            f"guess; MMD, p = {p:.2f}): samples start from codes that the decoder knows."
        )
    return Remark(C2ST, text)


def _active(observed: Observed, codes: dict[str, Tensor]) -> Estimates:
    """How many dimensions of the code tell images apart.

    The covariance over images of two independent estimates of E[z|x] is free of the bias that the variance of one
    has. The standard error is of the count, when each dimension's variance is as uncertain as a mean over images.
    """
    a, b = (codes[name].double() for name in ("mean", "other" if "other" in codes else "mean"))
    products = (a - a.mean(0)) * (b - b.mean(0)) * (len(a) / (len(a) - 1))
    variance, error = products.mean(0), products.std(0) / math.sqrt(len(a))
    active, d = int((variance > ACTIVE).sum()), a.shape[1]
    p = torch.special.ndtr((variance - ACTIVE) / error.clamp_min(torch.finfo(a.dtype).tiny))
    of_count = round(float((p * (1 - p)).sum().sqrt()), 2)  # of a count, less is none
    how = "covariance of two means of draws" if "other" in codes else "variance of means"
    protocol = observed.protocol(variance=how, threshold=ACTIVE)
    unit, each = f"of {d}", {"variance": variance}
    figure = Estimate(
        "active units", float(active), of_count, "diagnostic", unit, len(a), protocol, "posterior", each=each
    )
    found = Estimates([figure])
    if active < d:
        text = f"{active} of {d} dimensions of the code tell images apart: the others carry next to nothing."
        found.remarks.append(Remark(figure.name, text))
    return found


def _spread(observed: Observed, z: Tensor) -> Estimate:
    """The standard deviation of q(z), averaged over dimensions; of each also its mean. The prior has 1, and 0.

    The standard error is that of the variances carried through the roots.
    """
    z = z.double()
    mean, std = z.mean(0), z.std(0)
    influence = ((z - mean).square() - std.square()) / (2 * std.clamp_min(torch.finfo(z.dtype).tiny))
    error = float(influence.mean(1).std()) / math.sqrt(len(z))
    protocol = observed.protocol(code="a draw from q(z|x)")
    each = {"mean": mean, "std": std}
    value = float(std.mean())
    return Estimate(
        "aggregated std", value, error, "diagnostic", "", len(z), protocol, "posterior", each=each
    )
