"""What q may be. All families draw standardised vectors u; :mod:`advae.inference.preconditioner` puts them where the target is.

    mean-field    u = m + s ε                               s a diagonal
    full-rank     u = m + S ε                               S lower triangular
    flow          u = f(m + s ε)                            f inverse autoregressive (Kingma et al. 2016), by zuko
    implicit      u = m + W ε + g(ε)                        g a network of noise (Mescheder et al. 2017, section 5)
    noise-basis   u = z⁰ + Σ_i a_i v_i(ε_i)                 v_i small networks of noise (their supplement, III)

All begin near N(0, I). The implicit family's W ε is ours: g begins near zero, so that its critic, which begins at zero
too, is right from the first step, and both only learn what is not normal.

A family with a density gives log q of its draws. For the normals its gradient is that through the draw alone
(Roeder, Wu and Duvenaud 2017): what is left out has mean zero, and at a normal target the rest vanishes draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advae.distributions.base import LOG_2PI
from advae.distributions.iaf import AutoregressiveSteps
from advae.distributions.noise_basis import LinearCombination, NoiseBasis
from advae.inference.infer_options import InferOptions
from advae.networks.mlp import MLP

FLOW_STEPS = 4
FUNCTIONS, FUNCTION_NOISE = (
    16,
    8,
)  # of the noise basis: half of the paper's for d = 8, fed as many as suffices here
STANDARDISING_DRAWS = 2000


class Family(nn.Module):
    """Draws of ``u``: called with how many are wanted, ``u [n, d]`` and, where it has a density, ``log q [n]``."""

    has_density = True
    diagonal = False

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        raise NotImplementedError


class MeanField(Family):
    """Independent normals."""

    diagonal = True

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = torch.randn(n, len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        u = self.mean + self.log_scale.exp() * noise
        standard = (u - self.mean.detach()) * torch.exp(-self.log_scale.detach())
        return u, normal_log_prob(standard, self.log_scale.detach().sum())

    def factor(self) -> Tensor:
        """``S``, as a matrix ``[d, d]``."""
        return torch.diag(self.log_scale.exp())


class FullRank(Family):
    """A normal with a covariance of its own."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        self.below = nn.Parameter(torch.zeros(d, d))

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = torch.randn(n, len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        u = self.mean + noise @ self.factor().mT
        centred = u - self.mean.detach()
        standard = torch.linalg.solve_triangular(self.factor().detach(), centred.mT, upper=False).mT
        return u, normal_log_prob(standard, self.log_scale.detach().sum())

    def factor(self) -> Tensor:
        """``S [d, d]``: row i is exp(log_scale_i) times what lies below the diagonal, and 1 on it."""
        return self.log_scale.exp().unsqueeze(1) * (
            self.below.tril(-1) + torch.diag(torch.ones_like(self.mean))
        )


class Flow(Family):
    """A normal behind autoregressive steps."""

    def __init__(self, d: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        self.steps = AutoregressiveSteps(d, 0, FLOW_STEPS, [max(width, d) for width in hidden])

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        noise = torch.randn(n, len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        u, log_det = self.steps(self.mean + self.log_scale.exp() * noise, noise[:, :0])
        return u, normal_log_prob(noise, self.log_scale.sum()) - log_det


class Implicit(Family):
    """A network of noise, beside a linear map of it."""

    has_density = False

    def __init__(self, d: int, noise: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.mean, self.linear = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.eye(d, d + noise))
        self.network = MLP((0,), (d,), noise=d + noise, hidden=hidden, near_zero=True)

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        k = self.linear.shape[1]
        noise = torch.randn(n, k, dtype=self.mean.dtype, device=self.mean.device)
        return (self.mean + noise @ self.linear.mT + self.network(noise[:, :0], noise),)


class Basis(Family):
    """A learned combination of learned noise vectors."""

    has_density = False

    def __init__(self, d: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.basis = NoiseBasis(FUNCTIONS, FUNCTION_NOISE, [max(width // 2, 8) for width in hidden], d)
        with torch.no_grad():  # mean 0 and variance 1 of every coordinate
            v = self.basis(STANDARDISING_DRAWS)
            scale = v.var(0).sum(0).rsqrt()
            self.log_coefficients = nn.Parameter(scale.log().expand(FUNCTIONS, d).clone())
            self.offset = nn.Parameter(-(scale * v.mean(0)).sum(0))

    def forward(self, *, n: int) -> tuple[Tensor, ...]:
        coefficients = self.log_coefficients.exp().unsqueeze(0)
        return (
            LinearCombination(self.offset.unsqueeze(0), coefficients, self.basis, 0).rsample((n,)).squeeze(1),
        )


def normal_log_prob(standard: Tensor, log_volume: Tensor) -> Tensor:
    """``log N`` of standardised vectors ``[…, d]``, less the log volume of what standardised them."""
    return -0.5 * standard.square().sum(-1) - log_volume - 0.5 * standard.shape[-1] * LOG_2PI


def maker(options: InferOptions, d: int) -> Callable[[], Family]:
    """What makes one q of a family over ``d`` coordinates."""
    hidden = options.hidden
    makers: dict[str, Callable[[], Family]] = {
        "mean-field": lambda: MeanField(d),
        "full-rank": lambda: FullRank(d),
        "flow": lambda: Flow(d, hidden),
        "implicit": lambda: Implicit(d, options.noise, hidden),
        "noise-basis": lambda: Basis(d, hidden),
    }
    return makers[options.family]
