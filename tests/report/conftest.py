"""Small models, runs and data sets with the interfaces of the real ones."""

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
    """Return this module."""
    return sys.modules[__name__]


def make_estimate(
    name: str, value: float = 1.0, kind: str = "error", section: str = "samples", **fields: Any
) -> dict[str, Any]:
    """Return an estimate as in ``eval/estimates.json``; unknown fields are settings of its protocol."""
    estimate: dict[str, Any] = {"name": name, "metric": name, "variant": "", "value": value, "stderr": 0.1}
    estimate |= {"kind": kind, "unit": "nats", "n": 100, "section": section, "interval": None}
    is_better = {"error": False, "score": True, "lower bound": True if section == "likelihood" else None}
    estimate |= {"higher_is_better": is_better.get(kind)}
    known = {key: value for key, value in fields.items() if key in estimate}
    settings = {key: value for key, value in fields.items() if key not in (*estimate, "protocol")}
    return {**estimate, **known, "protocol": {**settings, **fields.get("protocol", {})}}


def make_remark(about: str, text: str = "It is so.", warning: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a remark as in ``eval/estimates.json``."""
    return {"about": about, "text": text, "warning": warning, **fields}


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


class FakeImplicit(FakeNormal):
    """The same without a density."""

    has_log_prob = False


class FakeModel(nn.Module):
    """A linear encoder and its transpose as decoder."""

    likelihood_class = FakeNormal
    has_encoder, likelihood_support = True, "real"

    def __init__(self, x_shape: tuple[int, ...], latent: int, data: Tensor | None = None) -> None:
        super().__init__()
        self.x_shape, self.latent_dim = x_shape, latent
        size = int(torch.tensor(x_shape).prod())
        self.encoder, self.decoder = nn.Linear(size, latent), nn.Linear(latent, size)
        self.critics = nn.ModuleDict({"critic": nn.Linear(size, 1)})
        self.info: dict[str, Any] = {"step": 100}
        self.prior, self.device = FakeNormal(torch.zeros(1, latent), 1.0), torch.device("cpu")
        if data is not None:
            self.fit(data.flatten(1).double())

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the weights to whitened principal components, so that samples resemble the data."""
        mean = x.mean(0)
        _, scales, directions = torch.linalg.svd(x - mean, full_matrices=False)
        deviation = scales[: self.latent_dim, None] / len(x) ** 0.5 + 1e-9
        basis = directions[: self.latent_dim]
        self.encoder.weight.copy_(basis / deviation)
        self.encoder.bias.copy_(-(basis / deviation) @ mean)
        self.decoder.weight.copy_((basis * deviation).T)
        self.decoder.bias.copy_(mean)

    def encode(self, x: Tensor) -> FakeNormal:
        return FakeNormal(self.encoder(x.flatten(1)), 0.2)

    def decode(self, z: Tensor) -> FakeNormal:
        return self.likelihood_class(self.decoder(z).reshape(-1, *self.x_shape), 0.1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = True) -> Tensor:
        generator = torch.Generator().manual_seed(seed or 0)
        return self.decode(torch.randn(n, self.latent_dim, generator=generator)).mean

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
class FakePreprocessing:
    name: str = "gray"
    support: str = "unit"

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return raw.float() / 255 if self.support == "unit" else raw.float()

    def to_gray(self, x: Tensor) -> Tensor:
        return x * 255 if self.support == "unit" else x

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "support": self.support}


@dataclass
class FakeData:
    name: str
    train: FakeSplit
    validation: FakeSplit
    test: FakeSplit
    preprocessing: FakePreprocessing = field(default_factory=FakePreprocessing)
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
            "preprocessing": self.preprocessing.describe(),
            "checksum": self.checksum,
        }


@dataclass
class FakeRun:
    eval_folder: ClassVar[str] = "eval"
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    metric_lines: list[dict[str, Any]] = field(default_factory=list)
    estimate_dicts: list[dict[str, Any]] = field(default_factory=list)
    remark_dicts: list[dict[str, Any]] = field(default_factory=list)
    saved_model: FakeModel | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def metrics(self) -> list[dict[str, Any]]:
        return self.metric_lines

    def estimates(self) -> list[dict[str, Any]]:
        return self.estimate_dicts

    def remarks(self) -> list[dict[str, Any]]:
        return self.remark_dicts

    def model(self, device: str = "cpu") -> FakeModel:
        from advae.errors import CheckpointError

        if self.saved_model is None:
            raise CheckpointError("this run has no model yet")
        return self.saved_model


def make_digits(labels: bool = True) -> FakeData:
    """Return scikit-learn's digits, 8-bit."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (torch.from_numpy(bunch.images) * 255 / 16).round().to(torch.uint8)[:, None]
    y = torch.from_numpy(bunch.target)
    parts = {"train": slice(0, 1437), "validation": slice(1437, 1617), "test": slice(1617, 1797)}
    return FakeData("digits", *(FakeSplit(k, x[s], y[s] if labels else None) for k, s in parts.items()))


def make_vectors(n: int) -> FakeData:
    """Return normal vectors ``[N, n]``."""
    x = torch.randn(300, n, generator=torch.Generator().manual_seed(0))
    parts = {"train": slice(0, 200), "validation": slice(200, 250), "test": slice(250, 300)}
    splits = (FakeSplit(k, x[s]) for k, s in parts.items())
    return FakeData("vectors", *splits, preprocessing=FakePreprocessing("standardize", "real"), classes=None)
