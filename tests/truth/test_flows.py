"""Flows: densities against the change of variables, grids and samples; a posterior that no normal can reach.

A flow is made by its head of raw numbers and weights that put it far from the identity, where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import advae
from advae.data import DataOptions
from advae.distributions import HEADS, Distribution, Head
from advae.distributions.base import LOG_2PI
from advae.distributions.flow import Flow
from advae.distributions.normal import MIN_SCALE
from advae.distributions.planar import MARGIN, bend, invertible
from advae.errors import ConfigError
from advae.evaluation.ais import Annealing, ais
from advae.evaluation.bounds import log_weights
from advae.evaluation.observed import Observed
from advae.methods.base import conditional_density
from advae.model import Conditional, LatentModel
from advae.networks import NETWORKS
from advae.run import Run
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


# --- the planar layer ---------------------------------------------------------------------------------------


def hostile() -> tuple[Tensor, Tensor]:
    """u and w ``[·, 5]``: at random, of every length, and with u against w, the least invertible there is."""
    u, w = torch.randn(2000, 5), torch.randn(2000, 5)
    lengths = torch.logspace(-4, 2, 2000).unsqueeze(-1)
    against = -lengths.flip(0) * w
    zero = torch.zeros(2000, 5)
    pairs = [(u, w), (u * lengths, w), (u, w * lengths), (against, w), (-lengths * w, lengths * w), (u, zero)]
    us, ws = zip(*pairs, strict=True)
    return torch.cat(us), torch.cat(ws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_is_invertible(dtype: torch.dtype) -> None:
    """wᵀû > −1 whatever the network says, and it is the wᵀû of the û that is used.

    To rounding: n + 2 roundings of numbers as large as |w||û| and wᵀu; a lack of invertibility would show as −1 less
    some number of order one. The value that the density uses is above the margin in both precisions.
    """
    u, w = (v.to(dtype) for v in hostile())
    u_hat, a = invertible(u, w)
    assert bool(torch.isfinite(u_hat).all())
    rounding = 10 * torch.finfo(dtype).eps * (1 + (w * u).sum(-1).abs() + w.norm(dim=-1) * u_hat.norm(dim=-1))
    dot = (w.double() * u_hat.double()).sum(-1)
    assert float((dot - a).abs().sub(rounding).max()) <= 0
    assert float((-1 - dot - rounding).max()) <= 0
    # The margin is added last: it is there to the rounding of numbers of order one.
    assert float(a.min()) >= -1 + MARGIN - torch.finfo(dtype).eps
    assert float((w * u).sum(-1).min()) < -100, "no test unless u is far beyond what is allowed"


@double
def test_a_layer_without_u_does_nothing() -> None:
    """The identity: to a rounding."""
    head = HEADS.build({"name": "planar", "length": 80}, event_shape=(3,))
    raw = torch.randn(B, head.values, 3)
    raw[:, 2:82] = 0
    q = flow(head, raw)
    start = q.base.sample((5,))
    value, log_det = q.forward(start)
    torch.testing.assert_close(value, start, atol=1e-13, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(5, B), atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_equation_of_a_layer_is_solved(dtype: torch.dtype) -> None:
    """t + a tanh t = r from the least invertible a to a steep one, from tiny r to large ones, of both signs.

    Residual: some roundings of its three terms. Five are allowed.
    """
    a = torch.cat([-1 + MARGIN + torch.logspace(-6, 0, 60), torch.logspace(-4, 4, 60)]).to(dtype)
    r = torch.cat([torch.zeros(1), torch.logspace(-8, 4.5, 300)]).to(dtype)
    for sign in (1, -1):
        r_, a_ = torch.meshgrid(sign * r, a, indexing="ij")
        t = bend(r_, a_).double()
        bent = a_.double() * torch.tanh(t)
        residual = (t + bent - r_.double()).abs()
        terms = t.abs() + bent.abs() + r_.double().abs()
        assert float((residual / terms.clamp_min(1e-300)).max()) < 5 * torch.finfo(dtype).eps


@double
def test_the_solution_has_the_gradient_of_the_implicit_function() -> None:
    """Against finite differences."""
    r = torch.tensor([-30.0, -1.0, -0.02, 0.01, 0.4, 3.0], requires_grad=True)
    a = torch.tensor([5.0, -0.9, 0.5, -0.99, 40.0, -0.3], requires_grad=True)
    assert torch.autograd.gradcheck(bend, (r, a))


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
def test_known_terms_hold_the_weights_of_a_flow_constant(name: str) -> None:
    """Those in the head too, though the density is asked for after the network's call is over."""
    head = HEADS.build(FLOWS[name], event_shape=(2,))
    encoder = Conditional(NETWORKS.build({"name": "mlp"}, in_shape=(4,), out_shape=(head.values, 2)), head)
    x, z = torch.randn(B, 4, requires_grad=True), torch.randn(B, 2, requires_grad=True)
    log_q = conditional_density(encoder, x, z)
    assert isinstance(log_q, Tensor)
    torch.testing.assert_close(log_q, encoder(x).log_prob(z))
    grads = torch.autograd.grad(log_q.sum(), [x, z, *encoder.parameters()], allow_unused=True)
    assert all(g is not None and float(g.abs().sum()) > 0 for g in grads[:2])
    assert all(g is None for g in grads[2:])


@every_flow
def test_a_density_is_in_single_precision_whatever_the_networks_run_in(name: str) -> None:
    """Under autocast a draw's density agrees with its inverse's: bfloat16 would leave three digits of either."""
    head, raw = crooked(name, (4,))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        q = flow(head, raw.bfloat16())
        z, log_q = q.rsample_and_log_prob((20,))
        assert z.dtype == log_q.dtype == torch.float32
        torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-3, rtol=0)


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


# --- a posterior that no normal can reach -------------------------------------------------------------------

NOISE, STEPS, DRAWS, RATE = 0.3, 600, 256, 0.03


def log_joint(z: Tensor) -> Tensor:
    """``log p(x = 1, z)`` up to a constant: z ~ N(0, I₂), x = exp(z₁) + z₂ + noise. Skewed, along a bent line."""
    misfit = (1 - z[..., 0].exp() - z[..., 1]) / NOISE
    return -0.5 * z.square().sum(-1) - 0.5 * misfit.square()


class FullNormal(nn.Module):
    """A normal with any covariance, by its mean and a triangle."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.L = nn.Parameter(torch.zeros(1, 2)), nn.Parameter(torch.eye(2)[None].clone())

    def forward(self) -> MultivariateNormal:
        diagonal = self.L.diagonal(dim1=-2, dim2=-1).abs() + 1e-3
        return MultivariateNormal(self.mean, scale_tril=self.L.tril(-1) + torch.diag_embed(diagonal))


def fitted(name: str) -> Callable[[Tensor], Tensor]:
    """The log density of the family's member nearest to the posterior: least KL(q ‖ p), by Adam from one seed."""
    torch.manual_seed(0)
    if name == "full":
        module: nn.Module = FullNormal()
        make = module
    else:
        small = {"planar": {"length": 8}, "iaf": {"transforms": 2, "hidden": [32]}}.get(name, {})
        module = HEADS.build({"name": name, **small}, event_shape=(2,))
        module.raw = nn.Parameter(0.1 * torch.randn(1, module.values, 2))
        make = lambda: module(lambda inputs: module.raw, torch.zeros(1, 1))  # noqa: E731
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        q = make()
        if name == "full":
            z = q.rsample((DRAWS,))
            log_q = q.log_prob(z)
        else:
            z, log_q = q.rsample_and_log_prob((DRAWS,))
        optimiser.zero_grad()
        (log_q - log_joint(z)).mean().backward()
        optimiser.step()
        schedule.step()
    return torch.no_grad()(make().log_prob)


def test_flows_come_nearer_to_a_skewed_posterior_than_any_normal() -> None:
    """KL(q ‖ p(z|x)) by a grid; seen: normal 0.75, full covariance 0.26, planar 0.05, autoregressive 0.003.

    The grid's error is that of the densities' integrals, below 1e-4 here; two seeds of the fit differ by 0.03 at the
    worst. Flows must have less than half of what the best normal of any covariance leaves, which is larger than both.
    """
    axes = [torch.arange(-7, 7, 0.03).double(), torch.arange(-12, 6, 0.03).double()]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 2)
    cell = 2 * math.log(0.03)
    log_p = log_joint(points)[:, 0]
    log_p = log_p - torch.logsumexp(log_p, 0) - cell
    kl = {}
    for name in ("normal", "full", "planar", "iaf"):
        log_q = fitted(name)(points.float())[:, 0].double()
        mass = torch.exp(log_q + cell)
        assert abs(float(mass.sum()) - 1) < 1e-4, name
        kl[name] = float((mass * (log_q - log_p)).sum())
    assert kl["normal"] > kl["full"] > 0.2, kl
    assert all(-1e-4 < kl[name] < 0.5 * kl["full"] for name in ("planar", "iaf")), kl


# --- in a model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(FLOWS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five steps of a shipped recipe."""
    path = tmp_path_factory.mktemp(request.param) / "run"
    options = {"train.steps": 5, "train.batch": 32, "data.limit": 128, "train.samples_every": 0}
    return advae.train(f"vae-{request.param}-digits", options=options, out=path, quiet=True)


def test_trained_saved_loaded_and_judged(trained: Run, tmp_path: Path) -> None:
    model, data = trained.model(), advae.load_data(DataOptions(**trained.config["data"]))
    estimates = advae.evaluate(model, data, likelihood=("elbo", "iwae"), checks=("posterior",), limit=20)
    elbo = next(e for e in estimates if e.name == "elbo")
    iwae = next(e for e in estimates if e.name.startswith("iwae"))
    assert elbo.kind == "lower bound" and elbo.protocol["proposal"] == "encoder"
    assert math.isfinite(elbo.value) and iwae.value > elbo.value
    model.save_pretrained(tmp_path / "model")
    again = LatentModel.from_pretrained(tmp_path / "model")
    x = torch.rand(4, *model.x_shape)
    q, p = model.encode(x), again.encode(x)
    z = q.sample((2,))
    assert torch.equal(q.log_prob(z), p.log_prob(z))
    assert model.reconstruct(x, seed=1).equal(again.reconstruct(x, seed=1))


def test_weights_by_the_draw_are_weights_by_the_inverse(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The importance weights that bounds are made of, and the same with every draw inverted: to float32."""
    model = trained.model()
    x = torch.rand(6, *model.x_shape)
    torch.manual_seed(1)
    together = log_weights(model, x, 5, False)
    monkeypatch.setattr(Flow, "rsample_and_log_prob", backwards(Flow.rsample_and_log_prob))
    torch.manual_seed(1)
    torch.testing.assert_close(log_weights(model, x, 5, False), together, atol=1e-3, rtol=0)


def backwards(forwards: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The draw of ``rsample_and_log_prob`` with the density of ``log_prob``."""

    def drawn(self: Flow, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        value = forwards(self, sample_shape)[0]
        return value, self.log_prob(value)

    return drawn


def test_annealing_may_start_from_a_flow(trained: Run) -> None:
    """Its density is differentiated in the code, with weights that are no parameters."""
    model, data = trained.model(), advae.load_data(DataOptions(**trained.config["data"]))
    options = Annealing(chains=2, temperatures=4, start="encoder", leapfrogs=1)
    assert math.isfinite(ais(model, Observed(data, limit=3), options).value)


def test_a_closed_kl_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="monte-carlo"):
        advae.train("vae-planar-digits", options={"method.kl": "closed"}, out="never", quiet=True)


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
