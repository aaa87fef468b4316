"""Linear-Gaussian models of vectors, whose evidence and posterior are known, and data sampled from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advae.data import Dataset, Split
from advae.data.preprocessing import Standardize
from advae.distributions import Distribution
from advae.distributions.implicit import ImplicitSampler
from advae.distributions.normal import Normal
from advae.model import LatentModel

D, N, NOISE = 2, 5, 0.7
IMAGES = 400


class Decoder(nn.Module):
    """``N(W z, NOISE² I)``."""

    def __init__(self, d: int = D, n: int = N) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.W = nn.Parameter(torch.randn(n, d, generator=generator) * math.sqrt(N / n))

    def forward(self, z: Tensor) -> Distribution:
        return Normal(z @ self.W.T, torch.tensor(math.log(NOISE)))


class Encoder(nn.Module):
    """Normal with the exact posterior's mean and ``width`` times its marginal standard deviations; never exact."""

    def __init__(self, W: Tensor, width: float) -> None:
        super().__init__()
        precision = torch.eye(W.shape[1]) + W.T @ W / NOISE**2
        self.cov = torch.linalg.inv(precision)
        self.A, self.width = self.cov @ W.T / NOISE**2, width

    def forward(self, x: Tensor) -> Distribution:
        return Normal(x @ self.A.T, (self.width * self.cov.diagonal().sqrt()).log())


class Sampler(Encoder):
    """Samples of the exact posterior, its covariance times ``width²``, without a density."""

    def forward(self, x: Tensor) -> Distribution:
        mean, L = x @ self.A.T, self.width * torch.linalg.cholesky(self.cov)
        return ImplicitSampler(
            lambda n: mean + torch.randn(n, *mean.shape) @ L.T, len(x), mean.shape[1:], 2000
        )


class Unrounded(Standardize):
    """Observations in the precision of the stored values, for models in float64."""

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (raw - self.mean) / self.std


def toy_model(width: float, d: int = D, n: int = N, *, implicit: bool = False) -> LatentModel:
    """The model with the exact posterior's diagonal, its standard deviations times ``width``.

    With ``implicit`` the encoder samples from the full posterior, and has no density.
    """
    decoder = Decoder(d, n).to(torch.get_default_dtype())
    encoder = (Sampler if implicit else Encoder)(decoder.W.detach(), width)
    return LatentModel(encoder, decoder, x_shape=(n,), latent_dim=d)


def data_of(model: LatentModel) -> Dataset:
    """Real vectors sampled from the model itself, standardized by the identity."""
    W = weights(model)
    n, d = W.shape
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(IMAGES, d, generator=generator)
    x = z @ W.T + NOISE * torch.randn(IMAGES, n, generator=generator)
    split = Split("test", x)
    preprocessing = Unrounded([0.0] * n, [1.0] * n)
    return Dataset("toy", "toy", (n,), split, split, split, preprocessing, "0")


def weights(model: LatentModel) -> Tensor:
    """``W``."""
    decoder = model.decoder
    assert isinstance(decoder, Decoder)
    return decoder.W.detach()


def exact(model: LatentModel, x: Tensor) -> Tensor:
    """``log N(x; 0, W Wᵀ + NOISE² I)``."""
    W = weights(model)
    cov = W @ W.T + NOISE**2 * torch.eye(len(W))
    return torch.distributions.MultivariateNormal(torch.zeros(len(W)), cov).log_prob(x)
