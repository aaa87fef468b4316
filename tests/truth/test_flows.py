"""Flows: densities against the change of variables, finite differences, grids and samples.

The raw numbers and weights are far from the initial ones, where a flow is near the identity.
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
P_VALUE = 1e-5  # probability that a correct implementation fails the goodness-of-fit test
FLOWS: dict[str, dict[str, Any]] = {
    "planar": {"name": "planar", "num_layers": 6},
    "iaf": {"name": "iaf", "transforms": 3, "hidden": [9, 8], "context": 2},
}

every_flow = pytest.mark.parametrize("name", FLOWS)
double = pytest.mark.usefixtures("double")


def nonlinear_flow(name: str, event: tuple[int, ...] = (2,), **options: Any) -> tuple[Head, Tensor]:
    """Return a head and raw numbers ``[B, num_params, *event]`` of a flow far from the identity."""
    head: Head = HEADS.build({**FLOWS[name], **options}, event_shape=event)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    raw = torch.randn(B, head.num_params, *event)
    if name == "planar":
        raw[:, 2 : 2 + head.num_layers] *= 15
    raw[:, 1] = 0.3 * raw[:, 1] - 0.5
    return head, raw


def flow(head: Head, raw: Tensor) -> Flow:
    """Return the flow that the head makes of the raw numbers."""
    q = head(lambda inputs: raw, torch.zeros(len(raw), 1))
    assert isinstance(q, Flow)
    return q


# --- densities ----------------------------------------------------------------------------------------------


@double
@every_flow
@pytest.mark.parametrize("event", [(1,), (3,), (2, 2)], ids=str)
def test_density_is_the_change_of_variables(name: str, event: tuple[int, ...]) -> None:
    """log q(z) = log N(z₀) − log |det ∂z/∂z₀|, with the Jacobian by autograd: to rounding."""
    head, raw = nonlinear_flow(name, event)
    q, n = flow(head, raw), math.prod(event)
    torch.manual_seed(1)
    z, log_q = q.rsample_and_log_prob()
    torch.manual_seed(1)
    noise = torch.randn(B, n)
    mean, log_scale = raw[:, :2].flatten(2).unbind(1)
    floor = math.log(MIN_SCALE)
    scale = torch.exp(floor + nn.functional.softplus(log_scale - floor))
    start = mean + scale * noise
    distance = 0.0
    for b in range(B):
        single = flow(head, raw[b : b + 1])
        jacobian = torch.autograd.functional.jacobian(
            lambda s, single=single: single.forward(s[None])[0][0], start[b]
        )
        log_n = -0.5 * (noise[b].square() + LOG_2PI).sum() - scale[b].log().sum()
        expected = log_n - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_q[b], expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(z[b].flatten(), single.forward(start[None, b])[0][0], atol=1e-12, rtol=0)
        distance = max(distance, float((jacobian - torch.eye(n)).abs().max()))
    assert distance > 0.5, "the test needs a flow far from the identity"
    torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-9, rtol=0)


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_of_forward_is_the_identity(name: str, dtype: torch.dtype) -> None:
    """80 planar layers in eight dimensions, and autoregressive transforms.

    Each direction rounds some hundred times, and the inverse multiplies an error by the inverse of a layer's smallest
    singular value: a thousandfold over all layers here, so 10⁵ roundings.
    """
    options = {"num_layers": 80} if name == "planar" else {}
    head, raw = nonlinear_flow(name, (8,), **options)
    if options:
        raw[:, 2:82] /= 15
    q = flow(head.to(dtype), raw.to(dtype))
    start = q.base.sample((50,))
    value, log_det = q.forward(start)
    start_again, inverse_log_det = q.inverse(value)
    tolerance = 1e5 * torch.finfo(dtype).eps
    torch.testing.assert_close(start_again, start, atol=tolerance, rtol=0)
    torch.testing.assert_close(inverse_log_det, log_det, atol=tolerance, rtol=0)
    assert float((value - start).detach().abs().mean()) > 0.3


@double
@every_flow
def test_log_prob_gradient_matches_finite_differences(name: str) -> None:
    """In the value and the raw numbers."""
    head, raw = nonlinear_flow(name)
    value = flow(head, raw).sample((2,))

    def log_q(value: Tensor, raw: Tensor) -> Tensor:
        return flow(head, raw).log_prob(value)

    assert torch.autograd.gradcheck(log_q, (value.requires_grad_(), raw.requires_grad_()))


@double
@every_flow
def test_forward_and_inverse_have_the_same_gradient(name: str) -> None:
    """d/dφ log q_φ(z_φ(ε)) by the forward pass, and by the inverse: in the raw numbers and the head's weights.

    Both are derivatives of one function: equal to rounding. With detached parameters only the path through z is left,
    which differs.
    """
    head, raw = nonlinear_flow(name)
    leaves = [raw.requires_grad_(), *head.parameters()]

    def gradients(density: Callable[[Flow], Tensor]) -> Tensor:
        torch.manual_seed(1)
        grads = torch.autograd.grad(density(flow(head, raw)).sum(), leaves)
        return torch.cat([g.flatten() for g in grads])

    def separate(q: Flow, density: Callable[[Flow], Distribution]) -> Tensor:
        z = q.rsample((4,))
        return density(q).log_prob(z)

    forward = gradients(lambda q: q.rsample_and_log_prob((4,))[1])
    inverse = gradients(lambda q: separate(q, lambda q: q))
    path = gradients(lambda q: separate(q, lambda q: q.detach()))
    torch.testing.assert_close(inverse, forward, atol=1e-9, rtol=1e-9)
    assert float((path - forward).norm()) > 0.1 * float(forward.norm())


@every_flow
def test_density_is_in_single_precision_under_autocast(name: str) -> None:
    """bfloat16 would leave three digits of it."""
    head, raw = nonlinear_flow(name, (4,))
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
    """Return a grid ``[POINTS², 2]`` for the first element of the batch, the mass of each cell, and the grid's ends.

    It covers the range of 4,000 samples, and half of that more on each side.
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
def test_density_integrates_to_one_and_samples_follow_it(name: str) -> None:
    """On a grid of 600 × 600 points.

    The error of the sum over a smooth density's grid is less than any power of its spacing, a thirtieth of a standard
    deviation; the mass outside of the grid, half the range of 4,000 samples away from the outermost of them on every
    side, is far below 1/4,000. Observed: at most 5e-7 in four cases; so 1e-5. A wrong determinant would change the sum
    by its relative error.
    """
    head, raw = nonlinear_flow(name)
    q = flow(head, raw)
    points, mass, (low, high) = grid(q)
    assert abs(float(mass.sum()) - 1) < 1e-5
    # chi-squared over 12 × 12 cells; those with fewer than ten expected samples are merged
    n = 20_000
    expected = mass.reshape(CELLS, POINTS // CELLS, CELLS, -1).sum((1, 3)).flatten() * n
    samples = q.sample((n,))[:, 0]
    column = ((samples - low) / (high - low) * CELLS).long().clamp(0, CELLS - 1)
    counts = torch.bincount(column[:, 0] * CELLS + column[:, 1], minlength=CELLS**2).to(expected.dtype)
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert int(many.sum()) > 20 and chi2 < stats.chi2.isf(P_VALUE, df=int(many.sum()))
    # moments by few samples are unbiased
    mean = mass @ points
    centered = points - mean
    cov = (mass[:, None] * centered).T @ centered
    exact = torch.cat([mean, cov.flatten(), cov.diagonal(), mean])
    q.moment_samples = 200

    def sample_moments() -> Tensor:
        (m, full), (_, variance) = q.moments(full=True), q.moments()
        return torch.cat([m[0], full[0].flatten(), variance[0], q.mean[0]])

    estimate = batch_means(sample_moments)
    assert_close(estimate, exact, name, rounding=1e-5)
    assert_sharp(estimate, exact, name)


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "option"), [("planar", "num_layers"), ("iaf", "transforms"), ("iaf", "context")]
)
def test_flows_without_layers_raise(name: str, option: str) -> None:
    with pytest.raises(ConfigError):
        HEADS.build({"name": name, option: 0}, event_shape=(2,))


def test_importing_zuko_keeps_the_argument_checks_of_torch() -> None:
    HEADS.build({"name": "iaf"}, event_shape=(2,))
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(0.0, -1.0)


@double
def test_transforms_are_autoregressive_in_alternating_order() -> None:
    """The Jacobians of two transforms are lower and upper triangular; that of the flow is full."""
    head, raw = nonlinear_flow("iaf", (3,), transforms=2)
    q = flow(head, raw[:1])

    def jacobian(function: Any) -> Tensor:
        matrix: Tensor = torch.autograd.functional.jacobian(lambda s: function(s[None])[0], torch.randn(3))
        return matrix

    context = raw[:1, 2:].flatten(1)
    modules = head.transforms.transforms
    first, second = (jacobian(lambda s, module=module: module(context)(s)) for module in modules)
    assert float(first.triu(1).abs().max()) == 0 and float(second.tril(-1).abs().max()) == 0
    below = torch.ones(3, 3).tril(-1).bool()
    assert float(first[below].abs().min()) > 1e-4 and float(second.T[below].abs().min()) > 1e-4
    assert float(jacobian(lambda s: q.forward(s)[0]).abs().min()) > 1e-4
