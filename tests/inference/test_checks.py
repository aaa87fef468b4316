"""What the checks are made of: their size where nothing is wrong, their power where something is, other programs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import advae
from advae.inference.diagnostics import headline, stein_check
from advae.metrics.kernel_stein import stein, stein_matrix
from advae.metrics.pareto import pareto_k
from advae.metrics.rhat import effective_size, rhat
from advae.metrics.sliced import sliced_wasserstein

N, D, TRIALS, LEVEL = 200, 3, 40, 0.05


def mixture_score(x: Tensor, centre: float) -> Tensor:
    """Of two unit normals at ±centre along the first axis, half each."""
    score = -x.clone()
    score[:, 0] += centre * torch.tanh(centre * x[:, 0])
    return score


def mixture(n: int, centre: float, share: float) -> Tensor:
    x = torch.randn(n, D)
    x[:, 0] += centre * torch.where(torch.rand(n) < share, 1.0, -1.0)
    return x


CLAIMS: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor], float, float]] = {
    # draws, score, and between which shares of the trials they are rejected at 5 %
    "exact": (lambda: torch.randn(N, D), lambda x: -x, 0.0, 0.15),
    "exact mixture": (lambda: mixture(N, 1.5, 0.5), lambda x: mixture_score(x, 1.5), 0.0, 0.15),
    "shifted by 0.3": (lambda: torch.randn(N, D) + 0.3, lambda x: -x, 0.95, 1.0),
    "scaled by 1.3": (lambda: 1.3 * torch.randn(N, D), lambda x: -x, 0.9, 1.0),
    "scaled by 0.75": (lambda: 0.75 * torch.randn(N, D), lambda x: -x, 0.9, 1.0),
    "one mode of two, 3 apart": (lambda: mixture(N, 1.5, 1.0), lambda x: mixture_score(x, 1.5), 0.9, 1.0),
    "one mode of two, 6 apart": (lambda: mixture(N, 3.0, 1.0), lambda x: mixture_score(x, 3.0), 0.0, 0.3),
}
"""The last is what no score can see: between modes six standard deviations apart there are no draws. It is here so that
nobody promises otherwise.

Of 40 trials at 5 % more than 15 % are rejected by chance once in 200 times.
"""


@pytest.mark.parametrize("claim", CLAIMS)
def test_power_of_the_stein_discrepancy(claim: str) -> None:
    draw, score, least, most = CLAIMS[claim]
    rejected = 0
    for trial in range(TRIALS):
        x = draw()
        rejected += stein(x, score(x), signs=199, seed=trial).p <= LEVEL
    assert least <= rejected / TRIALS <= most


def test_the_stein_kernel_is_that_of_its_definition(double: None) -> None:
    """By automatic differentiation of k."""
    x, y = torch.randn(2, D)
    s = torch.randn(2, D)

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (1 + (x - y).square().sum() / D).rsqrt()

    gx, gy = torch.func.grad(k, 0)(x, y), torch.func.grad(k, 1)(x, y)
    mixed = torch.func.jacfwd(torch.func.grad(k, 0), 1)(x, y).trace()
    expected = k(x, y) * (s[0] @ s[1]) + s[0] @ gy + s[1] @ gx + mixed
    torch.testing.assert_close(stein_matrix(torch.stack([x, y]), s)[0, 1], expected)


def test_pareto_shape_of_known_tails() -> None:
    """Weights u^(−k), u uniform, have a tail of shape k; 4,000 of them know it to about 0.1 (tail of 190)."""
    for k in (0.3, 0.7, 1.2):
        found = torch.tensor([pareto_k(-k * torch.rand(4000).log()) for _ in range(10)])
        assert abs(float(found.mean()) - (190 * k + 5) / 200) < 0.1
    assert pareto_k(torch.zeros(100)) == -math.inf
    assert pareto_k(torch.tensor([0.0, math.nan] * 50)) == math.inf
    assert pareto_k(torch.full((100,), -math.inf)) == math.inf


def test_rhat_sees_what_differs() -> None:
    draws = torch.randn(4, 500, 3)
    assert float(rhat(draws).max()) < 1.02
    shifted, scaled = draws.clone(), draws.clone()
    shifted[0] += 1
    scaled[0] *= 3
    assert float(rhat(shifted).min()) > 1.05
    assert float(rhat(scaled).min()) > 1.05
    assert 1200 < float(effective_size(draws).min()) < 3000


def test_a_number_that_is_constant_agrees_with_itself() -> None:
    """As the first entry of a correlation matrix's factor; but not one that is another constant in every chain."""
    draws = torch.randn(4, 500, 3)
    draws[..., 1] = 1.0
    draws[..., 2] = torch.arange(4.0).unsqueeze(1)
    found = rhat(draws)
    assert float(found[0]) < 1.02 and float(found[1]) == 1 and not float(found[2]) < 1e3
    assert float(effective_size(draws)[1]) == draws[..., 1].numel()


def test_many_fits_can_be_told_by_the_stein_discrepancy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is shared out over the fits: p-values of a thousand signs would be too coarse for eleven."""
    posterior = advae.infer(
        lambda x: -0.5 * x.square().sum(-1), {"x": (2,)}, family="full-rank", steps=60, fits=11, quiet=True
    )
    right = type(posterior).unconstrained
    monkeypatch.setattr(type(posterior), "unconstrained", lambda *a, **k: 3 * right(*a, **k))
    assert any(remark.warning for remark in stein_check(posterior).remarks)


def test_against_arviz() -> None:
    """The same formulas in another program."""
    arviz = pytest.importorskip("arviz")
    if int(arviz.__version__.partition(".")[0]) >= 1:
        pytest.skip("the functions on arrays are those of ArviZ before version 1")
    draws = torch.randn(4, 301, 1).double().cumsum(1) * 0.1 + torch.randn(4, 301, 1)
    assert float(rhat(draws)[0]) == pytest.approx(
        float(arviz.rhat(draws[..., 0].numpy(), method="rank")), rel=1e-6
    )
    assert float(effective_size(draws)[0]) == pytest.approx(
        float(arviz.ess(draws[..., 0].numpy(), method="bulk")), rel=0.05
    )
    log_w = -0.6 * torch.rand(4000).double().log()
    assert pareto_k(log_w) == pytest.approx(float(arviz.psislw(log_w.numpy())[1]), abs=0.02)


def test_sliced_distance_of_a_shift() -> None:
    """A shift by a costs E|vᵀa| = |a| · E|v₁|, and E|v₁| = 2/π in two dimensions; 200 directions know it to 4 %."""
    x = torch.randn(100, 2)
    assert sliced_wasserstein(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5 * 2 / math.pi, rel=0.12)


def test_a_good_posterior_passes_and_a_poor_one_is_told(quick_annealing: None) -> None:
    def curved(x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * x.square() - 8 * (y - x.square()).square()

    quick = {"family": "full-rank", "steps": 60, "fits": 2, "quiet": True}
    good = advae.infer(lambda x: -0.5 * x.square().sum(-1), {"x": (2,)}, **quick).check()
    assert not any(remark.warning for remark in good.remarks), [remark.text for remark in good.remarks]
    poor = advae.infer(curved, {"x": (), "y": ()}, **quick).check()
    warned = {remark.about for remark in poor.remarks if remark.warning}
    assert {"posterior", "Stein", "evidence"} <= warned
    assert headline(poor.remarks[1:]).warning
