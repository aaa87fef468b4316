"""Validation during training, with the moving average of the weights.

The validation error is the reconstruction error of x and z for models with an encoder, and −log p(x) for models without
latents. Models that can only be sampled have none. Early stopping minimizes this error, or −ELBO for methods without
critics: the reconstructions of a VAE are best while the weight of its KL term still grows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from advae.data import Dataset
from advae.errors import ConfigError
from advae.methods import Method
from advae.model import LatentModel
from advae.random import mix_seeds, seeded
from advae.training.distributed import all_reduce_sum

MAX_EXAMPLES = 2048  # gives errors within about 2 %, at a small share of a run's time
CHUNK_SIZE = 512


def early_stopping_loss(metrics: Mapping[str, float], method: Method) -> float | None:
    """Return the value that early stopping minimizes, or None if validation yields none."""
    if not method.adversaries and {"reconstruction", "kl"} <= metrics.keys():
        return metrics["reconstruction"] + metrics["kl"]
    return metrics.get("error")


class Validation:
    """Metrics on fixed validation examples.

    Args:
        data: the data set; the first ``MAX_EXAMPLES`` examples of its validation split are used.
        seed: of the noise of preprocessing and of latents, the same for every validation.
        device: where to compute.
        fabric: of several processes, which share the examples.
    """

    def __init__(self, data: Dataset, seed: int, device: torch.device, fabric: Fabric | None = None) -> None:
        self.fabric = fabric if fabric is not None and fabric.world_size > 1 else None
        count = min(MAX_EXAMPLES, len(data.validation))
        with seeded(seed, device):
            raw = data.validation.raw(torch.arange(count)).to(device)
            self.x = data.preprocessing.apply(raw)
        self.seed = seed
        self.variance = (self.x - self.x.mean(0)).square().sum() / count

    @torch.no_grad()
    def __call__(self, model: LatentModel, method: Method) -> dict[str, float]:
        """Compute the method's diagnostics and the errors of x → z → x' and z → x → z'.

        Each error is the fraction of unexplained variance: ``E‖x − x'‖² / E‖x − E x‖²`` and ``E‖z − z'‖² / d``.
        ``error`` is their mean (AS-VAE section 5) or, without latents, ``reconstruction``: −log p(x) in nats.
        """
        totals: dict[str, Tensor] = {}
        chunks, seed = self._chunks()
        with seeded(seed, model.device):
            for x in chunks:
                metrics = dict(method.losses(model, x).diagnostics)
                if model.has_encoder:
                    metrics |= self._reconstruction_errors(model, x)
                for key, value in metrics.items():
                    total = value.float().sum()
                    totals[key] = totals[key] + total if key in totals else total
        totals = totals if self.fabric is None else all_reduce_sum(self.fabric, totals)
        means = {key: float(total) / len(self.x) for key, total in totals.items()}
        if model.has_encoder:
            means["error"] = 0.5 * (means["error/x"] + means["error/z"])
        elif "reconstruction" in means:
            means["error"] = means["reconstruction"]
        return means

    def _chunks(self) -> tuple[Sequence[Tensor], int]:
        """Return this process's examples in chunks of similar size, each of at least two, and its seed."""
        if self.fabric is None:
            return self.x.chunk(math.ceil(len(self.x) / CHUNK_SIZE)), self.seed
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        x = self.x.tensor_split(world_size)[rank]
        if len(x) < 2:
            raise ConfigError(
                "Too few validation examples for the number of processes.",
                given=f"{len(self.x)} examples, {world_size} processes",
                expected="at least 2 per process",
            )
        return x.chunk(math.ceil(len(x) / CHUNK_SIZE)), mix_seeds(self.seed, rank)

    def _reconstruction_errors(self, model: LatentModel, x: Tensor) -> dict[str, Tensor]:
        z = model.prior.rsample(x.shape[:1])
        x_reconstructed = model.decode(model.encode(x).rsample()).point_estimate()
        z_reconstructed = model.encode(model.decode(z).rsample()).point_estimate()
        return {
            "error/x": (x - x_reconstructed).square().flatten(1).sum(1) / self.variance.clamp_min(1e-12),
            "error/z": (z - z_reconstructed).square().mean(1),
        }
