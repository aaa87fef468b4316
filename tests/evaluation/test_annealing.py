"""Annealed importance sampling and its Hamiltonian Monte Carlo against what is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from advae.distributions.normal import Normal
from advae.errors import ConfigError
from advae.evaluation import annealing, evaluate
from advae.evaluation.annealing import Path, Start, ais, annealed, frozen, start_of, temperatures
from advae.evaluation.hmc import State, leapfrog, transition
from advae.evaluation.observed import Observed
from advae.model import LatentModel
from evaluation.toy import D, N, data_of, exact, toy_model

pytestmark = pytest.mark.usefixtures("double")


def gaussian(z: Tensor) -> tuple[Tensor, Tensor]:
    """``N(0, diag(1, 4))`` in two dimensions, unnormalised."""
    variance = torch.tensor([1.0, 4.0])
    return -0.5 * (z.square() / variance).sum(-1), -z / variance


def quartic(z: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(−Σ z⁴/4)``: not quadratic, so that the leapfrog's error is its usual one."""
    return -0.25 * z.pow(4).sum(-1), -z.pow(3)


def state(target: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor) -> State:
    return State(z, *target(z))


ONE = torch.ones(2, dtype=torch.float64)


def test_leapfrog_is_reversible() -> None:
    """Forward, momentum turned round, forward again: back at the start, to rounding (1e-12 in double)."""
    begin, v = state(quartic, torch.randn(50, 2)), torch.randn(50, 2)
    step = torch.full((50, 1), 0.05)
    there, v_there = leapfrog(quartic, begin, v, step, ONE, 20)
    back, v_back = leapfrog(quartic, there, -v_there, step, ONE, 20)
    torch.testing.assert_close(back.z, begin.z, atol=1e-12, rtol=0)
    torch.testing.assert_close(-v_back, v, atol=1e-12, rtol=0)


def test_leapfrog_is_of_second_order() -> None:
    """Over a fixed time the energy error falls as the square of the step: a measured slope of 2.

    The next term of the error is of fourth order, so at steps of 1/20 to 1/80 the slope is within about 1 % of 2.
    """
    begin, v = state(quartic, torch.randn(500, 2)), torch.randn(500, 2)
    errors = []
    for steps in (20, 40, 80):
        end, v_end = leapfrog(quartic, begin, v, torch.full((500, 1), 1 / steps), ONE, steps)
        before, after = (0.5 * u.square().sum(-1) - s.log_prob for u, s in ((v, begin), (v_end, end)))
        errors.append((after - before).abs().mean().log().item())
    slope = (errors[0] - errors[2]) / math.log(4)
    assert slope == pytest.approx(2, abs=0.05)


def test_a_transition_leaves_its_target_invariant() -> None:
    """Started in the target, the chains' second moments stay: at a step so long that a third is refused.

    40,000 chains: the standard error of a variance is √(2/40,000) = 0.7 % of it; 4 of them. Without the refusals the
    moments are off by far more (seen: with every proposal taken the first variance is 15 % too large).
    """
    n = 40_000
    z = torch.randn(n, 2) * torch.tensor([1.0, 2.0])
    here, step = state(gaussian, z), torch.full((n, 1), 1.55)
    accepted = []
    for _ in range(10):
        here, accept = transition(gaussian, here, step, ONE, 3)
        accepted.append(accept.mean().item())
    assert 0.4 < sum(accepted) / 10 < 0.9  # else nothing would have been put to the test
    error = 4 * math.sqrt(2 / n)
    assert here.z[:, 0].var().item() == pytest.approx(1, rel=error)
    assert here.z[:, 1].var().item() == pytest.approx(4, rel=error)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_temperatures_rise_from_zero_to_one(schedule: str) -> None:
    betas = temperatures(50, schedule)  # type: ignore[arg-type]
    assert betas[0] == 0 and betas[-1] == pytest.approx(1) and len(betas) == 51
    assert all(a < b for a, b in pairwise(betas))


def bimodal(z: Tensor) -> Tensor:
    """``5 · (0.3 N(−2, ½²) + 0.7 N(2, ½²))`` in each of two coordinates' product: normaliser 25."""
    parts = torch.stack([math.log(w) - 2 * (z - m).square() for w, m in ((0.3, -2.0), (0.7, 2.0))])
    one = torch.logsumexp(parts, 0) - math.log(0.5 * math.sqrt(2 * math.pi)) + math.log(5)
    return one.sum(-1)


def test_the_normaliser_of_a_bimodal_target() -> None:
    """Its weights are unbiased: over 200 × 64 chains, within 4 standard errors of 25."""
    images = 200

    def path_of(c: int) -> Path:
        zeros = torch.zeros(c * images, 2)
        return Path(Normal(zeros, torch.full_like(zeros, math.log(2.0))), bimodal)

    result = annealed(path_of, images, chains=64, count=60)
    weights = result.log_prob.exp()
    error = weights.std().item() / math.sqrt(images)
    assert error < 0.3  # sharp enough to see an error of a few per cent
    assert weights.mean().item() == pytest.approx(25, abs=4 * error)


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


@pytest.mark.parametrize("start", ["prior", "normal"])
def test_the_evidence_of_a_linear_gaussian_model(model: LatentModel, start: Start) -> None:
    """Within 3 standard errors of the exact log p(x), image by image differences, from each start."""
    observed = Observed(data_of(model), limit=100)
    x = observed.data.protocol.observe(observed.data.test.raw(range(100)))
    estimate, result = ais(model, observed, chains=16, count=100, start=start)
    differences = result.log_prob - exact(model, x)
    error = differences.std().item() / 10
    assert error < 0.02
    # A lower bound: its bias is half the variance of log w over chains, which the spread of the differences shows.
    assert differences.mean().abs().item() < 3 * error + 0.5 * differences.var().item()
    assert estimate.kind == "lower bound" and estimate.protocol["temperatures"] == 100
    assert bool((result.acceptance > 0.4).all()) and bool((result.ess > 8).all())
    assert result.log_prob.shape == result.ess.shape == (100,)


def test_effective_sample_size_of_known_weights() -> None:
    """One leap from β = 0 to 1 is importance sampling: for p and f_0 equal every chain counts, ess = C."""

    def path_of(c: int) -> Path:
        start = Normal(torch.zeros(c * 3, D), torch.zeros(c * 3, D))
        return Path(start, start.log_prob)

    result = annealed(path_of, 3, chains=32, count=1)
    torch.testing.assert_close(result.ess, torch.full((3,), 32.0))
    torch.testing.assert_close(result.log_prob, torch.zeros(3))


def test_the_gradients_along_the_path(model: LatentModel) -> None:
    """Of both ends by autograd; a wrong one would cost efficiency only, which no estimate shows."""
    mean, log_scale, z = torch.randn(3, D), torch.randn(3, D), torch.randn(3, D, requires_grad=True)
    path = Path(Normal(mean, log_scale), bimodal)
    _, _, grad_0, grad_1 = path.ends(z)
    for grad, log_density in ((grad_0, path.start.log_prob), (grad_1, bimodal)):
        torch.testing.assert_close(grad, torch.autograd.grad(log_density(z).sum(), z)[0])


def test_starts_are_the_prior_or_the_moments_of_the_encoder(model: LatentModel) -> None:
    x = torch.randn(4, N)
    q, prior = start_of(model, x, "normal"), start_of(model, x, "prior")
    torch.testing.assert_close(q.mean, model.encode(x).mean)
    torch.testing.assert_close(q.scale.square(), model.encode(x).moments()[1] + 1e-6)
    assert bool((prior.mean == 0).all()) and bool((prior.scale == 1).all())


def test_the_model_is_left_as_it_was(model: LatentModel) -> None:
    """Annealing works on the same weights, and asks no gradient of them; the model given stays trainable."""
    model.train()
    copied = frozen(model)
    assert [p.data_ptr() for p in copied.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert not any(p.requires_grad for p in copied.parameters()) and not copied.training
    assert all(p.requires_grad for p in model.parameters()) and model.training


def test_ticks_are_counted_before_they_come(model: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress bar's total is the number of transitions, whatever the chunks."""
    monkeypatch.setattr(annealing, "BATCH", 12)  # 3 images of 4 chains at a time
    seen: list[int] = []
    observed = Observed(data_of(model), limit=7)
    ais(model, observed, chains=4, count=5, tick=lambda: seen.append(1))
    assert len(seen) == annealing.ticks(observed, 4, 5) == 3 * (5 + annealing.PILOT_TEMPERATURES)


def test_the_battery_gives_what_is_asked_for(model: LatentModel) -> None:
    data = data_of(model)
    found = evaluate(model, data, likelihood="ais", chains=4, temperatures=5, limit=6)
    assert [e.name for e in found] == ["rmse", "reconstruction", "ais"]
    assert set(found.images["ais"]) == {"log_prob", "ess", "acceptance"}
    assert found.named("ais").value == pytest.approx(found.images["ais"]["log_prob"].mean().item())
    assert [e.name for e in evaluate(model, data, likelihood=["elbo"], limit=6)][-1] == "elbo"
    with pytest.raises(ConfigError, match="did you mean 'iwae'"):
        evaluate(model, data, likelihood="iwea")
