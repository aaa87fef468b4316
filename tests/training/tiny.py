"""Configurations that train in milliseconds, and what a run leaves behind as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn

from advae.methods import METHODS
from advae.model import build_model
from advae.run import Run
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions

STEPS = 12


def data(folder: Path) -> str:
    """A file of 60 images of 4 × 5 gray pixels."""
    path = folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 1, 4, 5), dtype=np.uint8))
    return str(path)


def tree(source: str, **method: Any) -> dict[str, Any]:
    """A recipe with all that is random or has a state: dropout, dynamic binarization, batch and spectral norms."""
    return {
        "recipe": "tiny",
        "device": "cpu",
        "data": {"source": source, "preprocessing": "binarize-dynamic"},
        "model": {
            "latent_dim": 2,
            "encoder": {"name": "conv", "channels": [3], "hidden": [6], "dropout": 0.2, "norm": "batch"},
            "decoder": {"name": "mlp", "hidden": [6], "dropout": 0.2},
            "critic": {"name": "concat", "hidden": [6], "dropout": 0.2, "spectral_norm": True},
        },
        "method": {"name": "vae", **method},
        "train": {
            "steps": STEPS,
            "batch_size": 8,
            "lr_warmup": 3,
            "ema_decay": 0.9,
            "grad_clip": 5.0,
            "log_every": 2,
            "validate_every": 4,
            "samples_every": 6,
            "checkpoint_every": 100,
        },
    }


def changed(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with values put at dotted places."""
    out = {k: changed(v, {}) if isinstance(v, Mapping) else v for k, v in base.items()}
    for key, value in dotted.items():
        *path, last = key.split(".")
        branch = out
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return out


def train_step(method: dict[str, Any], options: TrainOptions | None = None, **components: Any) -> TrainStep:
    """A step of a small model on images of 4 × 5 pixels."""
    network = {"name": "mlp", "hidden": [5]}
    spec = {
        "latent_dim": 2,
        "encoder": network,
        "posterior": {"name": "normal"},
        "decoder": network,
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [5]},
    } | components
    method_ = METHODS.build(method)
    model = build_model(spec, (1, 4, 5), method_.critics)
    return TrainStep(Fabric(accelerator="cpu", devices=1), model, method_, options or TrainOptions())


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def state(run: Run, name: str = "last") -> dict[str, Tensor]:
    """Networks, moving average and optimizers of a checkpoint, without the random state between two steps."""
    tensors = load_file(run.checkpoint(name) / "state.safetensors")
    return {key: value for key, value in tensors.items() if not key.startswith("random/")}


def ema(run: Run, name: str = "last") -> dict[str, Tensor]:
    """The averaged model in a checkpoint."""
    tensors = state(run, name)
    return {key.removeprefix("ema/"): value for key, value in tensors.items() if key.startswith("ema/")}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Keys whose tensors are not the same bit for bit."""
    assert set(a) == set(b)
    return [key for key in a if not torch.equal(a[key], b[key])]


def images(n: int) -> Iterator[Tensor]:
    """Binary batches without end."""
    while True:
        yield torch.randint(0, 2, (n, 1, 4, 5)).float()


class Poison(nn.Module):
    """A user's network that gives NaN at the call of its choice (class attribute), counted over all its instances."""

    calls = 0
    at = -1

    def __init__(self, in_shape: Any, out_shape: Any, *, noise_dim: int = 0, width: int = 4) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.layer = nn.Linear(int(np.prod(in_shape)), int(np.prod(out_shape)))

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        out = self.layer(inputs.flatten(1)).reshape(-1, *self.out_shape)
        type(self).calls += 1
        return out * torch.nan if type(self).calls == type(self).at else out


class PoisonCritic(nn.Module):
    """A user's critic that gives NaN at the call of its choice."""

    calls = 0
    at = -1

    def __init__(self, x_shape: Any, z_shape: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(int(np.prod(x_shape)) + int(np.prod(z_shape)), 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        T = self.layer(torch.cat([x.flatten(1), z.flatten(1)], 1)).squeeze(-1)
        type(self).calls += 1
        return T * torch.nan if type(self).calls == type(self).at else T
