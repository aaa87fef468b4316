"""Critics of every method at their optimum, at worse than that, and how images are gone through."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from advae.distributions.normal import Normal
from advae.errors import ConfigError
from advae.evaluation import eval_data as observing
from advae.evaluation.critics.critic_diagnostics import _codes, critics
from advae.evaluation.estimate import Estimate, from_images
from advae.evaluation.eval_data import Observed
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.methods import METHODS
from evaluation.critic_cases import (
    CASES,
    IMAGES,
    SIGMAS,
    assert_is,
    exact_posterior,
    images,
    nats_in,
    only,
    optimal,
    shifted,
)
from truth.linear_gaussian import Truth, make


@pytest.mark.parametrize("name", CASES)
def test_optimal_critics_claim_the_exact_kl_and_are_trusted(name: str) -> None:
    model, truth, observed = optimal(name)
    found = critics(model, observed)
    assert {remark.about for remark in found.remarks} == set(CASES[name][2])
    for role, exact in CASES[name][2].items():
        assert_is(found.named(f"claimed KL[{role}]"), float(exact(truth)))
        assert_is(found.named(f"log E_Q[P/Q][{role}]"), 0)
        error, chance = (found.named(f"calibration error[{role}]{rest}") for rest in ("", " by chance"))
        assert_is(error, chance.value)
        trained = found.named(f"accuracy[{role}] on train")
        assert trained.protocol["split"] == "train"
        assert_is(trained, found.named(f"accuracy[{role}]").value)
        for floor in found:
            if (
                floor.kind == "lower bound"
                and floor.name.endswith(f"[{role}]")
                and floor.protocol["of"] == "KL(P‖Q)"
            ):
                assert floor.value <= float(exact(truth)) + SIGMAS * floor.stderr, floor
    assert not any(remark.warning for remark in found.remarks), found.remarks
    assert all("can be trusted here" in remark.text for remark in found.remarks)
    assert all(e.section == "critics" and e.n == IMAGES for e in found)


def test_floors_of_the_parts_are_their_closed_forms() -> None:
    model, truth, observed = optimal("asvae")
    found = critics(model, observed)
    assert_is(found.named("KL by its part[f1]"), float(truth.kl()))
    assert_is(
        found.named("KL by read codes[f2]"), float(truth.expected_log_q(truth.p) + truth.prior.entropy())
    )
    model, truth, observed = optimal("ali")
    assert_is(critics(model, observed).named("KL by all codes[critic]"), float(truth.q_z.kl(truth.prior)))


@pytest.mark.parametrize("name", ["avb prior", "avb diagonal"])
def test_the_kl_to_the_prior_its_floor_and_the_bound(name: str) -> None:
    """A normal encoder that hides its density: the floor by its moments is the KL itself."""
    model, truth, observed = optimal(name)
    found = critics(model, observed)
    assert_is(found.named("claimed KL to the prior[critic]"), float(truth.kl()))
    assert_is(found.named("KL by moments[critic]"), float(truth.kl()))
    both = adversarial_elbo(model, observed)
    assert_is(both.named("kl (critic)"), float(truth.kl()))
    assert_is(both.named("elbo (critic)"), float(truth.elbo()))
    assert [e.section for e in both] == ["critics", "likelihood"]


def log_prob_of(truth: Truth, observed: Observed, kind: str = "exact", shift: float = 0.0) -> Estimate:
    x = observed.data.test.raw(torch.arange(observed.count))
    protocol = observed.protocol(likelihood="as observed")
    name = "exact log-likelihood" if kind == "exact" else "ais"
    return from_images(truth.p_x.log_prob(x) + shift, name, kind, "nats", protocol)  # type: ignore[arg-type]


def test_the_evidence_is_a_floor_of_the_kl() -> None:
    """E_q[log p(x|z)] − log p(x), which for data of N(m, Σ) is known; exact evidence makes a floor, AIS does not."""
    model, truth, observed = optimal("avb prior")
    exact = float(truth.expected_log_p() + truth.data.entropy() + truth.data.kl(truth.p_x))
    found = critics(model, observed, log_prob=log_prob_of(truth, observed))
    floor = found.named("KL by exact log-likelihood[critic]")
    assert_is(floor, exact)
    assert floor.kind == "lower bound" and exact < float(truth.kl())
    assert not only(found).warning

    low = log_prob_of(truth, observed, "lower bound", shift=-2.0)
    found = critics(model, observed, log_prob=low)
    assert_is(found.named("KL by ais[critic]"), exact + 2)
    short = nats_in(only(found).text, r"is ([\d.]+) nats too high or ais as much too low")
    assert short == pytest.approx(exact + 2 - float(truth.kl()), abs=0.2)  # 5 errors of 0.03, and rounding
    assert found.named("KL by ais[critic]").kind == "diagnostic"
    assert "is in doubt" in only(found).text and only(found).warning

    # Of a critic that is at fault it is said too, unless something firm contradicts the claim already.
    for change, told in ((lambda T: 3 * T, True), (lambda T: T - 2, False)):
        model, truth, observed = optimal("avb prior", lambda f, c=change: lambda x, z: c(f(x, z)))  # type: ignore[misc]
        text = only(
            critics(model, observed, log_prob=log_prob_of(truth, observed, "lower bound", shift=-6.0))
        ).text
        assert "must not be trusted" in text and ("as much too low" in text) == told, text


@pytest.mark.parametrize("wrong", [{"seed": 1}, {"split": "train"}, {"likelihood": "bin probabilities"}])
def test_evidence_of_other_images_is_refused(wrong: dict[str, object]) -> None:
    model, truth, observed = optimal("avb prior")
    log_prob = log_prob_of(truth, observed)
    with pytest.raises(ConfigError, match="same images"):
        critics(model, observed, log_prob=replace(log_prob, protocol={**log_prob.protocol, **wrong}))
    with pytest.raises(ConfigError, match="same images"):
        critics(model, replace(observed, limit=100), log_prob=log_prob)


@pytest.mark.parametrize(
    ("name", "role", "reason"),
    [
        ("asvae", "f1", "KL(q(z|x)‖p(z)), a part of it, comes to"),
        ("asvae", "f2", "the encoder reads back from the model's own images"),
        ("ali", "critic", "the mean and covariance of all codes together force"),
        ("bavae", "prior", "the mean and covariance of q(z|x) already force"),
    ],
)
def test_a_blind_critic_is_found_out_by_what_is_known_without_it(name: str, role: str, reason: str) -> None:
    """It calls every pair alike: calibrated, never sure, and its own pairs prove nothing against it."""
    model, _, observed = optimal(name, lambda f: lambda x, z: torch.full_like(x[:, 0], name == "bavae"))
    model.info["method"]["known"] = "none"
    if role == "f2":
        exact_posterior(model)
    found = critics(model, observed)
    remark = next(r for r in found.remarks if r.about == role)
    assert found.named(f"accuracy[{role}]").value == 0.5
    assert found.named(f"calibration error[{role}]").value == 0
    assert remark.warning and reason in remark.text, remark
    assert "must not be trusted: its KL" in remark.text and "ELBO" not in remark.text  # none is made of these


def test_the_encoder_reads_all_that_an_exact_one_can() -> None:
    """Barber and Agakov's floor at the exact posterior is the mutual information, ½ Σ log(1 + w²/s²)."""
    model, _, observed = optimal("asvae")
    exact_posterior(model)
    information = 0.5 * math.log(1 + 1.2**2 / 0.4**2) + 0.5 * math.log(1 + 0.8**2 / 0.4**2)
    assert_is(critics(model, observed).named("KL by read codes[f2]"), information)


def test_where_nothing_else_is_known_that_is_said() -> None:
    """The same blindness of BAVAE's critic of pairs goes unseen: the sentence must not pass over it."""
    model, _, observed = optimal("bavae", lambda f: lambda x, z: torch.ones_like(x[:, 0]))
    remark = next(r for r in critics(model, observed).remarks if r.about == "pairs")
    assert "a better critic may find more, as nothing else is known of it" in remark.text
    model, _, observed = optimal("avb prior")
    assert "nothing else is known" not in only(critics(model, observed)).text


def test_a_kl_below_zero() -> None:
    model, _, observed = optimal("bavae", lambda f: lambda x, z: torch.full_like(x[:, 0], 0.9))
    remark = next(r for r in critics(model, observed).remarks if r.about == "pairs")
    assert "its KL of −0.10 nats is below zero, which no KL is" in remark.text


def test_a_known_density_judges_both_ways() -> None:
    for shift, words in ((-1.0, "below"), (1.0, "above")):
        model, _, observed = optimal("avb density", lambda f, s=shift: lambda x, z: f(x, z) + s)  # type: ignore[misc]
        text = only(critics(model, observed)).text
        assert f"is {words} the" in text and "the encoder's own density gives" in text
        way = "high" if shift < 0 else "low"
        assert nats_in(text, rf"the ELBO it claims is ([\d.]+) nats too {way}") == pytest.approx(1, abs=0.11)
    model, _, observed = optimal("avb density")
    assert "agrees with" in only(critics(model, observed)).text


# --- the pass over the images -------------------------------------------------------------------------------


def test_figures_do_not_depend_on_how_many_images_are_taken_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other random numbers, the same figures: to 5 errors of their difference."""
    model, _, observed = optimal("asvae")
    observed = replace(observed, limit=512)
    whole = critics(model, observed)
    monkeypatch.setattr(observing, "CHUNK", 50)
    for one, other in zip(whole, critics(model, observed), strict=True):
        assert one.name == other.name
        assert abs(one.value - other.value) <= SIGMAS * math.hypot(one.stderr, other.stderr), (one, other)


def test_the_same_seed_gives_the_same_figures() -> None:
    model, _, observed = optimal("bavae")
    first, again = (critics(model, replace(observed, limit=300)) for _ in range(2))
    assert [e.value for e in first] == [e.value for e in again]
    assert first.remarks == again.remarks


def test_a_single_image_at_the_end_has_a_partner() -> None:
    """257 images are 256 and one, which AS-VAE pairs with another's code: with the first one's, never its own."""
    model, _, observed = optimal("asvae")
    some, more = (critics(model, replace(observed, limit=n)) for n in (256, 257))
    one, two = (e.named("claimed KL[f2]").each["value"] for e in (some, more))
    assert len(two) == 257 and torch.equal(one, two[:256])
    seen: list[tuple[Tensor, Tensor]] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            seen.append((x, z))
            return torch.zeros(len(x))

    model.critics["f2"] = Recorder()
    critics(model, replace(observed, limit=257), draws=1)
    last = [x for x, _ in seen if len(x) == 2]
    first = observed.data.test.raw(torch.arange(1))
    assert last and torch.equal(last[1][0], first[0])  # side Q of the last image: the first one's x


def test_as_many_codes_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("advae.evaluation.critics.critic_diagnostics")

    monkeypatch.setattr(module, "AT_ONCE", 20)  # 2 draws of 7 images at a time
    assert _codes(Normal(torch.zeros(7, 3), torch.zeros(1)), 13).shape == (13, 7, 3)


def test_a_model_without_critics_gives_nothing() -> None:
    model, _ = make()
    assert critics(model, images()) == []


def test_the_training_split_is_not_compared_with_itself() -> None:
    found = critics(shifted(lambda x: x), replace(images(), split="train"))
    assert not any("on train" in e.name for e in found)
    assert "by heart" not in only(found).text


def test_log_ratios_that_are_not_finite() -> None:
    found = critics(shifted(lambda x: x, change=lambda T: torch.where(T > 3, torch.nan, T)), images())
    assert only(found).warning and "not finite" in only(found).text
    assert found == []


def test_every_method_says_what_its_critics_tell_apart() -> None:
    for name in METHODS.names():
        method = METHODS.build({"name": name})
        assert set(method.critics) <= set(method.sides), name
        assert not method.claims_kl or method.claims_kl in method.critics, name
        assert all(len(set(sides)) == 2 for sides in method.sides.values()), name
