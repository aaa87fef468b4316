"""Right critics are trusted, each wrong one is found out for its own fault; calibration by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advae.evaluation.critics.critic_diagnostics import critics
from advae.evaluation.critics.kl_bounds import log_mean_ratio
from advae.evaluation.critics.verdict import calibration
from advae.evaluation.eval_data import Observed
from advae.methods.avb import AVB
from evaluation.critic_cases import (
    IMAGES,
    SIGMAS,
    D,
    assert_is,
    calibrated_pairs,
    data_of,
    images,
    nats_in,
    only,
    shifted,
    with_critics,
)


def test_the_optimal_critic_has_bayes_accuracy() -> None:
    """T is N(±|m|²/2, |m|²) on the two sides of an x: right with probability Φ(|m|/2), saturated in two tails."""
    observed = images()
    m = 1.2 * observed.data.test.raw(torch.arange(IMAGES)).norm(dim=1).double()
    found, phi = critics(shifted(lambda x: 1.2 * x), observed), torch.special.ndtr
    assert_is(found.named("accuracy[critic]"), float(phi(m / 2).mean()))
    assert_is(found.named("claimed KL[critic]"), float(m.square().mean() / 2))
    assert_is(found.named("KL by moments[critic]"), float(m.square().mean() / 2))
    beyond = phi(m / 2 - 10 / m) + phi(-m / 2 - 10 / m)
    assert_is(found.named("saturation[critic]"), float(beyond.mean()))
    a = float(phi(m / 2).mean())
    two_sided = a * math.log(a / (1 - a)) + (1 - a) * math.log((1 - a) / a)
    assert_is(found.named("KL by accuracy[critic]"), two_sided, rounding=0.01)  # added successes: 2 of 2,000
    assert only(found).text.startswith("The critic can be trusted here: it is right for")


SURER, LESS_SURE, SATURATED = (
    "surer than it should be",
    "less sure than it should be",
    "pairs from P are saturated",
)
TO_P, TO_Q, TOO_LARGE, BELOW = "leans to P", "leans to Q", "ratios P/Q are too large", "is below the"
FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], set[str]]] = {
    "twice": (lambda T: 2 * T, {SURER, TOO_LARGE}),
    "a third": (lambda T: T / 3, {LESS_SURE, BELOW}),
    "too low": (lambda T: T - 1.5, {TO_Q, BELOW}),
    "too high": (lambda T: T + 1.5, {TO_P, TOO_LARGE}),
    "a hundred times": (lambda T: 100 * T, {SURER, TOO_LARGE, SATURATED}),
    "beyond all exponentials": (lambda T: 1e4 * T, {SURER, TOO_LARGE, SATURATED}),
    "turned": (lambda T: -T, {SURER, TOO_LARGE, BELOW}),
}


@pytest.mark.parametrize("change", FAULTS)
def test_a_wrong_critic_is_found_out_for_its_own_faults(change: str) -> None:
    wrong, reasons = FAULTS[change]
    remark = only(critics(shifted(lambda x: 1.2 * x, change=wrong), images()))
    assert remark.warning and remark.text.startswith("The critic must not be trusted: ")
    every = {SURER, LESS_SURE, SATURATED, TO_P, TO_Q, TOO_LARGE, BELOW}
    assert {reason for reason in every if reason in remark.text} == reasons, remark.text


def test_how_much_too_high_the_elbo_is() -> None:
    """A critic 1.5 nats too low, under the moments of a normal, which force the exact KL."""
    text = only(critics(shifted(lambda x: 1.2 * x, change=lambda T: T - 1.5), images())).text
    # 2,000 images: the difference to the floor has an error of 0.02; the text is rounded to 0.05.
    assert nats_in(text, r"ELBO it claims is at least ([\d.]+) nats too high") == pytest.approx(1.5, abs=0.15)


def test_a_critic_that_learned_its_training_images_by_heart() -> None:
    """m(x) is of arbitrary sign: from 40 images in 30 dimensions no map can be learned, only the images themselves."""
    n, few = 30, 40
    A = torch.randn(D, n)

    def m(x: Tensor) -> Tensor:
        return 1.5 * torch.sign(torch.sin(3 * x @ A.T))

    train = torch.randn(few, n)
    net = nn.Sequential(nn.Linear(n + D, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    x = train.repeat(8, 1)
    for _ in range(150):
        z, eta = m(x) + torch.randn(len(x), D), torch.randn(len(x), D)
        t_p, t_q = (net(torch.cat([x, side], 1)).squeeze(1) for side in (z, eta))
        optimiser.zero_grad()
        (nn.functional.softplus(-t_p) + nn.functional.softplus(t_q)).mean().backward()
        optimiser.step()
    model = shifted(m, n)
    with_critics(model, AVB(known="none"), {"critic": lambda x, z: net(torch.cat([x, z], 1)).squeeze(1)})
    found = critics(model, Observed(data_of(torch.randn(400, n), train)))
    assert found.named("accuracy[critic] on train").n == few
    assert found.named("accuracy[critic] on train").value > found.named("accuracy[critic]").value + 0.1
    assert "it knows its training images by heart" in only(found).text


def test_few_images_are_said_to_be_few() -> None:
    """Ten images cannot show a calibration error of a twentieth; nor any number of them a KL above its logarithm."""
    observed = replace(images(), limit=10)
    assert (
        "so few images cannot show whether it is calibrated"
        in only(critics(shifted(lambda x: x), observed)).text
    )
    sure = shifted(lambda x: torch.full_like(x, 3.2))  # KL = 10.2; half the pairs are saturated
    assert "saturated" in only(critics(sure, images())).text
    less = shifted(lambda x: torch.full_like(x, 2.3))  # KL = 5.3, and 40 pairs show log 40 = 3.7
    text = only(critics(less, replace(images(), limit=40), draws=1)).text
    assert "is more than the 3.7 nats that 40 pairs can show" in text


# --- calibration --------------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    """Three in four of the pairs with σ = ¾ are from P: no error. Twice the log ratio says 9/10: 0.15 too sure."""
    t = math.log(3) * torch.tensor([1.0, 1, 1, -1]).unsqueeze(1)
    assert calibration(t, -t, bins=2).error == pytest.approx(0, abs=1e-7)
    twice = calibration(2 * t, -2 * t, bins=2)
    assert twice.error == pytest.approx(0.15)
    assert twice.confidence == pytest.approx(0.9) and twice.lean == pytest.approx(0, abs=1e-7)
    # A shift by log 3: σ is 0.9 where 0.75 are from P and ½ where 0.25 are: (0.15 + 0.25)/2 off, all to one side.
    assert calibration(t + math.log(3), -t + math.log(3), bins=2).error == pytest.approx(0.2)
    assert calibration(t + math.log(3), -t + math.log(3), bins=2).lean == pytest.approx(0.2)


def test_a_critic_of_one_opinion_has_no_calibration_error_by_the_order_of_its_pairs() -> None:
    assert calibration(torch.zeros(500, 3), torch.zeros(500, 3)).error == 0


@pytest.mark.parametrize("draws", [1, 6])
def test_calibrated_pairs_have_the_error_of_chance(draws: int) -> None:
    """Over 300 sets of 200 images: the mean error is the mean chance, and its deviation the one that is told.

    To 5 errors of the mean over sets, and 3 % for the normal approximation in bins of 20 pairs and more. The
    deviation over 300 sets is itself known to 4 %: 5 of them are 20 %.
    """
    found = [calibration(p, q) for p, q in zip(*calibrated_pairs(300, 200, draws), strict=True)]
    error, chance, told = (
        torch.tensor([getattr(c, k) for c in found]) for k in ("error", "chance", "stderr")
    )
    allowed = SIGMAS * float(error.std()) / math.sqrt(300) + 0.03 * float(chance.mean())
    assert abs(float(error.mean() - chance.mean())) < allowed
    assert float(error.std()) == pytest.approx(float(told.mean()), rel=0.2)


def test_pairs_of_one_image_are_not_independent() -> None:
    """The same pairs six times over show nothing more: error, chance and deviation stay as they were."""
    (p,), (q,) = calibrated_pairs(1, 200)
    once, often = calibration(p, q), calibration(p.repeat(1, 6), q.repeat(1, 6))
    assert vars(often) == pytest.approx(vars(once))


def test_the_mean_ratio_and_its_error() -> None:
    """E_Q[e^T] is 1 for a log ratio and e^c for one c too large; over 300 sets its error is the one that is told."""
    m, count = 0.7, 300
    q = -0.5 * m**2 + m * torch.randn(count, 200, 2)
    values, errors = torch.tensor([log_mean_ratio(each + 1.3) for each in q]).T
    assert (
        abs(float(values.mean()) - 1.3) < SIGMAS * float(values.std()) / math.sqrt(count) + 0.002
    )  # bias var/2n
    assert float(values.std()) == pytest.approx(
        float(errors.mean()), rel=0.25
    )  # 4 % to 5 errors, and heavy tails
