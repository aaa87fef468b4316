"""The auxiliary-variable posterior against closed forms: linear maps of normals, whose marginal is known.

    q(a|x) = N(μ_a, S_a)      q(z|a,x) = N(b + G a, T)      r(a|x,z) = N(c + R z, V)       S_a, T, V diagonal

The head has no hidden layers here, so that its own networks are linear.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from advae.distributions import HEADS, Distribution
from advae.distributions.auxiliary import AuxiliaryHead, AuxiliaryPosterior
from advae.distributions.base import LOG_2PI
from advae.distributions.normal import MIN_SCALE
from advae.errors import NoDensityError
from advae.evaluation.eval_data import EvalData
from advae.evaluation.likelihood.bounds import elbo, iwae, log_weights
from advae.methods.vae import VAE
from advae.model import Conditional, LatentModel
from evaluation import toy
from evaluation.likelihood.test_bounds import difference_from_exact, gaussian_kl
from evaluation.toy import D, data_of, toy_model
from truth.sampling import assert_close, assert_sharp, batch_means, gradient
from truth.test_flow_posteriors import log_joint

FLOOR = math.log(MIN_SCALE)
K = 3  # length of a, except where a's posterior must be diagonal


class Rows(nn.Module):
    """A network whose rows are affine in x."""

    def __init__(self, n: int, rows: int) -> None:
        super().__init__()
        self.linear, self.rows = nn.Linear(n, rows * D), rows

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.linear(inputs).reshape(-1, self.rows, D)


def linear_model(k: int, context: int = 2) -> LatentModel:
    """The toy decoder with a linear auxiliary encoder of random weights and constant scales."""
    decoder = toy_model(1.0).decoder
    head = AuxiliaryHead((D,), auxiliary_dim=k, hidden=(), context=context)
    rows = Rows(toy.N, head.num_params)
    model = LatentModel(Conditional(rows, head), decoder, x_shape=(toy.N,), latent_dim=D)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.copy_(0.4 * torch.randn_like(p))
        flat = torch.arange(head.num_params * D)
        scales = (flat // D == 1) | ((flat >= (2 + context) * D + k) & (flat < (2 + context) * D + 2 * k))
        rows.linear.weight[scales] = 0
        for part, size in ((head.q_z, D), (head.reverse, k)):
            part.of_context.weight[size:] = 0
            part.of_given.weight[size:] = 0
    return model


def soft_log_scale(raw: Tensor) -> Tensor:
    return FLOOR + torch.log1p(torch.exp(raw - FLOOR))


def raw_scale(scale: Tensor) -> Tensor:
    """The raw number that is mapped to this scale."""
    return FLOOR + torch.log(torch.expm1(scale.log() - FLOOR))


def bound(model: LatentModel, x: Tensor) -> Tensor:
    """Maaløe's bound of a linear model as a function of its weights, for each of ``x [B, n]``."""
    head: AuxiliaryHead = model.encoder.head  # type: ignore[assignment]
    k, W, noise2 = head.auxiliary_dim, model.decoder.W.detach(), toy.NOISE**2  # type: ignore[union-attr,operator]
    raw = model.encoder.network(x).flatten(1)  # type: ignore[operator]
    raw_z, context, raw_a = raw.tensor_split([2 * D, (2 + head.context) * D], 1)
    mu_a, s_a = raw_a[:, :k], soft_log_scale(raw_a[:, k : 2 * k]).exp()
    shift_z = context @ head.q_z.of_context.weight.T + head.q_z.of_context.bias
    shift_a = context @ head.reverse.of_context.weight.T + head.reverse.of_context.bias
    G, R = head.q_z.of_given.weight[:D], head.reverse.of_given.weight[:k]
    b, t = raw_z[:, :D] + shift_z[:, :D], soft_log_scale(raw_z[:, D:] + shift_z[:, D:]).exp()
    c, v = mu_a + shift_a[:, :k], soft_log_scale(raw_a[:, k : 2 * k] + shift_a[:, k:]).exp().square()
    S, T = torch.diag_embed(s_a**2), torch.diag_embed(t**2)
    mean, cov = b + mu_a @ G.T, G @ S @ G.T + T
    I = torch.eye(k)
    left = mu_a - c - mean @ R.T
    spread = (I - R @ G) @ S @ (I - R @ G).T + R @ T @ R.T
    squares = left.square() + spread.diagonal(dim1=1, dim2=2)
    log_q = -0.5 * (k + D) * (LOG_2PI + 1) - s_a.log().sum(1) - t.log().sum(1)
    log_r = -0.5 * (LOG_2PI + v.log() + squares / v).sum(1)
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)
    log_prior = -0.5 * (mean.square().sum(1) + trace + D * LOG_2PI)
    misfit = (x - mean @ W.T).square().sum(1) + (W @ cov @ W.T).diagonal(dim1=1, dim2=2).sum(1)
    log_p = -0.5 * (misfit / noise2 + toy.N * (LOG_2PI + math.log(noise2)))
    return log_p + log_prior - log_q + log_r


def encoder_gradient(loss: Tensor, model: LatentModel) -> Tensor:
    """The gradient in all weights of the encoder, except those by which a scale would depend on a or z.

    These weights are zero here, and their effect has no closed form.
    """
    weights = dict(model.encoder.named_parameters())
    grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    num_mean_rows = {"head.q_z.of_given.weight": D, "head.reverse.of_given.weight": K}
    return torch.cat(
        [g[: num_mean_rows.get(name, len(g))].flatten() for name, g in zip(weights, grads, strict=True)]
    )


@pytest.mark.usefixtures("double")
def test_monte_carlo_bound_and_gradient_match_the_closed_form() -> None:
    """The VAE's loss and its gradient in the weights of all three densities, within 5 standard errors."""
    model = linear_model(K)
    x = torch.randn(6, toy.N)
    truth = -bound(model, x).mean()
    method, many = VAE(kl="monte-carlo"), x.repeat(2000, 1)

    def sample_gradient() -> Tensor:
        loss = method.losses(model, many)["model"].mean()
        return torch.cat([loss.reshape(1), encoder_gradient(loss, model)])

    estimate, exact = batch_means(sample_gradient), encoder_gradient(truth, model)
    assert_close(estimate, torch.cat([truth.detach().reshape(1), exact]), "loss and gradient")
    assert_sharp((estimate[0][1:], estimate[1][1:]), exact, "gradient")
    head = model.encoder.head
    for part in (model.encoder.network, head.q_z, head.reverse):  # type: ignore[union-attr]
        part_gradient = gradient(truth, list(part.parameters()))  # type: ignore[union-attr,operator]
        assert part_gradient.abs().max() > 0.05  # the bound depends on q(a|x), q(z|a,x) and r


# --- a posterior whose marginal is a known normal -----------------------------------------------------------

WIDTH, SHIFT, STRETCH = 1.4, 0.5, 0.8
OF_A = torch.tensor([0.6, 0.8])  # standard deviations of a
SHARE = torch.tensor([0.6, 0.9])  # of the standard deviation of z that is due to a


def with_marginal(width: float, shift: float = 0.0, stretch: float = 1.0) -> LatentModel:
    """A model whose q(z|x) is the normal of ``toy_model(width)``.

    r is the exact q(a|x,z), with its means shifted by ``shift`` of a's standard deviation and its scales multiplied by
    ``stretch``. Then KL(q(a|x,z) ‖ r) is the same for all x and z, see :func:`reverse_kl`.
    """
    model, like = linear_model(D), toy_model(width).encoder
    head, rows = model.encoder.head, model.encoder.network.linear  # type: ignore[union-attr]
    A, s = like.A, width * like.cov.diagonal().sqrt()  # type: ignore[union-attr,operator]
    s_a, share = OF_A.to(s), SHARE.to(s)
    slope = share * s / s_a  # of z in a
    with torch.no_grad():
        for part in (head.q_z, head.reverse):
            for p in part.parameters():
                p.zero_()
        weight, bias = rows.weight.view(head.num_params, D, toy.N), rows.bias.view(head.num_params, D)
        weight[1], bias[1] = 0, raw_scale(s * (1 - share.square()).sqrt())
        weight[0], bias[0] = A, 0
        weight[5], bias[5] = 0, raw_scale(s_a)  # rows: z, log scale, two of context, a, log scale
        weight[2], bias[2], weight[3], bias[3] = weight[4], bias[4], A, 0  # the context: E[a|x] and E[z|x]
        head.q_z.of_given.weight[:D] = torch.diag(slope)
        head.q_z.of_context.weight[:D, :D] = -torch.diag(slope)
        coefficient = share * s_a / s
        head.reverse.of_given.weight[:D] = torch.diag(coefficient)
        head.reverse.of_context.weight[:D, D:] = -torch.diag(coefficient)
        head.reverse.of_context.bias[:D] = shift * s_a
        raw_log_scale = raw_scale(stretch * s_a * (1 - share.square()).sqrt())
        head.reverse.of_context.bias[D:] = raw_log_scale - bias[5]
    return model


def reverse_kl(shift: float = SHIFT, stretch: float = STRETCH) -> float:
    """``KL(q(a|x,z) ‖ r)`` of two normals."""
    ratio = (1 + shift**2 / (1 - SHARE.square())) / stretch**2
    return float((math.log(stretch) + 0.5 * ratio - 0.5).sum())


@pytest.mark.usefixtures("double")
def test_estimate_is_the_density_with_the_exact_reverse_model() -> None:
    """For every sample, to rounding; and the samples have that density's moments (5 standard errors)."""
    x = torch.randn(4, toy.N)
    q, marginal = with_marginal(WIDTH).encode(x), toy_model(WIDTH).encode(x)
    z, log_q = q.rsample_and_log_prob((20000,))
    torch.testing.assert_close(log_q, marginal.log_prob(z), atol=1e-9, rtol=0)
    for samples in (z, q.sample((20000,))):
        standard = (samples - marginal.mean) / marginal.moments()[1].sqrt()
        assert (standard.mean(0)).abs().max() < 5 / math.sqrt(20000)
        assert (standard.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 20000)


@pytest.mark.usefixtures("double")
def test_bound_is_below_the_elbo_by_the_kl_of_the_reverse_model() -> None:
    """The ELBO of the marginal is KL(q(z|x)‖p(z|x)) below log p(x), this bound KL(q(a|x,z)‖r) more."""
    exact, wrong = with_marginal(WIDTH), with_marginal(WIDTH, SHIFT, STRETCH)
    observed = EvalData(data_of(exact))
    cov = toy_model(1.0).encoder.cov  # type: ignore[union-attr]
    gap = gaussian_kl(WIDTH**2 * torch.diag(cov.diagonal()), cov)  # type: ignore[arg-type]
    x = observed.data.preprocessing.apply(observed.data.test.raw(range(observed.count)))
    for model, more in ((exact, 0.0), (wrong, reverse_kl())):
        assert float((toy.exact(model, x) - bound(model, x)).detach().mean()) == pytest.approx(
            gap + more, abs=1e-5
        )  # of a KL in float32
        estimate = elbo(model, observed, 64)
        distance, error = difference_from_exact(estimate, model, observed)
        assert distance == pytest.approx(-gap - more, abs=5 * error)
        assert (estimate.name, estimate.kind) == ("elbo", "lower bound")
        assert estimate.protocol["proposal"] == "auxiliary"
    assert reverse_kl() > 0.5  # large enough to distinguish the two bounds


@pytest.mark.usefixtures("double")
def test_importance_weights_are_unbiased_for_the_evidence() -> None:
    """Also with a wrong r, E[p(x, z)/q̂] = p(x) for each image, within 5 standard errors.

    r is narrower than the exact one, so that weights have a variance. IWAE rises to log p(x): at K it is about
    Var[w]/2K below (Taylor).
    """
    model = with_marginal(WIDTH, SHIFT, STRETCH)
    observed = EvalData(data_of(model), limit=50)
    x = observed.data.preprocessing.apply(observed.data.test.raw(range(50)))
    truth = toy.exact(model, x)
    w = (log_weights(model, x, 20000, False) - truth).exp()
    assert_close((w.mean(0), w.std(0) / math.sqrt(len(w))), torch.ones(50), "weights")
    assert float(5 * w.std(0).mean() / math.sqrt(len(w))) < 0.1
    bounds = [difference_from_exact(iwae(model, observed, count), model, observed) for count in (1, 10, 1000)]
    values = [value for value, _ in bounds]
    assert values[0] < values[1] < values[2] < 3 * bounds[2][1]
    assert values[2] > -float(w.var(0).mean()) / 2000 * 2 - 3 * bounds[2][1]


# --- arbitrary networks -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_reciprocal_estimate_is_unbiased() -> None:
    """E[1/q̂ | z] = 1/q(z|x), so E[1/q̂; z in a bin] is the bin's length, for any networks: here nonlinear ones.

    Strong last layers, as after training; r half as wide as at its start, so that 1/q̂ has a variance.
    """
    head = AuxiliaryHead((1,), auxiliary_dim=2, hidden=(8,), context=1)
    with torch.no_grad():
        for part in (head.q_z, head.reverse):
            part.rest[-1].weight.mul_(5)  # type: ignore[operator,union-attr]
        head.reverse.rest[-1].bias[2:] -= math.log(2)  # type: ignore[index,union-attr]
    q = head(lambda inputs: inputs, torch.zeros(1, head.num_params, 1))
    edges = torch.linspace(-1.5, 1.5, 13)

    def bin_sums() -> Tensor:
        z, log_q = q.rsample_and_log_prob((20000,))
        inside = (z >= edges[:-1, None, None, None]) & (z < edges[1:, None, None, None])
        return (inside.flatten(1) * torch.exp(-log_q).flatten()).mean(1)

    lengths = edges.diff()
    estimate = batch_means(bin_sums)
    assert_close(estimate, lengths, "bins")
    assert_sharp(estimate, lengths, "bins")


def test_has_no_density_but_an_estimate_for_its_samples() -> None:
    head = HEADS.build({"name": "auxiliary", "hidden": [5]}, event_shape=(D,))
    q = head(lambda inputs: inputs, torch.randn(4, head.num_params, D))
    assert isinstance(q, AuxiliaryPosterior) and q.has_sample_log_prob and not q.has_log_prob
    with pytest.raises(NoDensityError):
        q.log_prob(q.sample())
    sampler: Distribution = toy_model(1.0, implicit=True).encode(torch.zeros(2, toy.N))
    assert not sampler.has_sample_log_prob


def test_auxiliary_bound_is_tighter_than_any_normal_on_a_skewed_posterior() -> None:
    """The posterior of `test_flow_posteriors.py`, from which the best normal of any covariance has a KL of 0.26 nats.

    The gap of the bound, KL(q‖p) and KL(q(a|z)‖r) together, must be less than half of that; observed with nine seeds:
    0.02 to 0.05. Its error is that of a mean of 200,000 (0.002), and of a grid (1e-4).
    """
    axes = [torch.arange(-7, 7, 0.03).double(), torch.arange(-12, 6, 0.03).double()]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    log_evidence = torch.logsumexp(log_joint(points).flatten(), 0) + 2 * math.log(0.03)
    head = AuxiliaryHead((2,), hidden=(32, 32))
    raw = nn.Parameter(0.1 * torch.randn(1, head.num_params, 2))
    optimizer = torch.optim.Adam([raw, *head.parameters()], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        z, log_q = head(lambda inputs: raw, raw).rsample_and_log_prob((256,))
        optimizer.zero_grad()
        (log_q - log_joint(z)).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        z, log_q = head(lambda inputs: raw, raw).rsample_and_log_prob((200_000,))
        gap = float(log_evidence - (log_joint(z) - log_q).double().mean())
    assert -0.01 < gap < 0.13
