"""Flows: densities against the change of variables, their gradients, grids and samples.

A flow is made by its head of raw numbers and weights that put it far from the identity, where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from advae.distributions import HEADS, Distribution, Head
from advae.distributions.base import LOG_2PI
from advae.distributions.flow import Flow
from advae.distributions.normal import MIN_SCALE
from advae.errors import ConfigError
from truth.sampling import assert_close, assert_sharp, batch_means

B = 3
RARE = 1e-5  # a right program fails the goodness-of-fit test with this probability
FLOWS: dict[str, dict[str, Any]] = {
    "planar": {"name": "planar", "length": 6},
    "iaf": {"name": "iaf", "transforms": 3, "hidden": [9, 8], "context": 2},
}

every_flow = pytest.mark.parametrize("name", FLOWS)
double = pytest.mark.usefixtures("double")


def crooked(name: str, event: tuple[int, ...] = (2,), **options: Any) -> tuple[Head, Tensor]:
    """A head and raw numbers ``[B, values, *event]`` that make a flow far from its normal; planar: bends of up to 3."""
    head: Head = HEADS.build({**FLOWS[name], **options}, event_shape=event)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    raw = torch.randn(B, head.values, *event)
    if name == "planar":
        raw[:, 2 : 2 + head.length] *= 15
    raw[:, 1] = 0.3 * raw[:, 1] - 0.5
    return head, raw


def flow(head: Head, raw: Tensor) -> Flow:
    """What the head makes of the raw numbers."""
    made = head(lambda inputs: raw, torch.zeros(len(raw), 1))
    assert isinstance(made, Flow)
    return made


# --- densities ----------------------------------------------------------------------------------------------


@double
@every_flow
@pytest.mark.parametrize("event", [(1,), (3,), (2, 2)], ids=str)
def test_the_density_is_the_change_of_variables(name: str, event: tuple[int, ...]) -> None:
    """log q(z) = log N(z₀) − log |det ∂z/∂z₀|, the Jacobian by autograd, the normal written out: to rounding."""
    head, raw = crooked(name, event)
    q, n = flow(head, raw), math.prod(event)
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob()
    torch.manual_seed(1)
    noise = torch.randn(B, n)
    mean, log_scale = raw[:, :2].flatten(2).unbind(1)
    floor = math.log(MIN_SCALE)
    scale = torch.exp(floor + nn.functional.softplus(log_scale - floor))
    start = mean + scale * noise
    moved = 0.0
    for b in range(B):
        alone = flow(head, raw[b : b + 1])
        jacobian = torch.autograd.functional.jacobian(
            lambda s, alone=alone: alone.forward(s[None])[0][0], start[b]
        )
        log_n = -0.5 * (noise[b].square() + LOG_2PI).sum() - scale[b].log().sum()
        expected = log_n - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_q[b], expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(z[b].flatten(), alone.forward(start[None, b])[0][0], atol=1e-12, rtol=0)
        moved = max(moved, float((jacobian - torch.eye(n)).abs().max()))
    assert moved > 0.5, "too near the identity to show anything"
    torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-9, rtol=0)


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_back_and_forth(name: str, dtype: torch.dtype) -> None:
    """80 planar layers of eight dimensions, and the autoregressive steps.

    Each way rounds some hundred times, and going back multiplies an error by the inverse of a layer's least slope: a
    thousandfold over all layers here leaves 10⁵ roundings.
    """
    many = {"length": 80} if name == "planar" else {}
    head, raw = crooked(name, (8,), **many)
    if many:
        raw[:, 2:82] /= 15
    q = flow(head.to(dtype), raw.to(dtype))
    start = q.base.sample((50,))
    value, log_det = q.forward(start)
    again, its_log_det = q.inverse(value)
    tolerance = 1e5 * torch.finfo(dtype).eps
    torch.testing.assert_close(again, start, atol=tolerance, rtol=0)
    torch.testing.assert_close(its_log_det, log_det, atol=tolerance, rtol=0)
    assert float((value - start).detach().abs().mean()) > 0.3


@double
@every_flow
def test_gradients_of_a_density(name: str) -> None:
    """Of the density of a given value, which goes backwards, in value and raw numbers: finite differences."""
    head, raw = crooked(name)
    value = flow(head, raw).sample((2,))

    def log_q(value: Tensor, raw: Tensor) -> Tensor:
        return flow(head, raw).log_prob(value)

    assert torch.autograd.gradcheck(log_q, (value.requires_grad_(), raw.requires_grad_()))


@double
@every_flow
def test_forwards_and_backwards_have_one_gradient(name: str) -> None:
    """d/dφ log q_φ(z_φ(ε)) by the draw, and by the inverse of the draw: in the raw numbers and the head's weights.

    Both are derivatives of one function: equal to rounding. With constant parameters the path through z alone is left,
    which differs.
    """
    head, raw = crooked(name)
    leaves = [raw.requires_grad_(), *head.parameters()]

    def gradients(density: Callable[[Flow], Tensor]) -> Tensor:
        torch.manual_seed(1)
        grads = torch.autograd.grad(density(flow(head, raw)).sum(), leaves)
        return torch.cat([g.flatten() for g in grads])

    def apart(q: Flow, of: Callable[[Flow], Distribution]) -> Tensor:
        z = q.rsample((4,))
        return of(q).log_prob(z)

    together = gradients(lambda q: q.rsample_and_log_prob((4,))[1])
    backwards = gradients(lambda q: apart(q, lambda q: q))
    path = gradients(lambda q: apart(q, lambda q: q.fixed()))
    torch.testing.assert_close(backwards, together, atol=1e-9, rtol=1e-9)
    assert float((path - together).norm()) > 0.1 * float(together.norm())


@every_flow
def test_a_density_is_in_single_precision_whatever_the_networks_run_in(name: str) -> None:
    """Under autocast a draw's density is that of full precision: bfloat16 would leave three digits of it."""
    head, raw = crooked(name, (4,))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        q = flow(head, raw.bfloat16())
        z, log_q = q.rsample_and_log_prob((20,))
        within = q.log_prob(z)
    assert z.dtype == log_q.dtype == torch.float32
    for full in (within, q.log_prob(z)):
        torch.testing.assert_close(full, log_q, atol=1e-3, rtol=0)


# --- against grids ------------------------------------------------------------------------------------------

POINTS, CELLS = 600, 12


def grid(q: Flow) -> tuple[Tensor, Tensor, Tensor]:
    """For the first element of the batch: the middles of a fine grid ``[POINTS², 2]``, their masses, its ends.

    It is as wide as the range of 4,000 draws, and half of that further on each side.
    """
    z = q.sample((4000,))[:, 0]
    low, high = z.min(0).values, z.max(0).values
    low, high = low - 0.5 * (high - low), high + 0.5 * (high - low)
    steps = (torch.arange(POINTS) + 0.5) / POINTS
    axes = [lo + (hi - lo) * steps for lo, hi in zip(low, high, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    with torch.no_grad():
        density = q.log_prob(points.unsqueeze(1).expand(-1, B, 2))[:, 0].exp()
    return points, density * ((high - low) / POINTS).prod(), torch.stack([low, high])


@double
@every_flow
def test_the_density_integrates_to_one_and_its_draws_follow_it(name: str) -> None:
    """On a grid of 600 × 600 points.

    The sum over a smooth density's grid errs by less than any power of its spacing, which is a thirtieth of a standard
    deviation; what lies beyond the grid, half the range of 4,000 draws away from the outermost of them on every
    side, is far below one in 4,000. Seen: 5e-7 at the worst of four; so 1e-5. A mistaken determinant errs by its own
    size.
    """
    head, raw = crooked(name)
    q = flow(head, raw)
    points, mass, (low, high) = grid(q)
    assert abs(float(mass.sum()) - 1) < 1e-5
    # chi-square over 12 × 12 cells, those with fewer than ten draws expected being one
    n = 20_000
    expected = mass.reshape(CELLS, POINTS // CELLS, CELLS, -1).sum((1, 3)).flatten() * n
    drawn = q.sample((n,))[:, 0]
    column = ((drawn - low) / (high - low) * CELLS).long().clamp(0, CELLS - 1)
    counts = torch.bincount(column[:, 0] * CELLS + column[:, 1], minlength=CELLS**2).to(expected.dtype)
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert int(many.sum()) > 20 and chi2 < stats.chi2.isf(RARE, df=int(many.sum()))
    # moments by few draws are unbiased, and far from those of the normal that the flow began with
    mean = mass @ points
    centred = points - mean
    cov = (mass[:, None] * centred).T @ centred
    exact = torch.cat([mean, cov.flatten(), cov.diagonal(), mean])
    q.moment_samples = 200

    def draw() -> Tensor:
        (m, full), (_, variance) = q.moments(full=True), q.moments()
        return torch.cat([m[0], full[0].flatten(), variance[0], q.mean[0]])

    found = batch_means(draw)
    assert_close(found, exact, name, rounding=1e-5)
    assert_sharp(found, exact, name)


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option"), [("planar", "length"), ("iaf", "transforms"), ("iaf", "context")]
)
def test_nothing_to_build_is_refused(name: str, option: str) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        HEADS.build({"name": name, option: 0}, event_shape=(2,))


def test_zuko_leaves_the_checks_of_torch_as_they_were() -> None:
    HEADS.build({"name": "iaf"}, event_shape=(2,))
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(0.0, -1.0)


@double
def test_each_coordinate_follows_those_before_it() -> None:
    """A step's Jacobian is a triangle, and of two steps the second is the other one; the flow's is neither."""
    head, raw = crooked("iaf", (3,), transforms=2)
    q = flow(head, raw[:1])

    def jacobian(steps: Any) -> Tensor:
        full: Tensor = torch.autograd.functional.jacobian(lambda s: steps(s[None])[0], torch.randn(3))
        return full

    context = raw[:1, 2:].flatten(1)
    first, second = (jacobian(lambda s, step=step: step(context)(s)) for step in head.steps.steps)
    assert float(first.triu(1).abs().max()) == 0 and float(second.tril(-1).abs().max()) == 0
    below = torch.ones(3, 3).tril(-1).bool()
    assert float(first[below].abs().min()) > 1e-4 and float(second.T[below].abs().min()) > 1e-4
    assert float(jacobian(lambda s: q.forward(s)[0]).abs().min()) > 1e-4
