"""Variational families q(u), in the coordinates of the preconditioner.

    mean-field    u = m + s ε                               s diagonal
    full-rank     u = m + S ε                               S lower triangular
    flow          u = f(m + s ε)                            f inverse autoregressive (Kingma et al. 2016), by zuko
    implicit      u = m + W ε + g(ε)                        g a network of noise (Mescheder et al. 2017, section 5)
    noise-basis   u = z⁰ + Σ_i a_i v_i(ε_i)                 v_i small networks of noise (their supplement, III)

All begin near N(0, I). The term W ε of the implicit family is not in the paper: g begins near zero, so that the critic,
which also begins at zero, is right from the first step, and both learn only deviations from a normal.

A family with a density returns log q of its samples. For the normals, log q is differentiated through the sample only
(Roeder, Wu and Duvenaud 2017): the omitted term has mean zero, and at a normal target the gradient has no noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advae.distributions.iaf import AutoregressiveTransforms
from advae.distributions.noise_basis import NoiseBasis, NoiseBasisPosterior
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import normal_log_prob
from advae.networks.mlp import MLP

FLOW_STEPS = 4
BASIS_SIZE = 16  # number of v_i: half of the paper's for d = 8
BASIS_NOISE_DIM = 8  # length of each ε_i
STANDARDIZATION_SAMPLES = 2000


class VariationalFamily(nn.Module):
    """A distribution over ``u``; called with n, it returns ``u [n, d]`` and, with a density, ``log q [n]``.

    Attributes:
        diagonal: whether the family is a normal with a diagonal covariance.
        noise_dim: length k of the noise ``[n, k]`` that a family without a density can be given, of which u is then a
            function; 0 for others.
    """

    diagonal = False
    noise_dim = 0

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        raise NotImplementedError


class LocationScaleFamily(VariationalFamily):
    """A transformed normal with the mean m and the diagonal scale s."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))

    def sample_noise(self, n: int) -> Tensor:
        """Return ``ε [n, d]``."""
        return torch.randn(n, len(self.mean), dtype=self.mean.dtype, device=self.mean.device)


class MeanFieldFamily(LocationScaleFamily):
    """Normal with a diagonal covariance."""

    diagonal = True

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = self.sample_noise(n)
        u = self.mean + self.log_scale.exp() * noise
        whitened = (u - self.mean.detach()) * torch.exp(-self.log_scale.detach())
        return u, normal_log_prob(whitened, self.log_scale.detach().sum())


class FullRankFamily(LocationScaleFamily):
    """Normal with a full covariance."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.below = nn.Parameter(torch.zeros(d, d))

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = self.sample_noise(n)
        u = self.mean + noise @ self.factor().mT
        centered = u - self.mean.detach()
        whitened = torch.linalg.solve_triangular(self.factor().detach(), centered.mT, upper=False).mT
        return u, normal_log_prob(whitened, self.log_scale.detach().sum())

    def factor(self) -> Tensor:
        """Return ``S [d, d]``: row i is exp(log_scale_i) times (the strictly lower triangle of ``below``, plus I)."""
        unit = self.below.tril(-1) + torch.diag(torch.ones_like(self.mean))
        return self.log_scale.exp().unsqueeze(1) * unit


class FlowFamily(LocationScaleFamily):
    """Normal transformed by autoregressive steps."""

    def __init__(self, d: int, hidden: tuple[int, ...]) -> None:
        super().__init__(d)
        self.steps = AutoregressiveTransforms(d, 0, FLOW_STEPS, [max(width, d) for width in hidden])

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = self.sample_noise(n)
        u, log_det = self.steps(self.mean + self.log_scale.exp() * noise, noise[:, :0])
        return u, normal_log_prob(noise, self.log_scale.sum()) - log_det


class ImplicitFamily(VariationalFamily):
    """Sum of a linear map and a network of the same noise; no density."""

    def __init__(self, d: int, noise_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.mean, self.linear = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.eye(d, d + noise_dim))
        self.network = MLP((0,), (d,), noise_dim=d + noise_dim, hidden=hidden, zero_init=True)
        self.noise_dim = d + noise_dim

    def forward(self, noise: Tensor | None = None, *, n: int) -> tuple[Tensor, ...]:
        if noise is None:
            noise = torch.randn(n, self.noise_dim, dtype=self.mean.dtype, device=self.mean.device)
        return (self.mean + noise @ self.linear.mT + self.network(noise[:, :0], noise),)


class NoiseBasisFamily(VariationalFamily):
    """Learned combination of learned noise vectors; no density."""

    noise_dim = BASIS_SIZE * BASIS_NOISE_DIM

    def __init__(self, d: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.basis = NoiseBasis(BASIS_SIZE, BASIS_NOISE_DIM, [max(width // 2, 8) for width in hidden], d)
        with torch.no_grad():  # standardize: mean 0 and variance 1 of every coordinate
            v = self.basis(STANDARDIZATION_SAMPLES)
            scale = v.var(0).sum(0).rsqrt()
            self.log_coefficients = nn.Parameter(scale.log().expand(BASIS_SIZE, d).clone())
            self.offset = nn.Parameter(-(scale * v.mean(0)).sum(0))

    def forward(self, noise: Tensor | None = None, *, n: int) -> tuple[Tensor, ...]:
        coefficients = self.log_coefficients.exp().unsqueeze(0)
        combination = NoiseBasisPosterior(self.offset.unsqueeze(0), coefficients, self.basis, 0)
        if noise is None:
            return (combination.rsample((n,)).squeeze(1),)
        return (combination.given_noise(noise.unsqueeze(1)).mean.squeeze(1),)


def make_family(options: InferOptions, d: int) -> Callable[[], VariationalFamily]:
    """Return a function that makes one q over ``d`` coordinates."""
    hidden = options.hidden
    makers: dict[str, Callable[[], VariationalFamily]] = {
        "mean-field": lambda: MeanFieldFamily(d),
        "full-rank": lambda: FullRankFamily(d),
        "flow": lambda: FlowFamily(d, hidden),
        "implicit": lambda: ImplicitFamily(d, options.noise_dim, hidden),
        "noise-basis": lambda: NoiseBasisFamily(d, hidden),
    }
    return makers[options.family]
