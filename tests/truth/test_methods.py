"""Equations inside methods that have exact answers of their own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from advae.distributions.normal import Normal
from advae.methods.avb import VARIANCE_FLOOR, standardise
from advae.methods.base import METHODS
from advae.methods.bavae import limited
from advae.methods.vae import VAE, free_bits
from advae.model import LatentModel, build_model, slerp
from advae.networks import CRITICS
from contract import parts
from truth.linear_gaussian import Correlated, Gauss

# --- adaptive contrast --------------------------------------------------------------------------------------


def correlated(requires_grad: bool = False) -> Correlated:
    L = torch.tensor([[0.7, 0.0, 0.0], [0.5, 0.4, 0.0], [-0.9, 0.1, 1.5]])
    return Correlated(torch.randn(4, 3).requires_grad_(requires_grad), L.requires_grad_(requires_grad))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full", [False, True])
def test_log_r_is_the_normal_of_the_moments(full: bool) -> None:
    """log r(z|x) = log N(z; μ, Cov + 1e-4), with every constant, at any z."""
    q = correlated()
    z = 3 * torch.randn(4, 3)
    z_bar, log_r = standardise(q, z, full)
    mu, spread = q.moments(full)
    cov = (spread if full else torch.diag_embed(spread)) + VARIANCE_FLOOR * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(mu, cov).log_prob(z)
    torch.testing.assert_close(log_r, exact, atol=1e-10, rtol=0)
    # One variance standardises and scores: log r − log N(z̄; 0, I) is the same for every z of an x.
    rest = log_r + 0.5 * z_bar.square().sum(-1) + 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(rest, -0.5 * torch.logdet(cov), atol=1e-10, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full", [False, True])
def test_standardised_codes_are_standard(full: bool) -> None:
    """z̄ is affine in z: its exact moments are 0 and A C Aᵀ, found from the images of a frame of points.

    With the full covariance that is I less 1e-4 C⁻¹, with the diagonal one the correlations of z, to 1e-4/σ².
    """
    q = correlated()
    mu, C = q.moments(full=True)
    origin = standardise(q, mu, full)[0]
    assert origin.abs().max() < 1e-12
    columns = [standardise(q, mu + e, full)[0] for e in torch.eye(3)]
    A = torch.stack(columns, -1)
    spread = A @ C @ A.transpose(1, 2)
    if full:
        expected = torch.eye(3).expand(4, 3, 3)
    else:
        sigma = C.diagonal(dim1=1, dim2=2).sqrt()
        expected = C / (sigma[:, :, None] * sigma[:, None, :])
    tolerance = VARIANCE_FLOOR * float(torch.linalg.inv(C).diagonal(dim1=1, dim2=2).sum(-1).max())
    torch.testing.assert_close(spread, expected, atol=tolerance, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full", [False, True])
def test_gradients_flow_through_the_code_alone(full: bool) -> None:
    """μ and σ are constants: no gradient reaches the encoder but by z."""
    q = correlated(requires_grad=True)
    z = torch.randn(4, 3, requires_grad=True)  # as drawn, but cut from the encoder
    z_bar, log_r = standardise(q, z, full)
    got = torch.autograd.grad(z_bar.sum() + log_r.sum(), [z, q.mean, q.L], allow_unused=True)
    assert got[0] is not None and got[1] is None and got[2] is None


# --- the smaller pieces -------------------------------------------------------------------------------------


def test_free_bits() -> None:
    """A dimension whose batch mean is below the limit costs the limit and gets no gradient; others are as they were."""
    kl = torch.tensor([[0.1, 2.0, 0.9], [0.3, 0.0, 0.3]], requires_grad=True)
    held = free_bits(kl, 0.5)
    torch.testing.assert_close(held, torch.tensor([[0.5, 2.0, 0.9], [0.5, 0.0, 0.3]]))
    (grad,) = torch.autograd.grad(held.sum(), kl)
    assert grad.tolist() == [[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]


def normal_model() -> LatentModel:
    class Constant(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.mean, self.log_scale = (
                nn.Parameter(torch.full((d,), 0.4)),
                nn.Parameter(torch.full((d,), -0.3)),
            )

        def forward(self, inputs: torch.Tensor) -> Normal:
            return Normal(self.mean.expand(len(inputs), -1), self.log_scale)

    return LatentModel(Constant(2), Constant(3), x_shape=(3,), latent=2)


def test_beta_warm_up_and_free_bits_weigh_the_kl_alone() -> None:
    model, x = normal_model(), torch.randn(5, 3)
    kl = 2 * (0.5 * (0.4**2 + math.exp(-0.6) - 1) + 0.3)
    plain = VAE().losses(model, x)
    reconstruction = plain.report["reconstruction"]
    torch.testing.assert_close(plain["model"], reconstruction + kl)
    torch.testing.assert_close(VAE(beta=3).losses(model, x)["model"], reconstruction + 3 * kl)
    torch.testing.assert_close(
        VAE(beta=3).losses(model, x, kl_weight=0.1)["model"], reconstruction + 0.3 * kl
    )
    bits = VAE(free_bits=0.7).losses(model, x)
    torch.testing.assert_close(bits["model"], reconstruction + 1.4)
    torch.testing.assert_close(bits.report["kl"], torch.full((5,), kl))  # what is reported is the KL itself


def test_warm_up_of_the_kl() -> None:
    for name in METHODS.names():
        method = METHODS.build({"name": name, "kl_warmup": 4})
        assert [method.kl_weight(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        assert METHODS.build({"name": name}).kl_weight(0) == 1.0


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_warm_up_of_the_halves_of_asvae(weight: float) -> None:
    """Together the first half's reconstruction leads; the second half alone is led by its own, log q(z|x)."""
    spec = {
        "latent": 2,
        "encoder": {"name": "mlp"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp"},
    }
    spec |= {"likelihood": {"name": "normal"}, "critic": {"name": "concat"}}
    for name, lead in (("asvae", weight), ("asvae-r", 0.0), ("asvae-g", 1.0)):
        method = METHODS.build({"name": name})
        losses = method.losses(build_model(spec, (3,), method.critics), torch.randn(5, 3), kl_weight=weight)
        report = losses.report
        expected = lead * report["z_reconstruction"]
        expected = expected + (0 if name == "asvae-g" else report["reconstruction"])
        for critic in method.critics:  # each is asked at the pairs from its P
            expected = expected + weight * report[f"{critic}/log_ratio_p"]
        torch.testing.assert_close(losses["model"].detach(), expected)


def test_the_smooth_ceiling() -> None:
    """Never above; the identity well below (to exp(−gap)); increasing."""
    T = torch.linspace(-30, 60, 500, dtype=torch.float64)
    y = limited(T, 10.0)
    assert bool((y <= 10).all()) and bool((y.diff() >= 0).all())
    assert float((y - T)[T < 0].abs().max()) <= math.exp(-10) * 1.01


@pytest.mark.parametrize("d", [1, 2, 16])
def test_slerp_goes_from_one_code_to_the_other(d: int) -> None:
    a, b = torch.randn(2, d)
    arc = slerp(a, b, 7)
    assert arc.shape == (7, d)
    torch.testing.assert_close(arc[0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(arc[-1], b, atol=1e-5, rtol=1e-5)


def test_slerp_keeps_the_length_and_turns_evenly() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    arc = slerp(a, b, 4)
    torch.testing.assert_close(arc.norm(dim=1), torch.full((4,), 2.0))
    torch.testing.assert_close(torch.atan2(arc[:, 1], arc[:, 0]), torch.linspace(0, math.pi / 2, 4))


@pytest.mark.parametrize("b", [[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
def test_slerp_of_parallel_opposite_and_zero_codes(b: list[float]) -> None:
    arc = slerp(torch.tensor([1.0, 0.0]), torch.tensor(b), 5)
    assert bool(torch.isfinite(arc).all())
    torch.testing.assert_close(arc[[0, -1]], torch.tensor([[1.0, 0.0], b]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CRITICS.names())
def test_spectral_norms_of_a_critic(name: str) -> None:
    """After some power iterations every layer's matrix has a largest singular value of one.

    Each iteration shrinks the error by (σ₂/σ₁)²; weights are scaled up first so that an absent
    normalisation shows. 200 iterations leave less than 1e-3 unless the two largest agree to 1%.
    """
    own = "spectral_norm" in CRITICS.options(CRITICS.find(name))
    options = {"spectral_norm": True} if own else {"norm": "spectral"}
    shape, codes = parts.image(name), parts.codes(name)
    critic = CRITICS.build({"name": name, **options}, x_shape=shape, z_shape=codes)
    for layer in critic.modules():
        if is_parametrized(layer):
            layer.parametrizations.weight.original.data *= 7
    for _ in range(200):
        critic(torch.randn(2, *shape), torch.randn(2, *codes))
    critic.eval()
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert layers and all(is_parametrized(layer, "weight") for layer in layers)
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert 0.99 < norm < 1.01


def test_gauss_of_these_tests_is_torchs() -> None:
    """The reference itself: KL and entropy of the helper against torch.distributions."""
    a, b = [Gauss(torch.randn(3), m @ m.T + torch.eye(3)) for m in torch.randn(2, 3, 3)]
    A, B = [torch.distributions.MultivariateNormal(g.mean, g.cov) for g in (a, b)]
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(A, B), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.entropy(), A.entropy())


@pytest.mark.parametrize("name", ["asvae", "asvae-r", "asvae-g", "ali"])
def test_running_statistics_are_those_of_data_and_their_codes(name: str) -> None:
    """Of the decoders of -g and ALI, which learn from no codes of data, those of the prior's; a mixture would fit
    neither."""
    spec = {
        "latent": 3,
        "encoder": {"name": "conv", "channels": [4], "hidden": [], "batch_norm": True},
        "posterior": {"name": "normal"},
        "decoder": {"name": "deconv", "channels": [4, 4], "hidden": [8], "batch_norm": True},
        "likelihood": {"name": "normal", "variance": "shared", "scale": 0.3},
        "critic": {"name": "concat", "hidden": [8]},
    }
    method = METHODS.build({"name": name})
    torch.manual_seed(0)
    model = build_model(spec, (1, 8, 8), method.critics).train()
    alone, x = copy.deepcopy(model), 3 + torch.randn(16, 1, 8, 8)
    torch.manual_seed(1)
    method.losses(model, x)
    torch.manual_seed(1)
    q, prior = alone.encode(x), lambda: alone.prior.rsample((16,))
    z, z_p = (q.rsample(), prior()) if name == "ali" else (prior(), q.rsample())[::-1]
    alone.decode(z_p if name in ("asvae-g", "ali") else z)
    for key, value in alone.named_buffers():
        if "running" in key:
            torch.testing.assert_close(dict(model.named_buffers())[key], value)
    moved = [key for key, value in alone.named_buffers() if "running_mean" in key and value.abs().max() > 0]
    assert len(moved) >= 2
