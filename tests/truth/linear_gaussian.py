"""A linear-Gaussian model in which everything that a method estimates is known in closed form.

    data      x ~ N(m, Σ)                     [n]
    prior     z ~ N(0, I)                     [d]
    decoder   x | z ~ N(W z + b, diag(s²))
    encoder   z | x ~ N(V x + c, L Lᵀ)        L diagonal, or lower triangular ("correlated")

All marginals, joints and their divergences are normal, and functions of the parameters that torch can
differentiate; so a method's gradient by sampling has an exact value to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn

from advae.distributions import Distribution
from advae.distributions.base import ImplicitDistribution
from advae.distributions.normal import Normal
from advae.model import LatentModel

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gauss:
    """``N(mean [k], cov [k, k])``."""

    mean: Tensor
    cov: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value [..., k]``, by torch's own distribution."""
        return torch.distributions.MultivariateNormal(self.mean, self.cov).log_prob(value)

    def kl(self, other: Gauss) -> Tensor:
        """``KL(self ‖ other)`` in nats."""
        shift = other.mean - self.mean
        inverse = torch.linalg.inv(other.cov)
        trace, square = torch.trace(inverse @ self.cov), shift @ inverse @ shift
        return 0.5 * (trace + square - len(shift) + torch.logdet(other.cov) - torch.logdet(self.cov))

    def entropy(self) -> Tensor:
        """In nats."""
        return 0.5 * (len(self.mean) * (1 + math.log(2 * math.pi)) + torch.logdet(self.cov))

    def part(self, start: int, stop: int) -> Gauss:
        """The marginal of coordinates ``start`` to ``stop``."""
        return Gauss(self.mean[start:stop], self.cov[start:stop, start:stop])

    def rsample(self, n: int) -> Tensor:
        """Return ``n`` samples ``[n, k]``."""
        return self.mean + torch.randn(n, len(self.mean)) @ torch.linalg.cholesky(self.cov).T


class Correlated(ImplicitDistribution):
    """``N(mean [B, d], L Lᵀ)``, without a density, like an implicit encoder, but with its moments."""

    def __init__(self, mean: Tensor, L: Tensor) -> None:
        self._mean, self.L = mean, L
        self.batch_shape, self.event_shape = Size(mean.shape[:1]), Size(mean.shape[1:])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self._mean + torch.randn(*sample_shape, *self._mean.shape) @ self.L.T

    @property
    def mean(self) -> Tensor:
        return self._mean

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        cov = self.L @ self.L.T
        every = cov if full else cov.diagonal()
        return self._mean, every.expand(*self.batch_shape, *every.shape)


class Affine(nn.Module):
    """An encoder or decoder whose mean is affine in its input."""

    def __init__(self, weight: Tensor, bias: Tensor, L: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.log_scale = nn.Parameter(L.diagonal().log())
        self.correlated = bool((L.tril(-1) != 0).any())
        self.below = nn.Parameter(L.tril(-1)) if self.correlated else None

    @property
    def L(self) -> Tensor:
        """The factor of the covariance."""
        diagonal = torch.diag(self.log_scale.exp())
        return diagonal if self.below is None else diagonal + self.below.tril(-1)

    def forward(self, inputs: Tensor) -> Distribution:
        mean = inputs @ self.weight.T + self.bias
        return Correlated(mean, self.L) if self.correlated else Normal(mean, self.log_scale)


class Exact(nn.Module):
    """A critic that is a known function; its parameters, if any, are the coefficients of a disturbance.

    Args:
        function: ``T(x, z) [B]``.
        disturbed: add ``Σ_k α_k g_k(x, z)`` with ``α = 0``, of all monomials of the pair up to degree two.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], size: int, disturbed: bool = False
    ) -> None:
        super().__init__()
        self.function = function
        count = 1 + size + size * (size + 1) // 2
        self.alpha = nn.Parameter(torch.zeros(count)) if disturbed else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        T = self.function(x, z)
        return T if self.alpha is None else T + monomials(torch.cat([x, z], 1)) @ self.alpha


def monomials(u: Tensor) -> Tensor:
    """``1``, ``u_i`` and ``u_i u_j`` for ``u [B, k]``, ``[B, 1 + k + k(k + 1)/2]``."""
    i, j = torch.triu_indices(u.shape[1], u.shape[1])
    return torch.cat([torch.ones(len(u), 1), u, u[:, i] * u[:, j]], 1)


class Truth:
    """The exact distributions of a model and of its data; differentiable in the model's parameters.

    Joint vectors are ``(x, z)`` in this order.
    """

    def __init__(self, model: LatentModel, data: Gauss) -> None:
        self.data, self.n, self.d = data, len(data.mean), model.latent_dim
        encoder, decoder = model.encoder, model.decoder
        self.V, self.c, self.t2 = encoder.weight, encoder.bias, encoder.L @ encoder.L.T
        self.W, self.b, self.s2 = decoder.weight, decoder.bias, decoder.L @ decoder.L.T
        self.prior = Gauss(torch.zeros(self.d), torch.eye(self.d))

    def frozen(self) -> Truth:
        """The same as constants."""
        copy = object.__new__(Truth)
        copy.__dict__ = {k: v.detach() if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        return copy

    @property
    def q(self) -> Gauss:
        """``q(x, z) = data(x) q(z|x)``."""
        cross = self.data.cov @ self.V.T
        cov = torch.cat(
            [torch.cat([self.data.cov, cross], 1), torch.cat([cross.T, self.V @ cross + self.t2], 1)]
        )
        return Gauss(torch.cat([self.data.mean, self.V @ self.data.mean + self.c]), cov)

    @property
    def p(self) -> Gauss:
        """``p(x, z) = p(z) p(x|z)``."""
        upper = torch.cat([self.W @ self.W.T + self.s2, self.W], 1)
        lower = torch.cat([self.W.T, torch.eye(self.d)], 1)
        return Gauss(torch.cat([self.b, torch.zeros(self.d)]), torch.cat([upper, lower]))

    @property
    def p_x(self) -> Gauss:
        """The model's marginal ``p_θ(x)``."""
        return self.p.part(0, self.n)

    @property
    def q_z(self) -> Gauss:
        """The aggregated posterior ``q_φ(z)``."""
        return self.q.part(self.n, self.n + self.d)

    def log_q(self, z: Tensor, x: Tensor) -> Tensor:
        """``log q(z|x) [B]``."""
        return Gauss(self.c, self.t2).log_prob(z - x @ self.V.T)

    def log_p(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x|z) [B]``."""
        return Gauss(self.b, self.s2).log_prob(x - z @ self.W.T)

    def expected_log_p(self) -> Tensor:
        """``E_q(x,z)[log p(x|z)]``: the residual x − Wz − b is normal under q."""
        A = torch.cat([torch.eye(self.n), -self.W], 1)
        return expected_log_normal(Gauss(A @ self.q.mean - self.b, A @ self.q.cov @ A.T), self.s2)

    def expected_log_q(self, joint: Gauss) -> Tensor:
        """``E_joint[log q(z|x)]``."""
        A = torch.cat([-self.V, torch.eye(self.d)], 1)
        return expected_log_normal(Gauss(A @ joint.mean - self.c, A @ joint.cov @ A.T), self.t2)

    def kl(self) -> Tensor:
        """``E_x KL(q(z|x) ‖ p(z))``, as ``KL(q(x,z) ‖ data(x) p(z))``."""
        zero = torch.zeros(self.n, self.d)
        cov = torch.cat([torch.cat([self.data.cov, zero], 1), torch.cat([zero.T, torch.eye(self.d)], 1)])
        return self.q.kl(Gauss(torch.cat([self.data.mean, torch.zeros(self.d)]), cov))

    def elbo(self) -> Tensor:
        """The evidence lower bound, averaged over the data."""
        return self.expected_log_p() - self.kl()

    def information(self) -> Tensor:
        """The mutual information of x and z under q."""
        return 0.5 * (torch.logdet(self.q_z.cov) - torch.logdet(self.t2))


def expected_log_normal(residual: Gauss, cov: Tensor) -> Tensor:
    """``E[log N(r; 0, cov)]`` for a normal r."""
    second = residual.cov + torch.outer(residual.mean, residual.mean)
    trace = torch.trace(torch.linalg.solve(cov, second))
    return -0.5 * (trace + torch.logdet(cov) + len(residual.mean) * math.log(2 * math.pi))


def make(correlated: bool = False, n: int = 2) -> tuple[LatentModel, Gauss]:
    """A model that is far from its optimum in every parameter, and its data.

    The decoder is wide: q(x|z)/p(x|z) and its square have finite moments (needed for BAVAE's exponential).
    """
    rng = torch.Generator().manual_seed(5)
    root = torch.tensor([[0.8, 0.0], [0.3, 0.6]])[:n, :n]
    data = Gauss(torch.tensor([0.3, -0.2])[:n], root @ root.T)
    L = torch.diag(torch.tensor([0.7, 0.5])[:n])
    if correlated:
        L[1, 0] = 0.5
    encoder = Affine(0.5 * torch.randn(n, n, generator=rng), 0.3 * torch.randn(n, generator=rng), L)
    scale = torch.diag(torch.tensor([0.9, 0.8])[:n])
    decoder = Affine(0.4 * torch.randn(n, n, generator=rng), 0.3 * torch.randn(n, generator=rng), scale)
    return LatentModel(encoder, decoder, x_shape=(n,), latent_dim=n), data
