"""Verdicts on critics: optimal critics pass, each fault fails its own criterion; calibration by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advae.evaluation.critics.critic_diagnostics import evaluate_critics
from advae.evaluation.critics.verdict import compute_calibration
from advae.evaluation.estimate import Remark
from advae.evaluation.eval_data import EvalData
from advae.methods.avb import AVB
from evaluation.critics.critic_cases import (
    IMAGES,
    SIGMAS,
    D,
    assert_is,
    calibrated_pairs,
    criterion,
    data_of,
    failed,
    images,
    only,
    shifted,
    with_critics,
)

CALIBRATION, RATIOS, SATURATION = "calibration error above chance", "log E_Q[P/Q]", "saturation"
OVERFITTING, SIGN, MOMENTS = "accuracy gap to training", "claimed KL", "KL by posterior moments"


def verdict_of(change: Callable[[Tensor], Tensor] = lambda T: T, data: EvalData | None = None) -> Remark:
    """The remark on a critic whose log ratio is changed."""
    return only(evaluate_critics(shifted(lambda x: 1.2 * x, change=change), data or images()))


def test_optimal_critic_has_bayes_accuracy() -> None:
    """T is N(±|m|²/2, |m|²) on the two sides of an x: right with probability Φ(|m|/2), saturated in two tails."""
    data = images()
    m = 1.2 * data.data.test.raw(torch.arange(IMAGES)).norm(dim=1).double()
    result, phi = evaluate_critics(shifted(lambda x: 1.2 * x), data), torch.special.ndtr
    assert_is(result.find("accuracy[critic]"), float(phi(m / 2).mean()))
    assert_is(result.find("claimed KL[critic]"), float(m.square().mean() / 2))
    assert_is(result.find("KL by posterior moments[critic]"), float(m.square().mean() / 2))
    beyond = phi(m / 2 - 10 / m) + phi(-m / 2 - 10 / m)
    assert_is(result.find("saturation[critic]"), float(beyond.mean()))
    a = float(phi(m / 2).mean())
    bound = a * math.log(a / (1 - a)) + (1 - a) * math.log((1 - a) / a)
    assert_is(result.find("KL by accuracy[critic]"), bound, rounding=0.01)  # pseudo-counts: 2 of 2,000
    assert not failed(only(result)) and only(result).text.startswith("Reliable critic")


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], set[str], str]] = {
    "twice": (lambda T: 2 * T, {CALIBRATION, RATIOS}, "overconfidence"),
    "a third": (lambda T: T / 3, {CALIBRATION, MOMENTS}, "underconfidence"),
    "too low": (lambda T: T - 1.5, {CALIBRATION, MOMENTS}, "bias toward Q"),
    "too high": (lambda T: T + 1.5, {CALIBRATION, RATIOS}, "bias toward P"),
    "a hundred times": (lambda T: 100 * T, {CALIBRATION, RATIOS, SATURATION}, "overconfidence"),
    "beyond exp": (lambda T: 1e4 * T, {CALIBRATION, RATIOS, SATURATION}, "overconfidence"),
    "negative": (lambda T: -T, {CALIBRATION, RATIOS, MOMENTS, SIGN}, "overconfidence"),
}


@pytest.mark.parametrize("change", FAULTS)
def test_each_fault_fails_its_own_criteria(change: str) -> None:
    wrong, criteria, miscalibration = FAULTS[change]
    remark = verdict_of(wrong)
    assert remark.warning and remark.text.startswith("Unreliable critic")
    assert criteria <= failed(remark) and miscalibration in remark.text
    others = {CALIBRATION, RATIOS, SATURATION, OVERFITTING, SIGN, MOMENTS} - criteria
    assert not others & failed(remark), remark.criteria


def test_error_of_the_elbo_is_the_error_of_the_kl() -> None:
    """A critic 1.5 nats too low, under the moments of a normal, which give the exact KL."""
    remark = verdict_of(lambda T: T - 1.5)
    # 2,000 examples: the difference to the bound has an error of 0.02.
    assert criterion(remark, MOMENTS).value == pytest.approx(1.5, abs=0.1)
    assert "ELBO" in remark.text and "too high" in remark.text


def test_overfitted_critic() -> None:
    """m(x) has arbitrary signs: 40 examples in 30 dimensions can be memorized, but the map cannot be learned."""
    n, few = 30, 40
    A = torch.randn(D, n)

    def m(x: Tensor) -> Tensor:
        return 1.5 * torch.sign(torch.sin(3 * x @ A.T))

    train = torch.randn(few, n)
    net = nn.Sequential(nn.Linear(n + D, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    x = train.repeat(8, 1)
    for _ in range(150):
        z, eta = m(x) + torch.randn(len(x), D), torch.randn(len(x), D)
        t_p, t_q = (net(torch.cat([x, side], 1)).squeeze(1) for side in (z, eta))
        optimizer.zero_grad()
        (nn.functional.softplus(-t_p) + nn.functional.softplus(t_q)).mean().backward()
        optimizer.step()
    model = shifted(m, n)
    with_critics(model, AVB(known="none"), {"critic": lambda x, z: net(torch.cat([x, z], 1)).squeeze(1)})
    result = evaluate_critics(model, EvalData(data_of(torch.randn(400, n), train)))
    assert result.find("accuracy[critic] on train").n == few
    assert result.find("accuracy[critic] on train").value > result.find("accuracy[critic]").value + 0.1
    assert OVERFITTING in failed(only(result)) and "overfitting" in only(result).text


def test_too_few_examples_are_inconclusive() -> None:
    """Ten examples cannot show a calibration error of a twentieth, nor any number n of pairs a KL above log n."""
    remark = only(evaluate_critics(shifted(lambda x: x), replace(images(), limit=10)))
    assert failed(remark) == {"calibration error by chance"} and remark.text.startswith("Possibly unreliable")
    saturated = shifted(lambda x: torch.full_like(x, 3.2))  # KL = 10.2; half the pairs are saturated
    assert SATURATION in failed(only(evaluate_critics(saturated, images())))
    strong = shifted(lambda x: torch.full_like(x, 2.3))  # KL = 5.3, and 40 pairs can show log 40 = 3.7
    remark = only(evaluate_critics(strong, replace(images(), limit=40), samples=1))
    assert criterion(remark, "claimed KL up to log n").threshold == pytest.approx(math.log(40))
    assert "claimed KL up to log n" in failed(remark)


def test_criteria_are_a_table_in_json() -> None:
    """Name, value, threshold and whether it passed; the estimates and the sentence are next to it."""
    result = evaluate_critics(shifted(lambda x: x), replace(images(), limit=300)).to_dict()
    (remark,) = result["remarks"]
    assert {"about", "text", "warning", "criteria"} <= remark.keys() and result["estimates"]
    for row in remark["criteria"]:
        assert {"name", "value", "threshold", "passed", "limit"} == row.keys()
    assert {SATURATION, CALIBRATION, OVERFITTING, RATIOS, SIGN, MOMENTS} <= {
        r["name"] for r in remark["criteria"]
    }


# --- calibration --------------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    """Three in four of the pairs with σ = ¾ are from P: no error. Twice the log ratio gives 9/10: an error of 0.15."""
    t = math.log(3) * torch.tensor([1.0, 1, 1, -1]).unsqueeze(1)
    assert compute_calibration(t, -t, bins=2).error == pytest.approx(0, abs=1e-7)
    twice = compute_calibration(2 * t, -2 * t, bins=2)
    assert twice.error == pytest.approx(0.15)
    assert twice.confidence == pytest.approx(0.9) and twice.lean == pytest.approx(0, abs=1e-7)
    # A shift by log 3: σ is 0.9 where 0.75 are from P and ½ where 0.25 are: an error of (0.15 + 0.25)/2 toward P.
    shift = compute_calibration(t + math.log(3), -t + math.log(3), bins=2)
    assert shift.error == pytest.approx(0.2) and shift.lean == pytest.approx(0.2)


def test_constant_log_ratio_has_no_calibration_error() -> None:
    """Pairs with equal T are split evenly, whatever their order."""
    assert compute_calibration(torch.zeros(500, 3), torch.zeros(500, 3)).error == 0


@pytest.mark.parametrize("samples", [1, 6])
def test_calibrated_pairs_have_the_error_expected_by_chance(samples: int) -> None:
    """Over 300 sets of 200 examples, the error has the expected mean and standard deviation.

    To 5 errors of the mean over sets, and 3 % for the normal approximation in bins of 20 pairs and more. The
    deviation over 300 sets is itself known to 4 %: 5 of them are 20 %.
    """
    results = [compute_calibration(p, q) for p, q in zip(*calibrated_pairs(300, 200, samples), strict=True)]
    error, chance, stderr = (
        torch.tensor([getattr(c, k) for c in results]) for k in ("error", "chance", "stderr")
    )
    tolerance = SIGMAS * float(error.std()) / math.sqrt(300) + 0.03 * float(chance.mean())
    assert abs(float(error.mean() - chance.mean())) < tolerance
    assert float(error.std()) == pytest.approx(float(stderr.mean()), rel=0.2)


def test_repeated_pairs_of_an_example_add_no_evidence() -> None:
    """The same pairs six times: error, chance and deviation are unchanged."""
    (p,), (q,) = calibrated_pairs(1, 200)
    once, repeated = compute_calibration(p, q), compute_calibration(p.repeat(1, 6), q.repeat(1, 6))
    assert vars(repeated) == pytest.approx(vars(once))
