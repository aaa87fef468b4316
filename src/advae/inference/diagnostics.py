"""Whether to trust a posterior: every check a figure and a plain sentence, the verdict first.

    critic       calibrated and unsaturated on draws it has not seen; what its KL contradicts
    agreement    rank-normalised R-hat between the fits, and the spread of their bounds
    Stein        kernel Stein discrepancy of the draws, against its null distribution
    weights      Pareto k-hat of p/q, where q is the family's density or the critic's estimate of it
    evidence     annealed importance sampling beside the bound: the gap is KL(q‖p), if the evidence is right

All of them look at draws that nothing was trained on. None sees a mode that every fit lacks, unless it touches those
that were found: then annealing may reach it, and the evidence exceeds the bound by the log of the share missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from advae.data import mix
from advae.density_ratio import SATURATED
from advae.evaluation.critics.kl_bounds import (
    NATS,
    PAIR_KL,
    SURE,
    accuracy_floor,
    log_mean_ratio,
    ratio_floor,
)
from advae.evaluation.critics.verdict import BINS, Evidence, calibration, verdict
from advae.evaluation.estimate import Estimate, Estimates, Remark, from_images
from advae.evaluation.resumable import Ticks, unseen
from advae.inference.hmc_reference import moments
from advae.inference.posterior import Fitted
from advae.metrics.kernel_stein import SIGNS, stein
from advae.metrics.pareto import pareto_k
from advae.metrics.rhat import rhat

PAIRS = 2000  # of each fit, for its critic
AGREEMENT_DRAWS, AGREE = (
    1000,
    1.05,
)  # of each fit; R-hat of fits is of independent draws, and 1.01 by chance at most
STEIN_DRAWS, WHITENING_DRAWS, LEVEL = (
    400,
    4000,
    0.01,
)  # of each fit; the chance of a false alarm, over all fits together
WEIGHT_DRAWS, HEAVY = (
    4000,
    0.7,
)  # of each fit; above it importance weights are unreliable at any number of draws
FEW_CHAINS = 10.0  # effective chains of annealing below which its error is not known


def checks(
    posterior: Fitted, *, stage: Callable[[str, int], AbstractContextManager[Ticks]] = unseen
) -> Estimates:
    """All checks of a posterior."""
    found = Estimates()
    found.add(critic_check(posterior))
    found.add(agreement(posterior))
    found.add(stein_check(posterior))
    found.add(weights_check(posterior))
    found.add(evidence_check(posterior, posterior.log_evidence(stage=stage)))
    found.remarks.insert(0, headline(found.remarks))
    return found


def headline(remarks: list[Remark]) -> Remark:
    """The verdict over all remarks."""
    warned = [remark.about for remark in remarks if remark.warning]
    if not warned:
        return Remark("posterior", "No check finds anything wrong with these draws.")
    listed = ", ".join(dict.fromkeys(warned))
    return Remark("posterior", f"These draws must not be trusted as they stand: see {listed}.", warning=True)


def _figure(
    posterior: Fitted, name: str, value: float, kind: Any = "diagnostic", unit: str = "", **more: Any
) -> Estimate:
    count, stderr = more.pop("n", posterior.fits), more.pop("stderr", float("nan"))
    protocol = {"family": posterior.options.family, "seed": posterior.seed, **more}
    return Estimate(name, value, stderr, kind, unit, count, protocol, "posterior")


# --- the critic ---------------------------------------------------------------------------------------------


def critic_check(posterior: Fitted) -> Estimates:
    """The critic's report, over all fits together; nothing for families without one."""
    ratios = posterior.log_ratios(PAIRS, seed=mix(posterior.seed, 11))
    if ratios is None:
        return Estimates()
    p, q = (ratio.cpu().double().flatten().unsqueeze(1) for ratio in ratios)
    protocol = {"family": posterior.options.family, "seed": posterior.seed, "P": "q(z)", "Q": "r(z)"}
    if not bool(p.isfinite().all() and q.isfinite().all()):
        text = "The critic must not be trusted: its log ratios are not finite."
        return Estimates([], [Remark("critic", text, warning=True)])

    def mean(name: str, values: torch.Tensor, kind: Any = "diagnostic", unit: str = "") -> Estimate:
        return from_images(values.double().mean(1), f"{name}[critic]", kind, unit, protocol, "critics")

    half = torch.tensor(0.5).double()
    e = Evidence(
        name="The critic",
        accuracy=mean("accuracy", 0.5 * (torch.heaviside(p, half) + torch.heaviside(-q, half))),
        trained=None,
        saturation=mean("saturation on P", p.abs() > SATURATED),
        calibration=calibration(p, q),
        mean_ratio=log_mean_ratio(q),
        pairs=q.numel(),
        claim=mean("claimed KL", p, "adversarial estimate", "nats"),
        kl=None,
        floors=[accuracy_floor(p, q), ratio_floor(p, q)],
        bound=False,
    )
    c = e.calibration
    error = Estimate(
        "calibration error[critic]",
        c.error,
        c.stderr,
        "diagnostic",
        "",
        len(p),
        {**protocol, "bins": BINS},
        "critics",
    )
    floors = [
        Estimate(
            f"KL by {f.name}[critic]",
            f.value,
            f.stderr,
            f.kind,
            "nats",
            len(p),
            {**protocol, "of": PAIR_KL},
            "critics",
        )
        for f in e.floors
    ]
    return Estimates([e.accuracy, e.saturation, error, e.claim, *floors], [verdict("critic", e)])


# --- agreement ----------------------------------------------------------------------------------------------


def agreement(posterior: Fitted) -> Estimates:
    """R-hat between the fits, and their bounds."""
    bounds = posterior.bounds()
    if posterior.fits == 1:
        text = "There is one fit: whether another would agree is not known."
        return Estimates(bounds, [Remark("agreement", text, warning=True)])
    space = posterior.target.space
    z = posterior.unconstrained(AGREEMENT_DRAWS, seed=mix(posterior.seed, 12))
    flat = space.flat(space.constrained(z)[0]).cpu()
    found = torch.nan_to_num(rhat(flat), nan=float("inf"))
    worst, where = float(found.max()), space.labels()[int(found.argmax())]
    values = [bound.value for bound in bounds]
    spread, error = max(values) - min(values), max(bound.stderr for bound in bounds)
    apart = spread > max(NATS, SURE * error)
    figures = [
        _figure(posterior, "R-hat between fits", worst, of=where, n=AGREEMENT_DRAWS * posterior.fits),
        _figure(posterior, "spread of the bounds", spread, unit="nats"),
    ]
    text = (
        f"R-hat between the {posterior.fits} fits is at most {worst:.3f} ({where}), and their bounds lie within"
        f" {spread:.2f} nats"
    )
    if worst > AGREE or apart:
        which = " and ".join(["their draws"] * (worst > AGREE) + ["their bounds"] * apart)
        return Estimates(
            [*bounds, *figures], [Remark("agreement", f"The fits disagree in {which}: {text}.", warning=True)]
        )
    return Estimates([*bounds, *figures], [Remark("agreement", f"The fits agree: {text}.")])


# --- Stein --------------------------------------------------------------------------------------------------


def stein_check(posterior: Fitted) -> Estimates:
    """The kernel Stein discrepancy of every fit's draws, in coordinates whitened by other draws."""
    mean, factor = moments(
        posterior.unconstrained(WHITENING_DRAWS, seed=mix(posterior.seed, 13)).flatten(0, 1)
    )
    z = posterior.unconstrained(STEIN_DRAWS, seed=mix(posterior.seed, 14))
    score = posterior.score(z.flatten(0, 1)).reshape(z.shape)
    x = torch.linalg.solve_triangular(factor, (z - mean).mT, upper=False).mT
    signs = max(SIGNS, math.ceil(2 * posterior.fits / LEVEL))  # many fits are judged by smaller p-values
    pairs = zip(x, score @ factor, strict=True)
    found = [stein(a.cpu(), b.cpu(), signs=signs, seed=i) for i, (a, b) in enumerate(pairs)]
    figures = [
        _figure(posterior, f"KSD², fit {i}", f.value, stderr=f.stderr, p=round(f.p, 3), n=STEIN_DRAWS)
        for i, f in enumerate(found)
    ]
    told = [i for i, f in enumerate(found) if f.p <= LEVEL / posterior.fits]
    least = min(f.p for f in found)
    how = f"{STEIN_DRAWS} draws a fit, smallest p = {least:.3f}"
    if told:
        which = (
            "every fit"
            if len(told) == posterior.fits
            else f"fit{'s' * (len(told) > 1)} {', '.join(map(str, told))}"
        )
        text = f"By the kernel Stein discrepancy draws of {which} can be told from the posterior ({how})."
        return Estimates(figures, [Remark("Stein", text, warning=True)])
    text = f"By the kernel Stein discrepancy the draws cannot be told from the posterior ({how})."
    return Estimates(figures, [Remark("Stein", text)])


# --- weights ------------------------------------------------------------------------------------------------


def weights_check(posterior: Fitted) -> Estimates:
    """Pareto k-hat of every fit's importance weights."""
    weights = posterior.log_weights(WEIGHT_DRAWS, seed=mix(posterior.seed, 15)).cpu()
    found = [pareto_k(w) for w in weights]
    by = "the critic's estimate of q" if posterior.options.has_critic else "the density of q"
    name = "Pareto k-hat (by the critic)" if posterior.options.has_critic else "Pareto k-hat"
    figures = [_figure(posterior, f"{name}, fit {i}", k, by=by, n=WEIGHT_DRAWS) for i, k in enumerate(found)]
    worst = max(found)
    text = f"Pareto k-hat of p/q by {by} is at most {worst:.2f}"
    if worst <= HEAVY:
        return Estimates(figures, [Remark("weights", f"{text}, no more than {HEAVY}.")])
    where = "q is too narrow in a tail" + (
        ", or the critic wrong there" if posterior.options.has_critic else ""
    )
    text = f"{text}, above {HEAVY}: {where}. Means may do; do not believe tail probabilities."
    return Estimates(figures, [Remark("weights", text, warning=True)])


# --- evidence -----------------------------------------------------------------------------------------------


def evidence_check(posterior: Fitted, evidence: Estimate) -> Estimates:
    """The evidence by annealing beside the mean of the bounds."""
    bounds = posterior.bounds()
    values = torch.tensor([bound.value for bound in bounds], dtype=torch.float64)
    error = (sum(bound.stderr**2 for bound in bounds) ** 0.5) / len(bounds)
    gap = evidence.value - float(values.mean())
    sure = SURE * (error**2 + evidence.stderr**2) ** 0.5
    figures = [evidence, _figure(posterior, "evidence less bound", gap, unit="nats", stderr=sure / SURE)]
    beside = f"log evidence by annealing {evidence.value:.2f} ± {evidence.stderr:.2f}, bound {float(values.mean()):.2f}"
    ess = evidence.protocol["ess"]
    if ess < FEW_CHAINS:
        text = f"The evidence is not known: {ess:.0f} chains of annealing decide it ({beside} nats)."
        return Estimates(figures, [Remark("evidence", text, warning=True)])
    if gap > max(NATS, sure):
        text = f"q is {gap:.2f} nats from the posterior: {beside} nats."
        return Estimates(figures, [Remark("evidence", text, warning=True)])
    if -gap > max(NATS, sure):
        what = "the critic flatters q" if posterior.options.has_critic else "annealing falls short"
        return Estimates(
            figures,
            [Remark("evidence", f"The bound exceeds the evidence, so {what}: {beside} nats.", warning=True)],
        )
    return Estimates(figures, [Remark("evidence", f"Evidence and bound agree: {beside} nats.")])
