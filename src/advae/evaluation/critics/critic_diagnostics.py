"""Critic diagnostics on held-out examples.

A critic tells P from Q by T. Where T = log P/Q, σ(T) is the share of P among pairs with this T, E_Q[e^T] = 1, and
E_P[T] = KL(P‖Q), which is compared with the bounds of :mod:`advae.evaluation.critics.kl_bounds` that the method
declares in its :class:`~advae.methods.CriticSpec`. A critic that is not a log ratio but a potential, known up to a
constant (WGAN's), has no calibration, saturation or KL: only how often and by how much it ranks P above Q.

The evaluated critic is the one saved with the model: the moving average over training, where that is on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from advae.density_ratio import SATURATION_NATS
from advae.distributions import Distribution
from advae.errors import ConfigError
from advae.evaluation.critics.kl_bounds import (
    KL_BOUNDS,
    MIN_EXAMPLES_PER_DIM,
    PAIR_KL,
    PRIOR_KL,
    KLReference,
    accuracy_bound,
    density_ratio_bound,
    gaussian_kl,
    log_mean_exp,
    prior_kl_references,
)
from advae.evaluation.critics.verdict import (
    NUM_BINS,
    CriticEvidence,
    compute_calibration,
    critic_remark,
    overfitting_check,
)
from advae.evaluation.estimate import Estimate, EvaluationResult, Kind, Remark, from_per_example
from advae.evaluation.eval_data import Batch, EvalData, likelihood_description, scoring_distribution
from advae.evaluation.resumable import LOCAL, Runner
from advae.formatting import format_percent
from advae.methods import CriticSpec, Method, method_from_model
from advae.model import LatentModel
from advae.random import get_rng_state, preserve_rng_state, set_rng_state

PAIRS_PER_EXAMPLE = 8  # on either side
MIN_MOMENT_SAMPLES = (
    256  # latent codes per example for the moments of q(z|x), if not MIN_EXAMPLES_PER_DIM · d
)
SAMPLE_BATCH_SIZE = 4096  # latent codes sampled at a time


def evaluate_critics(
    model: LatentModel,
    data: EvalData,
    *,
    log_prob: Estimate | None = None,
    samples: int = PAIRS_PER_EXAMPLE,
    runner: Runner = LOCAL,
) -> EvaluationResult:
    """Evaluate each critic of a model, with a remark on its reliability.

    Args:
        model: a trained model; the result is empty without critics.
        data: held-out examples; the critics' accuracy is also computed on as many training examples.
        log_prob: log p(x) of the same examples, exact or estimated, with per-example values.
        samples: pairs per example on either side.

    Raises:
        ConfigError: the model does not record its method, or ``log_prob`` is for other examples.
    """
    if not model.critics:
        return EvaluationResult()
    method = method_from_model(model)
    if log_prob is not None:
        _check_same_examples(model, data, log_prob)
    score = log_prob is not None
    values = _per_example_values(model, method, data, samples, runner, reference=True, score=score)
    train: Mapping[str, Tensor] = {}
    if data.split != "train":
        train_data = EvalData(data.data, "train", data.seed, data.count)
        train = _per_example_values(model, method, train_data, samples, runner, reference=False)
    protocol = data.protocol(critics_of=method.name, options=method.spec(), samples=samples)
    result = EvaluationResult()
    for role in method.critics:
        spec = method.critic_spec(role)
        if spec.log_ratio:
            references = _references(spec, role, values, log_prob)
            result.add(assess_log_ratio(role, spec, values, protocol, train, references))
        else:
            result.add(assess_potential(role, spec, values, protocol, train))
        if result.remarks[-1].warning:
            text = f"{result.remarks[-1].text} {describe_dependence(model, spec)}"
            result.remarks[-1] = replace(result.remarks[-1], text=text)
    return result


def describe_dependence(model: LatentModel, spec: CriticSpec) -> str:
    """Return which of a model's estimates contain this critic's, and which are measured without it."""
    scored = model.has_encoder and model.decoder_has_density()
    adversarial = scored and spec.gives_kl and not model.encoder_has_density()
    others = ["metrics of samples"]
    if model.has_encoder:
        others.insert(0, "reconstruction errors")
    if scored:
        others.insert(0, "bounds without a critic" if adversarial else "the ELBO")
    text = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
    if adversarial:
        return f"The ELBO by the critic depends on it; {text} do not."
    return f"{text[0].upper()}{text[1:]} do not depend on it."


# --- per-example values -------------------------------------------------------------------------------------


def _per_example_values(
    model: LatentModel,
    method: Method,
    data: EvalData,
    samples: int,
    runner: Runner,
    *,
    reference: bool,
    score: bool = False,
) -> dict[str, Tensor]:
    """Return the method's diagnostics, ``[N, samples]``; with ``reference``, also values that KL bounds need.

    These are, of a critic with known terms, its learned residuals ``ROLE/residual_p`` and ``ROLE/residual_q``, and
    those of :func:`_encoder_values`.
    """
    players, discretize = (None if reference else method.adversaries), data.uses_discretized_likelihood(model)
    roles = [role for role in method.critics if reference and method.critic_spec(role).known]
    known_only = without_residuals(model)

    def diagnostics(x: Tensor) -> dict[str, Tensor]:
        state = get_rng_state(model.device)
        result = method.losses(model, x, players).diagnostics
        if roles:
            with preserve_rng_state(model.device):
                set_rng_state(model.device, state)  # the same pairs
                known = method.losses(known_only, x, players).diagnostics
            for role in roles:
                for side in "pq":
                    name = f"{role}/log_ratio_{side}"
                    result[f"{role}/residual_{side}"] = result[name] - known[name]
        return result

    @torch.no_grad()
    def compute(batch: Batch) -> dict[str, Tensor]:
        x = data.with_neighbor(batch)
        passes = [diagnostics(x) for _ in range(samples)]
        values = {k: torch.stack([d[k] for d in passes], -1)[: len(batch.x)].double() for k in passes[0]}
        if reference and model.has_encoder:
            values |= _encoder_values(model, batch.x, samples, score, discretize)
        return values

    key = data.protocol(options=method.spec(), samples=samples, reference=reference, score=score)
    return data.map(model.device, compute, protocol=key, label=f"critics, {data.split} data", runner=runner)


class ZeroCritic(nn.Module):
    """A critic with the output of another, replaced by zeros."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.zeros_like(self.critic(*inputs))


def without_residuals(model: LatentModel) -> LatentModel:
    """Return the same model with critics that output zero: their log ratios are the known terms alone."""
    known_only = copy.copy(model)
    critics = {role: ZeroCritic(critic) for role, critic in model.critics.items()}
    known_only._modules = {**model._modules, "critics": nn.ModuleDict(critics)}
    return known_only


def _encoder_values(
    model: LatentModel, x: Tensor, samples: int, score: bool, discretize: bool
) -> dict[str, Tensor]:
    """Return per-example values that do not depend on the critic.

    ``z [B, d]``; ``posterior_kl``, or a lower bound by moments where q(z|x) has no density; and with ``score``
    ``expected_log_likelihood``, E_q[log p(x|z)], ``[B]`` each.
    """
    q, prior = model.encode(x), model.prior
    values = {"z": q.sample().double()}
    if q.has_log_prob:
        pairs = [q.rsample_and_log_prob() for _ in range(samples)]
        kl = torch.stack([log_q - prior.log_prob(z) for z, log_q in pairs])
        values["posterior_kl"] = kl.double().mean(0)
    else:
        count = max(MIN_MOMENT_SAMPLES, MIN_EXAMPLES_PER_DIM * model.latent_dim)
        values["posterior_moment_kl"] = gaussian_kl(_sample_in_batches(q, count))
    if score:
        decoded = [scoring_distribution(model.decode(q.sample()), discretize) for _ in range(samples)]
        values["expected_log_likelihood"] = torch.stack([p.log_prob(x) for p in decoded]).double().mean(0)
    return values


def _sample_in_batches(q: Distribution, count: int) -> Tensor:
    """Return ``count`` latent codes per example, ``[count, B, d]``, sampled SAMPLE_BATCH_SIZE at a time."""
    size = max(1, SAMPLE_BATCH_SIZE // q.batch_shape[0])
    return torch.cat([q.sample((min(size, count - start),)) for start in range(0, count, size)])


def _check_same_examples(model: LatentModel, data: EvalData, log_prob: Estimate) -> None:
    scoring = likelihood_description(data.uses_discretized_likelihood(model))
    for key, value in data.protocol(likelihood=scoring).items():
        if log_prob.protocol.get(key) != value or log_prob.n != data.count:
            raise ConfigError(
                "Critics must be compared with log p(x) of the same examples.",
                given=f"{log_prob.name} of {log_prob.n} examples, {key} {log_prob.protocol.get(key)}",
                expected=f"{data.count} examples, {key} {value}",
            )


def _references(
    spec: CriticSpec, role: str, values: Mapping[str, Tensor], log_prob: Estimate | None
) -> list[KLReference]:
    """Return the references for a critic that do not depend on it: declared bounds, and those on the prior KL."""
    claims = values[f"{role}/log_ratio_p"].mean(1)
    references = [r for bound in spec.kl_bounds if (r := KL_BOUNDS[bound](values, claims)) is not None]
    if spec.gives_kl:
        references += prior_kl_references(values, values["kl"].mean(1), log_prob)
    return references


# --- assessment ---------------------------------------------------------------------------------------------


def assess_log_ratio(
    role: str,
    spec: CriticSpec,
    values: Mapping[str, Tensor],
    protocol: Mapping[str, Any],
    train: Mapping[str, Tensor] | None = None,
    references: Sequence[KLReference] = (),
) -> EvaluationResult:
    """Assess a critic that estimates log P/Q.

    Args:
        role, spec: of the critic.
        values: ``ROLE/log_ratio_p`` and ``ROLE/log_ratio_q`` on held-out examples, ``[N, S]``; with ``spec.gives_kl``
            also ``kl``; with known terms also ``ROLE/residual_p`` and ``ROLE/residual_q``.
        protocol: of the estimates.
        train: the same on training examples.
        references: bounds on the KL that do not depend on the critic.
    """
    p, q = values[f"{role}/log_ratio_p"], values[f"{role}/log_ratio_q"]
    saturated_p, saturated_q = (
        _saturated(t, values.get(f"{role}/residual_{side}", t)) for side, t in (("p", p), ("q", q))
    )
    if not bool(p.isfinite().all() and q.isfinite().all()):
        text = f"Unreliable {critic_name(role, spec)}: its log ratios are not finite."
        return EvaluationResult([], [Remark(role, text, warning=True, section="critics")])
    protocol = {**protocol, "P": spec.numerator, "Q": spec.denominator}

    def mean(metric: str, values: Tensor, kind: Kind = "diagnostic", unit: str = "", **more: Any) -> Estimate:
        return _critic_estimate(role, metric, values, kind, unit, {**protocol, **more})

    def number(metric: str, value: float, stderr: float, kind: Kind, unit: str = "", **more: Any) -> Estimate:
        name, more = f"{metric}[{role}]", {**protocol, **more}
        return Estimate(name, value, stderr, kind, unit, len(p), more, "critics", metric=metric, variant=role)

    def claim(metric: str, values: Tensor, of: str) -> Estimate:
        return mean(metric, values, "adversarial estimate", "nats", of=of)

    e = CriticEvidence(
        name=critic_name(role, spec),
        accuracy=mean("accuracy", _accuracy(role, values)),
        train_accuracy=_train_accuracy(role, _accuracy(role, train), protocol) if train else None,
        saturation=mean("saturation on P", saturated_p),
        calibration=compute_calibration(p, q),
        log_mean_ratio=log_mean_exp(q),
        num_pairs=q.numel(),
        pair_kl=claim("claimed KL", p, PAIR_KL),
        prior_kl=claim("claimed KL to the prior", values["kl"], PRIOR_KL) if spec.gives_kl else None,
        references=[accuracy_bound(p, q), density_ratio_bound(p, q), *references],
        has_elbo=spec.gives_kl and "reconstruction" in values,
    )
    c = e.calibration
    estimates = [
        e.accuracy,
        e.train_accuracy,
        mean("saturation", 0.5 * (saturated_p + saturated_q)),
        e.saturation,
        number("calibration error", c.error, c.stderr, "diagnostic", bins=NUM_BINS),
        number("calibration error by chance", c.chance, c.stderr, "baseline", bins=NUM_BINS),
        number("log E_Q[P/Q]", *e.log_mean_ratio, "diagnostic", "nats"),
        e.pair_kl,
        e.prior_kl,
        *(number(f"KL by {r.name}", r.value, r.stderr, r.kind, "nats", of=r.of) for r in e.references),
    ]
    return EvaluationResult(filter(None, estimates), [critic_remark(role, e)])


def assess_potential(
    role: str,
    spec: CriticSpec,
    values: Mapping[str, Tensor],
    protocol: Mapping[str, Any],
    train: Mapping[str, Tensor] | None = None,
) -> EvaluationResult:
    """Assess a critic known up to a constant, from the method's diagnostics ``ROLE/accuracy``, ``ROLE/…``."""
    protocol = {**protocol, "P": spec.numerator, "Q": spec.denominator}
    own = {key.partition("/")[2]: v for key, v in values.items() if key.startswith(f"{role}/")}
    estimates = [_critic_estimate(role, name, v, "diagnostic", "", protocol) for name, v in own.items()]
    accuracy, *others = estimates
    text = (
        f"The {critic_name(role, spec)} is a potential, known up to a constant, not a log ratio."
        f" It ranks P above Q in {format_percent(accuracy.value)} of the pairs"
    )
    if not train:
        return EvaluationResult(estimates, [Remark(role, f"{text}.", section="critics")])
    train_accuracy = _train_accuracy(role, train[f"{role}/accuracy"], protocol)
    check = overfitting_check(train_accuracy, accuracy)
    if not check.criterion.passed:
        text = f"Unreliable {critic_name(role, spec)}: {check.failure}"
    remark = Remark(role, f"{text}.", not check.criterion.passed, (check.criterion,), "critics")
    return EvaluationResult([accuracy, train_accuracy, *others], [remark])


def critic_name(role: str, spec: CriticSpec) -> str:
    """Return how a sentence names a critic: "critic", or "critic f1 (q(x) q(z|x) vs. p(x) p(z))"."""
    return "critic" if role == "critic" else f"critic {role} ({spec.numerator} vs. {spec.denominator})"


def _critic_estimate(
    role: str,
    metric: str,
    values: Tensor,
    kind: Kind,
    unit: str,
    protocol: Mapping[str, Any],
    suffix: str = "",
) -> Estimate:
    name = f"{metric}[{role}]{suffix and ' on train'}"
    estimate = from_per_example(values.mean(1), name, kind, unit, dict(protocol), "critics")
    return replace(estimate, metric=metric, variant=role + suffix)


def _train_accuracy(role: str, values: Tensor, protocol: Mapping[str, Any]) -> Estimate:
    protocol = {**protocol, "split": "train"}
    return _critic_estimate(role, "accuracy", values, "diagnostic", "", protocol, ", training data")


def _accuracy(role: str, values: Mapping[str, Tensor]) -> Tensor:
    """Return the share of each pair of pairs that is classified correctly; a log ratio of zero counts one half."""
    half = torch.tensor(0.5, dtype=torch.float64)
    p, q = values[f"{role}/log_ratio_p"], values[f"{role}/log_ratio_q"]
    return 0.5 * (torch.heaviside(p, half) + torch.heaviside(-q, half))


def _saturated(t: Tensor, residual: Tensor) -> Tensor:
    """Return where a log ratio is beyond what pairs can teach by its learned residual, not by known terms alone."""
    return (torch.minimum(t.abs(), residual.abs()) > SATURATION_NATS).double()
