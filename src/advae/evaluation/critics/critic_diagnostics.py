"""Whether a critic can be believed: what it says of held-out pairs, against what is known without it.

A critic tells P from Q by T, which is log P/Q where it is right; σ(T) is then the share of P among pairs of this T,
E_Q[e^T] is one, and E_P[T] is KL(P‖Q). Beside the floors of :mod:`advae.evaluation.critics.kl_bounds`, its KL cannot lie below

    KL(q(z|x)‖p(z))       where that is what it is of: E_q[log q(z|x) − log p(z)], if the encoder has a density;
                          at least E_q[log p(x|z)] − log p(x), as no ELBO exceeds log p(x)
    AS-VAE's f₁           KL(q(z|x)‖p(z)) + KL(q(x)‖p(x))                         the first of them
    AS-VAE's f₂           I_p(x; z) + KL(p(x)‖q(x)) + KL(p(z)‖q(z))
                          I_p(x; z) ≥ E_p[log q(z|x) − log p(z)]                  (Barber and Agakov 2003)
    ALI's                 KL(q(z)‖p(z)) + …                                       the floor by moments of all codes

The critic that is judged is the one saved with the model: averaged over training, where that was on. A critic that is
no log ratio (WGAN's) is not judged as one: what is said of it is how well it tells P from Q.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from advae.density_ratio import SATURATED
from advae.distributions import Distribution
from advae.distributions.base import LOG_2PI
from advae.errors import ConfigError
from advae.evaluation.critics.kl_bounds import (
    PAIR_KL,
    PRIOR_KL,
    Floor,
    accuracy_floor,
    aggregate_floor,
    evidence_floor,
    floor_of,
    gaussian_kl,
    log_mean_ratio,
    ratio_floor,
)
from advae.evaluation.critics.verdict import BINS, Evidence, calibration, verdict
from advae.evaluation.critics.wasserstein import potential
from advae.evaluation.estimate import Estimate, Estimates, Kind, Remark, from_images
from advae.evaluation.eval_data import Observed, Part, likelihood, scored_as
from advae.evaluation.likelihood.adversarial_elbo import method_of, paired
from advae.evaluation.resumable import ALONE, Work
from advae.methods import Method
from advae.model import LatentModel

DRAWS = 8  # pairs that each image gives on either side
MOMENT_DRAWS, PER_DIM = 256, 8  # codes of an image for its moments: at least so many, and so many a dimension
AT_ONCE = 4096  # codes drawn at a time

# P and Q whose KL has parts that are known
F1 = "q(x) q(z|x)", "p(x) p(z)"
F2 = "p(z) p(x|z)", "q(x) q(z)"
ALI = "q(x) q(z|x)", "p(z) p(x|z)"


def critics(
    model: LatentModel,
    observed: Observed,
    *,
    log_prob: Estimate | None = None,
    draws: int = DRAWS,
    work: Work = ALONE,
) -> Estimates:
    """What can be said of each of a model's critics, with a sentence on whether it can be trusted.

    Args:
        model: a trained model; one without critics gives nothing.
        observed: the images; as many of the training split are looked at beside them.
        log_prob: log p(x) of the same images, exact or estimated, with its figure for each.
        draws: pairs of each image on either side.
        work: how it is carried out.

    Raises:
        ConfigError: the model does not say which method trained it, or ``log_prob`` is of other images.
    """
    if not model.critics:
        return Estimates()
    method = method_of(model)
    if log_prob is not None:
        _same_images(observed, log_prob, observed.scores_bins(model))
    seen = _looked(model, method, observed, draws, work, known=True, scored=log_prob is not None)
    trained: Mapping[str, Tensor] = {}
    if observed.split != "train":
        training = Observed(observed.data, "train", observed.seed, observed.count)
        trained = _looked(model, method, training, draws, work, known=False)
    protocol = observed.protocol(critics_of=method.name, options=method.spec(), draws=draws)
    found = Estimates()
    for role in method.critics:
        if f"{role}/log_ratio_p" not in seen:
            found.add(potential(method, role, seen, trained, protocol))
            continue
        if not all(seen[f"{role}/log_ratio_{side}"].isfinite().all() for side in "pq"):
            text = f"The critic {role} must not be trusted: its log ratios are not finite."
            found.remarks.append(Remark(role, text, warning=True))
            continue
        floors = _floors(method, role, seen, log_prob)
        found.add(_judged(method, role, seen, trained, floors, protocol))
    return found


# --- looking ------------------------------------------------------------------------------------------------


def _looked(
    model: LatentModel,
    method: Method,
    observed: Observed,
    draws: int,
    work: Work,
    *,
    known: bool,
    scored: bool = False,
) -> dict[str, Tensor]:
    """What the method reports of the images' pairs, ``[N, draws]``; and what is known of each without a critic."""
    players, bins = (None if known else method.adversaries), observed.scores_bins(model)

    @torch.no_grad()
    def compute(part: Part) -> dict[str, Tensor]:
        x = paired(observed, part)
        reports = [method.losses(model, x, players).report for _ in range(draws)]
        found = {k: torch.stack([r[k] for r in reports], -1)[: len(part.x)].double() for k in reports[0]}
        return found | (_known(model, part.x, draws, scored, bins) if known else {})

    label = f"critics, {observed.split} images"
    key = observed.protocol(options=method.spec(), draws=draws, known=known, scored=scored)
    return observed.map(model.device, compute, protocol=key, label=label, work=work)


def _known(model: LatentModel, x: Tensor, draws: int, scored: bool, bins: bool) -> dict[str, Tensor]:
    """For each image a code; its KL to the prior, or a floor of it; and E_q[log p(x|z)], if it is to be scored.

    Nothing without an encoder.
    """
    if not model.has_encoder:
        return {}
    q, prior = model.encode(x), model.prior
    found = {"code": q.sample().double()}
    if q.has_log_prob:
        pairs = [q.rsample_and_log_prob() for _ in range(draws)]
        found["density"] = torch.stack([log_q - prior.log_prob(z) for z, log_q in pairs]).double().mean(0)
    else:
        found["moments"] = gaussian_kl(_codes(q, max(MOMENT_DRAWS, PER_DIM * model.latent)))
    if scored:
        scores = [likelihood(model.decode(q.sample()), bins).log_prob(x) for _ in range(draws)]
        found["score"] = torch.stack(scores).double().mean(0)
    return found


def _codes(q: Distribution, count: int) -> Tensor:
    """``count`` codes of each image, not too many at a time, ``[count, B, d]``."""
    at_once = max(1, AT_ONCE // q.batch_shape[0])
    return torch.cat([q.sample((min(at_once, count - start),)) for start in range(0, count, at_once)])


def _same_images(observed: Observed, log_prob: Estimate, bins: bool) -> None:
    for key, value in observed.protocol(likelihood=scored_as(bins)).items():
        if log_prob.protocol.get(key) != value or log_prob.n != observed.count:
            raise ConfigError(
                "critics are judged by log p(x) of the same images",
                given=f"{log_prob.name} of {log_prob.n} images, {key} {log_prob.protocol.get(key)}",
                expected=f"{observed.count} images, {key} {value}",
            )


# --- judging ------------------------------------------------------------------------------------------------


def _floors(method: Method, role: str, seen: Mapping[str, Tensor], log_prob: Estimate | None) -> list[Floor]:
    """All that is known of the KL that a critic claims."""
    p, q = seen[f"{role}/log_ratio_p"], seen[f"{role}/log_ratio_q"]
    claims, sides = p.mean(1), method.sides.get(role)
    found = [accuracy_floor(p, q), ratio_floor(p, q)]
    if "code" not in seen:
        return found
    d = seen["code"].shape[1]
    if sides == F1 and "density" in seen:
        text = "KL(q(z|x)‖p(z)), a part of it, comes to"
        found.append(floor_of(seen["density"], claims, "its part", text))
    if sides == F2 and "z_reconstruction" in seen:
        values = 0.5 * d * (1 + LOG_2PI) - seen["z_reconstruction"].mean(1)
        text = "the encoder reads back from the model's own images"
        found.append(floor_of(values, claims, "read codes", text))
    if sides == ALI and len(p) >= PER_DIM * d:
        found.append(aggregate_floor(seen["code"], claims))
    if role == method.claims_kl:
        kls = seen["kl"].mean(1)
        if "density" in seen:
            text = "the encoder's own density gives"
            found.append(floor_of(seen["density"], kls, "density", text, PRIOR_KL, "unbiased"))
        else:
            text = "the mean and covariance of q(z|x) already force"
            found.append(floor_of(seen["moments"], kls, "moments", text, PRIOR_KL))
        if log_prob is not None:
            found.append(evidence_floor(seen["score"], kls, log_prob))
    return found


def _right(role: str, seen: Mapping[str, Tensor]) -> Tensor:
    """The share of a pair on either side that the critic is right for; a log ratio of zero is right by half."""
    p, q, half = seen[f"{role}/log_ratio_p"], seen[f"{role}/log_ratio_q"], torch.tensor(0.5).double()
    return 0.5 * (torch.heaviside(p, half) + torch.heaviside(-q, half))


def _judged(
    method: Method,
    role: str,
    seen: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    floors: list[Floor],
    protocol: Mapping[str, Any],
) -> Estimates:
    """One critic's figures, and what they say of it."""
    p, q, of = seen[f"{role}/log_ratio_p"], seen[f"{role}/log_ratio_q"], f"[{role}]"
    P, Q = method.sides.get(role, ("P", "Q"))
    said = {**protocol, "P": P, "Q": Q}

    def mean(name: str, values: Tensor, kind: Kind = "diagnostic", unit: str = "", **more: Any) -> Estimate:
        return from_images(values.mean(1), name, kind, unit, {**said, **more}, "critics")

    def number(name: str, value: float, stderr: float, kind: Kind, unit: str = "", **more: Any) -> Estimate:
        return Estimate(name, value, stderr, kind, unit, len(p), {**said, **more}, "critics")

    claims = role == method.claims_kl
    evidence = Evidence(
        name="The critic" if role == "critic" else f"The critic {role} ({P} against {Q})",
        accuracy=mean(f"accuracy{of}", _right(role, seen)),
        trained=mean(f"accuracy{of} on train", _right(role, trained), split="train") if trained else None,
        saturation=mean(f"saturation{of} on P", (p.abs() > SATURATED).double()),
        calibration=calibration(p, q),
        mean_ratio=log_mean_ratio(q),
        pairs=q.numel(),
        claim=mean(f"claimed KL{of}", p, "adversarial estimate", "nats", of=PAIR_KL),
        kl=mean(f"claimed KL to the prior{of}", seen["kl"], "adversarial estimate", "nats", of=PRIOR_KL)
        if claims
        else None,
        floors=floors,
        bound=claims and "reconstruction" in seen,
    )
    e, error = evidence, evidence.calibration
    figures = [
        e.accuracy,
        e.trained,
        mean(f"saturation{of}", seen[f"{role}/saturation"]),
        e.saturation,
        number(f"calibration error{of}", error.error, error.stderr, "diagnostic", bins=BINS),
        number(f"calibration error{of} by chance", error.chance, error.stderr, "yardstick", bins=BINS),
        number(f"log E_Q[P/Q]{of}", *e.mean_ratio, "diagnostic", "nats"),
        e.claim,
        e.kl,
        *(number(f"KL by {f.name}{of}", f.value, f.stderr, f.kind, "nats", of=f.of) for f in floors),
    ]
    return Estimates([figure for figure in figures if figure is not None], [verdict(role, evidence)])
