"""A small model, run and data set with the interfaces of the real ones, cheap enough to look at in a test."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """This module."""
    return sys.modules[__name__]


class FakeNormal:
    """N(mean, scale²), as a distribution object."""

    has_log_prob = True

    def __init__(self, mean: Tensor, scale: float) -> None:
        self.mean, self.scale = mean, scale

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.mean + self.scale * torch.randn(*sample_shape, *self.mean.shape)

    sample = rsample

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean, self.scale).log_prob(x).flatten(1).sum(-1)


class WithoutDensity(FakeNormal):
    """The same as an implicit distribution."""

    has_log_prob = False


class FakeModel(nn.Module):
    """A linear encoder and its transpose as decoder."""

    decoded_as = FakeNormal
    has_encoder = True

    def __init__(self, x_shape: tuple[int, ...], latent: int, data: Tensor | None = None) -> None:
        super().__init__()
        self.x_shape, self.latent = x_shape, latent
        size = int(torch.tensor(x_shape).prod())
        self.encoder, self.decoder = nn.Linear(size, latent), nn.Linear(latent, size)
        self.critics = nn.ModuleDict({"critic": nn.Linear(size, 1)})
        self.info: dict[str, Any] = {"step": 100}
        self.prior, self.device = FakeNormal(torch.zeros(1, latent), 1.0), torch.device("cpu")
        if data is not None:
            self.fit(data.flatten(1).double())

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Principal components, whitened: a model whose pictures look like something."""
        mean = x.mean(0)
        _, scales, directions = torch.linalg.svd(x - mean, full_matrices=False)
        deviation = scales[: self.latent, None] / len(x) ** 0.5 + 1e-9
        basis = directions[: self.latent]
        self.encoder.weight.copy_(basis / deviation)
        self.encoder.bias.copy_(-(basis / deviation) @ mean)
        self.decoder.weight.copy_((basis * deviation).T)
        self.decoder.bias.copy_(mean)

    def encode(self, x: Tensor) -> FakeNormal:
        return FakeNormal(self.encoder(x.flatten(1)), 0.2)

    def decode(self, z: Tensor) -> FakeNormal:
        return self.decoded_as(self.decoder(z).reshape(-1, *self.x_shape), 0.1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = True) -> Tensor:
        generator = torch.Generator().manual_seed(seed or 0)
        return self.decode(torch.randn(n, self.latent, generator=generator)).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, mean: bool = True) -> Tensor:
        return self.decode(self.encode(x).mean).mean

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        z = self.encode(torch.stack([a, b])).mean
        t = torch.linspace(0, 1, steps)[:, None]
        return self.decode((1 - t) * z[0] + t * z[1]).mean


@dataclass
class FakeSplit:
    name: str
    values: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def raw(self, indices: Tensor) -> Tensor:
        return self.values[indices]


@dataclass
class FakeProtocol:
    name: str = "grey"
    support: str = "unit"

    def observe(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return raw.float() / 255 if self.support == "unit" else raw.float()

    def to_grey(self, x: Tensor) -> Tensor:
        return x * 255 if self.support == "unit" else x

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "support": self.support}


@dataclass
class FakeData:
    name: str
    train: FakeSplit
    validation: FakeSplit
    test: FakeSplit
    protocol: FakeProtocol = field(default_factory=FakeProtocol)
    classes: int | None = 10
    checksum: str = "1a2b3c4d"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return tuple(self.train.values.shape[1:])

    def describe(self) -> dict[str, Any]:
        splits = (self.train, self.validation, self.test)
        return {
            "name": self.name,
            "shape": list(self.x_shape),
            "sizes": {split.name: len(split) for split in splits},
            "classes": self.classes,
            "protocol": self.protocol.describe(),
            "checksum": self.checksum,
        }


@dataclass
class FakeRun:
    kept: ClassVar[str] = "eval"
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    made: FakeModel | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def metrics(self) -> list[dict[str, Any]]:
        return self.lines

    def estimates(self) -> list[dict[str, Any]]:
        return self.figures

    def remarks(self) -> list[dict[str, Any]]:
        return self.said

    def model(self, device: str = "cpu") -> FakeModel:
        from advae.errors import CheckpointError

        if self.made is None:
            raise CheckpointError("this run has no model yet")
        return self.made


def digits(labels: bool = True) -> FakeData:
    """scikit-learn's digits, 8-bit."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8)[:, None]
    y = torch.from_numpy(bunch.target)
    parts = {"train": slice(0, 1437), "validation": slice(1437, 1617), "test": slice(1617, 1797)}
    return FakeData("digits", *(FakeSplit(k, x[s], y[s] if labels else None) for k, s in parts.items()))


def numbers(n: int) -> FakeData:
    """Normal vectors [N, n]."""
    x = torch.randn(300, n, generator=torch.Generator().manual_seed(0))
    parts = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, 300)}
    splits = (FakeSplit(k, x[s]) for k, s in parts.items())
    return FakeData("numbers", *splits, protocol=FakeProtocol("standardise", "real"), classes=None)
