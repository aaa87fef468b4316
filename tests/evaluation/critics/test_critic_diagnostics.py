"""Critic diagnostics: estimates of every method's critics at their optimum, bounds on faulty ones, and the loop."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from advae.distributions.normal import Normal
from advae.errors import ConfigError
from advae.evaluation import eval_data
from advae.evaluation.critics.critic_diagnostics import (
    _per_example_values,
    _sample_in_batches,
    assess_potential,
    describe_dependence,
    evaluate_critics,
)
from advae.evaluation.estimate import Estimate, from_per_example
from advae.evaluation.eval_data import EvalData
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.evaluation.resumable import LOCAL
from advae.methods import METHODS, CriticSpec, KLBound, method_from_model
from advae.methods.asvae import ASVAE
from advae.model import LatentModel
from evaluation.critics.critic_cases import (
    CASES,
    IMAGES,
    SIGMAS,
    assert_is,
    criterion,
    data_of,
    exact_posterior,
    failed,
    images,
    only,
    optimal,
    shifted,
    with_critics,
)
from truth.linear_gaussian import Truth, make
from truth.test_linear_gaussian import f1, f2


@pytest.mark.parametrize("name", CASES)
def test_optimal_critics_claim_the_exact_kl_and_meet_all_criteria(name: str) -> None:
    model, truth, data = optimal(name)
    result = evaluate_critics(model, data)
    assert {remark.about for remark in result.remarks} == set(CASES[name][2])
    for role, kl in CASES[name][2].items():
        exact = float(kl(truth))
        assert_is(result.find(f"claimed KL[{role}]"), exact)
        assert_is(result.find(f"log E_Q[P/Q][{role}]"), 0)
        error, chance = (
            result.find(f"{name}[{role}]") for name in ("calibration error", "calibration error by chance")
        )
        assert_is(error, chance.value)
        train = result.find(f"accuracy[{role}] on train")
        assert train.protocol["split"] == "train"
        assert_is(train, result.find(f"accuracy[{role}]").value)
        for bound in result:
            if bound.kind == "lower bound" and bound.variant == role and bound.protocol["of"] == "KL(P‖Q)":
                assert bound.value <= exact + SIGMAS * bound.stderr, bound
    for remark in result.remarks:
        assert not remark.warning and not failed(remark) and remark.text.startswith("Reliable"), remark
    assert all(e.section == "critics" and e.n == IMAGES for e in result)


def test_declared_bounds_have_their_closed_forms() -> None:
    model, truth, data = optimal("asvae")
    result = evaluate_critics(model, data)
    assert_is(result.find("KL by posterior KL[f1]"), float(truth.kl()))
    exact = float(truth.expected_log_q(truth.p) + truth.prior.entropy())
    assert_is(result.find("KL by z reconstruction[f2]"), exact)
    model, truth, data = optimal("ali")
    bound = evaluate_critics(model, data).find("KL by aggregate posterior[critic]")
    assert_is(bound, float(truth.q_z.kl(truth.prior)))


@pytest.mark.parametrize("name", ["avb prior", "avb diagonal"])
def test_kl_to_the_prior_and_adversarial_elbo(name: str) -> None:
    """A normal encoder without a density: the bound by its moments is the KL itself."""
    model, truth, data = optimal(name)
    result = evaluate_critics(model, data)
    assert_is(result.find("claimed KL to the prior[critic]"), float(truth.kl()))
    assert_is(result.find("KL by posterior moments[critic]"), float(truth.kl()))
    both = adversarial_elbo(model, data)
    assert_is(both.find("kl (critic)"), float(truth.kl()))
    assert_is(both.find("elbo (critic)"), float(truth.elbo()))
    assert [e.section for e in both] == ["critics", "likelihood"]


def log_prob_of(truth: Truth, data: EvalData, kind: str = "exact", shift: float = 0.0) -> Estimate:
    x = data.data.test.raw(torch.arange(data.count))
    protocol = data.protocol(likelihood="as observed")
    name = "exact log-likelihood" if kind == "exact" else "ais"
    return from_per_example(truth.p_x.log_prob(x) + shift, name, kind, "nats", protocol)  # type: ignore[arg-type]


def test_log_prob_gives_a_bound_on_the_kl() -> None:
    """E_q[log p(x|z)] − log p(x), known for normal data; a bound if log p(x) is exact, not if it is itself bounded."""
    model, truth, data = optimal("avb prior")
    exact = float(truth.expected_log_p() + truth.data.entropy() + truth.data.kl(truth.p_x))
    result = evaluate_critics(model, data, log_prob=log_prob_of(truth, data))
    bound = result.find("KL by exact log-likelihood[critic]")
    assert_is(bound, exact)
    assert bound.kind == "lower bound" and exact < float(truth.kl())
    assert not only(result).warning

    low = log_prob_of(truth, data, "lower bound", shift=-2.0)
    result = evaluate_critics(model, data, log_prob=low)
    assert_is(result.find("KL by ais[critic]"), exact + 2)
    assert result.find("KL by ais[critic]").kind == "diagnostic"
    shortfall = criterion(only(result), "KL by ais").value
    assert shortfall == pytest.approx(exact + 2 - float(truth.kl()), abs=0.15)  # 5 errors of 0.03
    assert failed(only(result)) == {"KL by ais"} and only(result).text.startswith("Possibly unreliable")

    # It is also mentioned next to other faults, unless a firm reference is violated already.
    for change, mentioned in ((lambda T: 3 * T, True), (lambda T: T - 2, False)):
        model, truth, data = optimal("avb prior", lambda f, c=change: lambda x, z: c(f(x, z)))  # type: ignore[misc]
        low = log_prob_of(truth, data, "lower bound", shift=-6.0)
        remark = only(evaluate_critics(model, data, log_prob=low))
        assert remark.text.startswith("Unreliable") and ("(ais)" in remark.text) == mentioned, remark


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "train"}, {"likelihood": "bin probabilities"}])
def test_log_prob_of_other_examples_raises(other: dict[str, object]) -> None:
    model, truth, data = optimal("avb prior")
    log_prob = log_prob_of(truth, data)
    with pytest.raises(ConfigError):
        evaluate_critics(model, data, log_prob=replace(log_prob, protocol={**log_prob.protocol, **other}))
    with pytest.raises(ConfigError):
        evaluate_critics(model, replace(data, limit=100), log_prob=log_prob)


@pytest.mark.parametrize(
    ("name", "role", "bound"),
    [
        ("asvae", "f1", "KL by posterior KL"),
        ("asvae", "f2", "KL by z reconstruction"),
        ("ali", "critic", "KL by aggregate posterior"),
        ("bavae", "prior", "KL by posterior moments"),
    ],
)
def test_uninformative_critic_violates_the_declared_bound(name: str, role: str, bound: str) -> None:
    """A constant log ratio is calibrated, and only a bound that does not depend on the critic contradicts it."""
    model, _, data = optimal(name, lambda f: lambda x, z: torch.full_like(x[:, 0], name == "bavae"))
    model.info["method"]["known"] = "none"
    if role == "f2":
        exact_posterior(model)
    result = evaluate_critics(model, data)
    remark = next(r for r in result.remarks if r.about == role)
    assert result.find(f"accuracy[{role}]").value == 0.5
    assert result.find(f"calibration error[{role}]").value == 0
    assert remark.warning and failed(remark) == {bound}
    assert "too high" not in remark.text  # no ELBO is made from these critics


def test_z_reconstruction_bound_of_the_exact_posterior_is_the_mutual_information() -> None:
    """½ Σ log(1 + w²/s²) (Barber and Agakov's bound is tight)."""
    model, _, data = optimal("asvae")
    exact_posterior(model)
    information = 0.5 * math.log(1 + 1.2**2 / 0.4**2) + 0.5 * math.log(1 + 0.8**2 / 0.4**2)
    assert_is(evaluate_critics(model, data).find("KL by z reconstruction[f2]"), information)


def test_verdict_says_where_no_independent_bound_exists() -> None:
    """BAVAE's critic of pairs: an uninformative one is not detected."""
    model, _, data = optimal("bavae", lambda f: lambda x, z: torch.ones_like(x[:, 0]))
    remark = next(r for r in evaluate_critics(model, data).remarks if r.about == "pairs")
    assert not remark.warning and "without an independent bound" in remark.text
    model, _, data = optimal("avb prior")
    assert "without an independent bound" not in only(evaluate_critics(model, data)).text


def test_negative_kl() -> None:
    model, _, data = optimal("bavae", lambda f: lambda x, z: torch.full_like(x[:, 0], 0.9))
    remark = next(r for r in evaluate_critics(model, data).remarks if r.about == "pairs")
    assert "claimed KL" in failed(remark) and criterion(remark, "claimed KL").value == pytest.approx(
        -0.1, abs=1e-5
    )  # float32 below 50


@pytest.mark.parametrize(("shift", "direction"), [(-1.0, "high"), (1.0, "low")])
def test_encoder_density_contradicts_in_both_directions(shift: float, direction: str) -> None:
    model, _, data = optimal("avb density", lambda f: lambda x, z: f(x, z) + shift)
    remark = only(evaluate_critics(model, data))
    assert criterion(remark, "KL by encoder density").value == pytest.approx(1, abs=0.11)
    assert "KL by encoder density" in failed(remark) and f"too {direction}" in remark.text


def test_known_terms_do_not_saturate_a_critic() -> None:
    """A narrow encoder has a KL above ten nats. Where it is known, f₁ learns log q(x)/p(x) only."""
    for known in ("f1", "none"):
        model, data = make(False)
        model.encoder.log_scale.data.fill_(-7.0)  # type: ignore[union-attr, operator]
        truth = Truth(model, data).frozen()
        with_critics(model, ASVAE(known=known), f1(known == "f1")(truth) | f2(False)(truth))  # type: ignore[arg-type]
        x = data.rsample(400)
        result = evaluate_critics(model, EvalData(data_of(x[:200], x[200:])))
        assert result.find("claimed KL[f1]").value > 10
        saturation = result.find("saturation on P[f1]").value
        assert saturation < 0.05 if known == "f1" else saturation > 0.5
        verdict = next(r for r in result.remarks if r.about == "f1")
        assert ("saturation" in failed(verdict)) == (known == "none")


def test_known_terms_are_subtracted_at_the_same_pairs() -> None:
    """A critic without an output of its own has residuals of exactly zero, and leaves the random numbers alone."""
    model, _, data = optimal("avb density", lambda f: lambda x, z: torch.zeros_like(x[:, 0]))
    method, data = method_from_model(model), replace(data, limit=50)
    values, others = (
        _per_example_values(model, m, data, 3, LOCAL, reference=True)
        for m in (method, replace(method, known="none"))
    )
    for side in "pq":
        assert torch.equal(values[f"critic/residual_{side}"], torch.zeros(50, 3, dtype=torch.float64))
        assert bool((values[f"critic/log_ratio_{side}"] != 0).all())
    assert torch.equal(values["reconstruction"], others["reconstruction"]) and torch.equal(
        values["z"], others["z"]
    )


def test_verdict_says_which_estimates_contain_the_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the declared role, not by name: AVB's gives the KL of an encoder without a density."""
    wrong = {"avb prior": True, "avb density": False, "asvae": False}
    for name, adversarial in wrong.items():
        model, _, data = optimal(name, lambda f: lambda x, z: 100 * f(x, z))
        for remark in evaluate_critics(model, replace(data, limit=200)).remarks:
            assert remark.warning and "do not" in remark.text
            assert ("ELBO by the critic depends" in remark.text) == adversarial
    model, _, data = optimal("asvae")
    monkeypatch.setattr(LatentModel, "has_encoder", False)
    text = describe_dependence(model, CriticSpec("q(x)", "p(x)"))
    assert "samples" in text and "ELBO" not in text and "reconstruction" not in text


# --- potentials ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held_out", "overfitted"), [(0.99, False), (0.6, True)])
def test_overfitted_potential(held_out: float, overfitted: bool) -> None:
    def values(accuracy: float) -> dict[str, Tensor]:
        return {"critic/accuracy": (torch.arange(400) < 400 * accuracy).double()[:, None]}

    spec = CriticSpec("q(x)", "p(x)", inputs="x", log_ratio=False)
    result = assess_potential("critic", spec, values(held_out), {"split": "test"}, values(1.0))
    assert only(result).warning == overfitted == bool(failed(only(result)))
    assert [e.name for e in result] == ["accuracy[critic]", "accuracy[critic] on train"]


# --- the loop over examples ---------------------------------------------------------------------------------


def test_estimates_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other random numbers, the same values to 5 errors of their difference."""
    model, _, data = optimal("asvae")
    data = replace(data, limit=512)
    whole = evaluate_critics(model, data)
    monkeypatch.setattr(eval_data, "CHUNK_SIZE", 50)
    for one, other in zip(whole, evaluate_critics(model, data), strict=True):
        assert one.name == other.name
        assert abs(one.value - other.value) <= SIGMAS * math.hypot(one.stderr, other.stderr), (one, other)


def test_same_seed_same_estimates() -> None:
    model, _, data = optimal("bavae")
    first, second = (evaluate_critics(model, replace(data, limit=300)) for _ in range(2))
    assert [e.value for e in first] == [e.value for e in second]
    assert first.remarks == second.remarks


def test_single_last_example_is_paired_with_the_first() -> None:
    """257 examples are a batch of 256 and one of 1, which AS-VAE pairs with the latent of another example."""
    model, _, data = optimal("asvae")
    fewer, more = (evaluate_critics(model, replace(data, limit=n)) for n in (256, 257))
    one, two = (result.find("claimed KL[f2]").per_example["value"] for result in (fewer, more))
    assert len(two) == 257 and torch.equal(one, two[:256])
    inputs: list[tuple[Tensor, Tensor]] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            inputs.append((x, z))
            return torch.zeros(len(x))

    model.critics["f2"] = Recorder()
    evaluate_critics(model, replace(data, limit=257), samples=1)
    last = [x for x, _ in inputs if len(x) == 2]
    first = data.data.test.raw(torch.arange(1))
    assert last and torch.equal(last[1][0], first[0])  # Q of the last example: the x of the first


def test_latents_are_sampled_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("advae.evaluation.critics.critic_diagnostics")
    monkeypatch.setattr(module, "SAMPLE_BATCH_SIZE", 20)  # 2 samples of 7 examples at a time
    assert _sample_in_batches(Normal(torch.zeros(7, 3), torch.zeros(1)), 13).shape == (13, 7, 3)


def test_model_without_critics_has_an_empty_result() -> None:
    model, _ = make()
    assert evaluate_critics(model, images()) == []


def test_training_split_is_not_compared_with_itself() -> None:
    result = evaluate_critics(shifted(lambda x: x), replace(images(), split="train"))
    assert not any("on train" in e.name for e in result)
    assert not any(row.name == "accuracy gap to training" for row in only(result).criteria)


def test_log_ratios_that_are_not_finite() -> None:
    result = evaluate_critics(
        shifted(lambda x: x, change=lambda T: torch.where(T > 3, torch.nan, T)), images()
    )
    assert only(result).warning and "not finite" in only(result).text
    assert result == []


def test_every_method_declares_its_critics() -> None:
    for name in METHODS.names():
        method = METHODS.build({"name": name})
        assert set(method.critics) <= set(method.critic_specs), name
        for role in method.critics:
            spec = method.critic_spec(role)
            assert spec.numerator != spec.denominator and spec.inputs in ("x,z", "x", "z")
            assert all(isinstance(bound, KLBound) for bound in spec.kl_bounds)
            assert spec.log_ratio or not (spec.gives_kl or spec.kl_bounds), "a potential has no KL"
