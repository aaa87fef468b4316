"""Diagnostics of a fitted posterior, each with criteria and a verdict.

    critic       calibration and saturation on new samples; contradictions of its KL
    agreement    rank-normalized R-hat between the fits, and the range of their ELBOs
    Stein        kernel Stein discrepancy of the samples, with p-values
    weights      Pareto k-hat of p/q, where q is the family's density or the critic's estimate of it
    evidence     annealed importance sampling against the ELBO: the gap is KL(q‖p), if the evidence is right

All use samples that nothing was trained on. None detects a mode that every fit misses, unless it is connected to those
that were found: then annealing may reach it, and the evidence exceeds the ELBO by the log of the missing fraction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from advae.evaluation.critics.critic_diagnostics import assess_log_ratio
from advae.evaluation.critics.kl_bounds import ABS_TOL_NATS, NUM_SIGMAS
from advae.evaluation.estimate import Criterion, Estimate, EvaluationResult, Remark
from advae.evaluation.resumable import no_progress
from advae.inference.preconditioner import AffineMap
from advae.methods import CriticSpec
from advae.metrics.kernel_stein import NUM_BOOTSTRAP, stein_test
from advae.metrics.mcmc_diagnostics import pareto_k, split_rhat
from advae.progress import StageProgress
from advae.random import mix_seeds

if TYPE_CHECKING:
    from advae.inference.posterior import Posterior

NUM_CRITIC_PAIRS = 2000  # per fit
NUM_RHAT_SAMPLES = 1000  # per fit
MAX_RHAT = 1.05  # between fits: by chance it is 1.01 at most, as their samples are independent
NUM_STEIN_SAMPLES, NUM_WHITENING_SAMPLES = 400, 4000  # per fit
STEIN_LEVEL = 0.01  # probability of a false alarm, over all fits together
NUM_WEIGHTS = 4000  # per fit
MAX_PARETO_K = 0.7  # above, importance weights are unreliable for any number of samples
MIN_AIS_ESS = 10.0  # effective chains, below which the standard error of the evidence is not known


def run_diagnostics(posterior: Posterior, *, stage: StageProgress = no_progress) -> EvaluationResult:
    """Run all diagnostics of a posterior; the first remark is the verdict."""
    result = EvaluationResult()
    for diagnose in (diagnose_critic, diagnose_agreement, diagnose_stein, diagnose_weights):
        result.add(diagnose(posterior))
    result.add(diagnose_evidence(posterior, posterior.log_evidence(stage=stage)))
    result.remarks.insert(0, overall_verdict(result.remarks))
    return result


def overall_verdict(remarks: list[Remark]) -> Remark:
    """Return the verdict over all remarks."""
    warnings = list(dict.fromkeys(remark.about for remark in remarks if remark.warning))
    if not warnings:
        return Remark("posterior", "Reliable as far as the diagnostics show: all criteria are met.")
    return Remark("posterior", f"Unreliable in part: see {', '.join(warnings)}.", warning=True)


def _diagnostic(
    posterior: Posterior,
    metric: str,
    name: str,
    value: float,
    *,
    fit: int | None = None,
    stderr: float = math.nan,
    unit: str = "",
    n: int | None = None,
    **protocol: Any,
) -> Estimate:
    """Return a diagnostic of all fits or, with an index, of one."""
    protocol = {"family": posterior.options.family, "seed": posterior.seed, **protocol}
    variant = "" if fit is None else f"fit {fit}"
    name, n = f"{name}[{variant}]" if variant else name, n or posterior.fits
    return Estimate(
        *(name, value, stderr, "diagnostic", unit, n, protocol, "posterior"), metric=metric, variant=variant
    )


def _diagnosis(
    estimates: list[Estimate], about: str, text: str, criteria: list[Criterion]
) -> EvaluationResult:
    """Return estimates with a remark, which is a warning unless all criteria are met."""
    warning = not all(criterion.passed for criterion in criteria)
    return EvaluationResult(estimates, [Remark(about, text, warning, tuple(criteria), "posterior")])


def diagnose_critic(posterior: Posterior) -> EvaluationResult:
    """Evaluate the critics of all fits together; nothing for families with a density."""
    log_ratios = posterior.critic_log_ratios(NUM_CRITIC_PAIRS, seed=mix_seeds(posterior.seed, 11))
    if log_ratios is None:
        return EvaluationResult()
    p, q = (log_ratio.cpu().double().flatten().unsqueeze(1) for log_ratio in log_ratios)
    protocol = {"family": posterior.options.family, "seed": posterior.seed}
    return assess_log_ratio(
        "critic", CriticSpec("q(z)", "r(z)"), {"critic/log_ratio_p": p, "critic/log_ratio_q": q}, protocol
    )


def diagnose_agreement(posterior: Posterior) -> EvaluationResult:
    """Compare the fits by R-hat and by their ELBOs."""
    elbos = posterior.elbo()
    if posterior.fits == 1:
        text = "Agreement is unknown: there is only one fit."
        return EvaluationResult(elbos, [Remark("agreement", text, warning=True, section="posterior")])
    space = posterior.target.space
    z = posterior.sample_unconstrained(NUM_RHAT_SAMPLES, seed=mix_seeds(posterior.seed, 12))
    rhat = torch.nan_to_num(split_rhat(space.flatten(space.constrain(z)[0]).cpu()), nan=math.inf)
    worst, label = float(rhat.max()), space.labels()[int(rhat.argmax())]
    values = [elbo.value for elbo in elbos]
    elbo_range, stderr = max(values) - min(values), max(elbo.stderr for elbo in elbos)
    n = NUM_RHAT_SAMPLES * posterior.fits
    estimates = [
        *elbos,
        _diagnostic(posterior, "rhat", "R-hat between fits", worst, of=label, n=n),
        _diagnostic(posterior, "elbo-range", "range of ELBOs", elbo_range, unit="nats"),
    ]
    criteria = [
        Criterion.at_most("largest R-hat between fits", worst, MAX_RHAT),
        Criterion.at_most("range of ELBOs (nats)", elbo_range, max(ABS_TOL_NATS, NUM_SIGMAS * stderr)),
    ]
    failed = [name for name, c in zip(("samples", "ELBOs"), criteria, strict=True) if not c.passed]
    headline = f"The fits disagree in their {' and '.join(failed)}" if failed else "The fits agree"
    text = f"{headline}: R-hat ≤ {worst:.3f} ({label}), range of ELBOs {elbo_range:.2f} nats."
    return _diagnosis(estimates, "agreement", text, criteria)


def diagnose_stein(posterior: Posterior) -> EvaluationResult:
    """Test each fit's samples by the kernel Stein discrepancy, whitened by the moments of other samples."""
    other_z = posterior.sample_unconstrained(NUM_WHITENING_SAMPLES, seed=mix_seeds(posterior.seed, 13))
    whitening = AffineMap.from_samples(other_z.flatten(0, 1))
    z = posterior.sample_unconstrained(NUM_STEIN_SAMPLES, seed=mix_seeds(posterior.seed, 14))
    score = posterior.score(z.flatten(0, 1)).reshape(z.shape) @ whitening.factor
    level = STEIN_LEVEL / posterior.fits
    num_bootstrap = max(NUM_BOOTSTRAP, math.ceil(2 / level))  # p-values must resolve the level
    tests = [
        stein_test(x_i, score_i, num_bootstrap=num_bootstrap, seed=i)
        for i, (x_i, score_i) in enumerate(zip(whitening.inverse(z).cpu(), score.cpu(), strict=True))
    ]
    n = NUM_STEIN_SAMPLES
    estimates = [
        _diagnostic(posterior, "ksd", "KSD²", t.value, fit=i, stderr=t.stderr, n=n, p=round(t.p, 4))
        for i, t in enumerate(tests)
    ]
    # A p-value equal to the level rejects.
    criteria = [Criterion(f"p-value, fit {i}", t.p, level, t.p > level, "min") for i, t in enumerate(tests)]
    rejected = [i for i, criterion in enumerate(criteria) if not criterion.passed]
    details = f"{n} samples per fit, smallest p = {min(t.p for t in tests):.3f}"
    if rejected:
        fits = f"fit{'s' * (len(rejected) > 1)} {', '.join(map(str, rejected))}"
        which = "all fits" if len(rejected) == posterior.fits else fits
        text = f"The kernel Stein discrepancy rejects the samples of {which} ({details})."
    else:
        text = f"The kernel Stein discrepancy does not reject the samples ({details})."
    return _diagnosis(estimates, "Stein", text, criteria)


def diagnose_weights(posterior: Posterior) -> EvaluationResult:
    """Compute Pareto k-hat of every fit's importance weights."""
    weights = posterior.log_weights(NUM_WEIGHTS, seed=mix_seeds(posterior.seed, 15)).cpu()
    k_hats = [pareto_k(w) for w in weights]
    has_critic = posterior.options.has_critic
    by = "the critic's estimate of q" if has_critic else "the density of q"
    name = "Pareto k-hat by the critic" if has_critic else "Pareto k-hat"
    estimates = [
        _diagnostic(posterior, "pareto-k", name, k, fit=i, n=NUM_WEIGHTS, by=by) for i, k in enumerate(k_hats)
    ]
    worst = max(k_hats)
    criteria = [Criterion.at_most("largest Pareto k-hat", worst, MAX_PARETO_K)]
    text = f"Pareto k-hat of p/q by {by} is at most {worst:.2f} (threshold {MAX_PARETO_K})"
    if criteria[0].passed:
        text = f"{text}: importance weights are reliable."
    else:
        cause = "q is too narrow in a tail" + (", or the critic is wrong there" if has_critic else "")
        text = f"{text}: {cause}. Means may be usable; tail probabilities are not."
    return _diagnosis(estimates, "weights", text, criteria)


def diagnose_elbo(posterior: Posterior, certified: EvaluationResult) -> EvaluationResult:
    """Compare the critic's ELBO with both certified bounds; nothing for families with a density."""
    if not certified:
        return EvaluationResult()
    criteria = []
    for i, elbo in enumerate(posterior.elbo()):
        low, high = (certified.find(f"elbo-certified {bound}[fit {i}]") for bound in ("lower", "upper"))
        excess = {
            "above the upper bound": (elbo.value - high.value, high),
            "below the lower": (low.value - elbo.value, low),
        }
        for side, (nats, bound) in excess.items():
            limit = max(ABS_TOL_NATS, NUM_SIGMAS * math.hypot(elbo.stderr, bound.stderr))
            criteria.append(Criterion.at_most(f"nats {side}, fit {i}", nats, limit))
    failed = [criterion for criterion in criteria if not criterion.passed]
    text = "The critic's ELBO is between both certified bounds, within their errors, for every fit."
    if failed:
        worst = max(failed, key=lambda criterion: criterion.value)
        text = f"The critic's ELBO is wrong: {worst.value:.2f} {worst.name}."
    return _diagnosis(list(certified), "ELBO", text, criteria)


def diagnose_evidence(posterior: Posterior, evidence: Estimate) -> EvaluationResult:
    """Compare the evidence by annealing with the mean ELBO."""
    elbos = posterior.elbo()
    elbo = float(torch.tensor([e.value for e in elbos], dtype=torch.float64).mean())
    elbo_stderr = (sum(e.stderr**2 for e in elbos) ** 0.5) / len(elbos)
    gap, gap_stderr = evidence.value - elbo, math.hypot(elbo_stderr, evidence.stderr)
    tolerance, ess = max(ABS_TOL_NATS, NUM_SIGMAS * gap_stderr), evidence.protocol["ess"]
    name, stderr = "evidence minus ELBO", gap_stderr
    estimates = [evidence, _diagnostic(posterior, "evidence-gap", name, gap, stderr=stderr, unit="nats")]
    criteria = [
        Criterion.at_least("effective annealing chains", ess, MIN_AIS_ESS),
        Criterion.at_most("|evidence − ELBO| (nats)", abs(gap), tolerance),
    ]
    values = f"log evidence by annealing {evidence.value:.2f} ± {evidence.stderr:.2f}, ELBO {elbo:.2f} nats"
    if not criteria[0].passed:
        text = f"The evidence is unknown: only {ess:.0f} effective annealing chains ({values})."
    elif not math.isfinite(gap):
        text = f"Evidence or ELBO is not finite: {values}."
    elif criteria[1].passed:
        text = f"Evidence and ELBO agree: {values}."
    elif gap > 0:
        text = f"KL(q‖p) is about {gap:.2f} nats: {values}."
    else:
        cause = "the critic overestimates it" if posterior.options.has_critic else "annealing falls short"
        text = f"The ELBO exceeds the evidence, so {cause}: {values}."
    return _diagnosis(estimates, "evidence", text, criteria)
