"""Parts of methods with closed forms: adaptive contrast, free bits, warm-up, clamping, interpolation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from advae.distributions.normal import Normal
from advae.methods.avb import VARIANCE_FLOOR, standardize
from advae.methods.base import METHODS
from advae.methods.bavae import soft_clamp_max
from advae.methods.vae import VAE, free_bits_kl
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
def test_log_r_is_the_density_of_the_normal_with_these_moments(full: bool) -> None:
    """log r(z|x) = log N(z; μ, Cov + 1e-4), with every constant, at any z."""
    q = correlated()
    z = 3 * torch.randn(4, 3)
    z_bar, log_r = standardize(q, z, full)
    mu, spread = q.moments(full)
    cov = (spread if full else torch.diag_embed(spread)) + VARIANCE_FLOOR * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(mu, cov).log_prob(z)
    torch.testing.assert_close(log_r, exact, atol=1e-10, rtol=0)
    # One variance standardizes and scores: log r − log N(z̄; 0, I) does not depend on z.
    rest = log_r + 0.5 * z_bar.square().sum(-1) + 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(rest, -0.5 * torch.logdet(cov), atol=1e-10, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("full", [False, True])
def test_standardized_latents_have_unit_moments(full: bool) -> None:
    """z̄ is affine in z: its exact moments are 0 and A C Aᵀ, computed from the images of basis vectors.

    With the full covariance that is I less 1e-4 C⁻¹, with the diagonal one the correlations of z, to 1e-4/σ².
    """
    q = correlated()
    mu, C = q.moments(full=True)
    origin = standardize(q, mu, full)[0]
    assert origin.abs().max() < 1e-12
    columns = [standardize(q, mu + e, full)[0] for e in torch.eye(3)]
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
def test_gradients_of_adaptive_contrast_flow_through_z_alone(full: bool) -> None:
    """μ and σ are constants: gradients reach the encoder only through z."""
    q = correlated(requires_grad=True)
    z = torch.randn(4, 3, requires_grad=True)  # detached from the encoder
    z_bar, log_r = standardize(q, z, full)
    gradients = torch.autograd.grad(z_bar.sum() + log_r.sum(), [z, q.mean, q.L], allow_unused=True)
    assert [g is None for g in gradients] == [False, True, True]


# --- the smaller pieces -------------------------------------------------------------------------------------


def test_free_bits() -> None:
    """A dimension whose batch mean is below the limit costs the limit and has no gradient; the others are unchanged."""
    kl = torch.tensor([[0.1, 2.0, 0.9], [0.3, 0.0, 0.3]], requires_grad=True)
    clamped = free_bits_kl(kl, 0.5)
    torch.testing.assert_close(clamped, torch.tensor([[0.5, 2.0, 0.9], [0.5, 0.0, 0.3]]))
    (grad,) = torch.autograd.grad(clamped.sum(), kl)
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

    return LatentModel(Constant(2), Constant(3), x_shape=(3,), latent_dim=2)


def test_beta_warm_up_and_free_bits_change_the_kl_term_only() -> None:
    model, x = normal_model(), torch.randn(5, 3)
    kl = 2 * (0.5 * (0.4**2 + math.exp(-0.6) - 1) + 0.3)
    plain = VAE().losses(model, x)
    reconstruction = plain.diagnostics["reconstruction"]
    torch.testing.assert_close(plain["model"], reconstruction + kl)
    torch.testing.assert_close(VAE(beta=3).losses(model, x)["model"], reconstruction + 3 * kl)
    torch.testing.assert_close(
        VAE(beta=3).losses(model, x, kl_weight=0.1)["model"], reconstruction + 0.3 * kl
    )
    bits = VAE(free_bits=0.7).losses(model, x)
    torch.testing.assert_close(bits["model"], reconstruction + 1.4)
    torch.testing.assert_close(
        bits.diagnostics["kl"], torch.full((5,), kl)
    )  # the diagnostic is the KL itself


def test_kl_warm_up() -> None:
    for name in METHODS.names():
        method = METHODS.build({"name": name, "kl_warmup": 4})
        assert [method.kl_weight(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
        assert METHODS.build({"name": name}).kl_weight(0) == 1.0


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_kl_warm_up_of_the_halves_of_asvae(weight: float) -> None:
    """AS-VAE starts with the first half's reconstruction; the second half alone with log q(z|x)."""
    spec = {
        "latent_dim": 2,
        "encoder": {"name": "mlp"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp"},
    }
    spec |= {"likelihood": {"name": "normal"}, "critic": {"name": "concat"}}
    for name, lead in (("asvae", weight), ("asvae-r", 0.0), ("asvae-g", 1.0)):
        method = METHODS.build({"name": name})
        losses = method.losses(build_model(spec, (3,), method.critics), torch.randn(5, 3), kl_weight=weight)
        diagnostics = losses.diagnostics
        expected = lead * diagnostics["z_reconstruction"]
        expected = expected + (0 if name == "asvae-g" else diagnostics["reconstruction"])
        for critic in method.critics:  # at the pairs from its P
            expected = expected + weight * diagnostics[f"{critic}/log_ratio_p"]
        torch.testing.assert_close(losses["model"].detach(), expected)


def test_soft_clamp() -> None:
    """Below the ceiling; the identity well below it (to exp(−gap)); increasing."""
    T = torch.linspace(-30, 60, 500, dtype=torch.float64)
    y = soft_clamp_max(T, 10.0)
    assert bool((y <= 10).all()) and bool((y.diff() >= 0).all())
    assert float((y - T)[T < 0].abs().max()) <= math.exp(-10) * 1.01


@pytest.mark.parametrize("d", [1, 2, 16])
def test_slerp_connects_its_ends(d: int) -> None:
    a, b = torch.randn(2, d)
    arc = slerp(a, b, 7)
    assert arc.shape == (7, d)
    torch.testing.assert_close(arc[0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(arc[-1], b, atol=1e-5, rtol=1e-5)


def test_slerp_keeps_the_norm_at_constant_angular_speed() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    arc = slerp(a, b, 4)
    torch.testing.assert_close(arc.norm(dim=1), torch.full((4,), 2.0))
    torch.testing.assert_close(torch.atan2(arc[:, 1], arc[:, 0]), torch.linspace(0, math.pi / 2, 4))


@pytest.mark.parametrize("b", [[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
def test_slerp_of_parallel_opposite_and_zero_latents(b: list[float]) -> None:
    arc = slerp(torch.tensor([1.0, 0.0]), torch.tensor(b), 5)
    assert bool(torch.isfinite(arc).all())
    torch.testing.assert_close(arc[[0, -1]], torch.tensor([[1.0, 0.0], b]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CRITICS.names())
def test_spectral_norm_of_critics_is_one(name: str) -> None:
    """After some power iterations every layer's matrix has a largest singular value of one.

    Each iteration shrinks the error by (σ₂/σ₁)²; weights are scaled up first, so that a missing
    normalization is detected. 200 iterations leave less than 1e-3 unless the two largest agree to 1%.
    """
    own = "spectral_norm" in CRITICS.options(CRITICS.find(name))
    options = {"spectral_norm": True} if own else {"norm": "spectral"}
    shape, codes = parts.image_shape(name), parts.latent_shape(name)
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


def test_reference_gaussian_agrees_with_torch() -> None:
    """KL and entropy of the helper against torch.distributions."""
    a, b = [Gauss(torch.randn(3), m @ m.T + torch.eye(3)) for m in torch.randn(2, 3, 3)]
    A, B = [torch.distributions.MultivariateNormal(g.mean, g.cov) for g in (a, b)]
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(A, B), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.entropy(), A.entropy())


@pytest.mark.parametrize("name", ["asvae", "asvae-r", "asvae-g", "ali"])
def test_running_batch_statistics_are_of_one_population(name: str) -> None:
    """Of data and their latent codes; in the decoders of AS-VAE-g and ALI, which see no others, of prior samples."""
    spec = {
        "latent_dim": 3,
        "encoder": {"name": "conv", "channels": [4], "hidden": [], "norm": "batch"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "deconv", "channels": [4, 4], "hidden": [8], "norm": "batch"},
        "likelihood": {"name": "normal", "variance": "shared", "scale": 0.3},
        "critic": {"name": "concat", "hidden": [8]},
    }
    method = METHODS.build({"name": name})
    torch.manual_seed(0)
    model = build_model(spec, (1, 8, 8), method.critics).train()
    reference, x = copy.deepcopy(model), 3 + torch.randn(16, 1, 8, 8)
    torch.manual_seed(1)
    method.losses(model, x)
    torch.manual_seed(1)
    q, prior = reference.encode(x), lambda: reference.prior.rsample((16,))
    z, z_p = (q.rsample(), prior()) if name == "ali" else (prior(), q.rsample())[::-1]
    reference.decode(z_p if name in ("asvae-g", "ali") else z)
    for key, value in reference.named_buffers():
        if "running" in key:
            torch.testing.assert_close(dict(model.named_buffers())[key], value)
    updated = [
        key for key, value in reference.named_buffers() if "running_mean" in key and value.abs().max() > 0
    ]
    assert len(updated) >= 2
