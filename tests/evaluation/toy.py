"""A linear-Gaussian model of vectors, whose evidence and posterior are known, and data drawn from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advae.data import Dataset, Split, make_protocol
from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.model import LatentModel

D, N, NOISE = 2, 5, 0.7
IMAGES = 400


class Decoder(nn.Module):
    """``N(W z, NOISE² I)``."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(N, D, generator=torch.Generator().manual_seed(3)))

    def forward(self, z: Tensor) -> Distribution:
        return Normal(z @ self.W.T, torch.tensor(math.log(NOISE)))


class Encoder(nn.Module):
    """The exact posterior's mean with its marginal standard deviations times ``width``: exact for none."""

    def __init__(self, W: Tensor, width: float) -> None:
        super().__init__()
        precision = torch.eye(D) + W.T @ W / NOISE**2
        self.cov = torch.linalg.inv(precision)
        self.A, self.width = self.cov @ W.T / NOISE**2, width

    def forward(self, x: Tensor) -> Distribution:
        return Normal(x @ self.A.T, (self.width * self.cov.diagonal().sqrt()).log())


def toy_model(width: float) -> LatentModel:
    """The model with the exact posterior's diagonal, its standard deviations times ``width``."""
    decoder = Decoder().to(torch.get_default_dtype())
    encoder = Encoder(decoder.W.detach(), width)
    return LatentModel(encoder, decoder, x_shape=(N,), latent=D)


def data_of(model: LatentModel) -> Dataset:
    """Real vectors drawn from the model itself, standardised by the identity."""
    decoder = model.decoder
    assert isinstance(decoder, Decoder)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(IMAGES, D, generator=generator)
    x = z @ decoder.W.detach().T + NOISE * torch.randn(IMAGES, N, generator=generator)
    split = Split("test", x)
    protocol = make_protocol("standardise", split)
    protocol.mean, protocol.std = torch.zeros(N), torch.ones(N)  # type: ignore[attr-defined]
    return Dataset("toy", "toy", (N,), split, split, split, protocol, "0")


def exact(model: LatentModel, x: Tensor) -> Tensor:
    """``log N(x; 0, W Wᵀ + NOISE² I)``."""
    W = model.decoder.W.detach()  # type: ignore[union-attr]
    cov = W @ W.T + NOISE**2 * torch.eye(N)
    return torch.distributions.MultivariateNormal(torch.zeros(N), cov).log_prob(x)
