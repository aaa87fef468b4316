"""How training is judged while it runs, on validation data and by the average of the weights.

A model with an encoder is judged by the errors of both reconstructions; one that scores observations without codes
by its −log p(x). One that can only be sampled has no error. Early stopping watches this error, but of a method without
critics, whose bound is known, −ELBO: the reconstructions of a VAE are best while the weight of its KL still grows.
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
from advae.model import LatentModel, representative, seeded
from advae.random import mix_seeds
from advae.training.distributed import summed

EXAMPLES = 2048  # enough for an error within about 2%; validation stays a small share of a run
CHUNK = 512


def watched(found: Mapping[str, float], method: Method) -> float | None:
    """What early stopping watches of a validation; None if there is nothing."""
    if not method.adversaries and {"reconstruction", "kl"} <= found.keys():
        return found["reconstruction"] + found["kl"]
    return found.get("error")


class Validation:
    """Fixed validation observations, and what a model makes of them.

    Args:
        data: whose validation split to use, the first ``EXAMPLES`` of it.
        seed: of the observations' own noise (binarization) and of the codes, the same every time.
        device: where to work.
        fabric: of several processes, which share the examples out.
    """

    def __init__(self, data: Dataset, seed: int, device: torch.device, fabric: Fabric | None = None) -> None:
        self.fabric = fabric if fabric is not None and fabric.world_size > 1 else None
        count = min(EXAMPLES, len(data.validation))
        with seeded(seed, device):
            raw = data.validation.raw(torch.arange(count)).to(device)
            self.x = data.preprocessing.apply(raw)
        self.seed = seed
        self.variance = (self.x - self.x.mean(0)).square().sum() / count

    @torch.no_grad()
    def __call__(self, model: LatentModel, method: Method) -> dict[str, float]:
        """Diagnostics of the method, and the errors of x → z → x' and z → x → z'.

        Each error is a share of variance left unexplained: ``E‖x − x'‖² / E‖x − E x‖²`` and
        ``E‖z − z'‖² / d``. ``error`` is their mean (AS-VAE section 5) or, without codes, the method's
        ``reconstruction``, −log p(x) in nats.
        """
        totals: dict[str, Tensor] = {}
        pieces, seed = self._pieces()
        with seeded(seed, model.device):
            for x in pieces:
                found = method.losses(model, x).diagnostics
                if model.has_encoder:
                    found |= self._errors(model, x)
                for key, value in found.items():
                    totals[key] = totals.get(key, torch.zeros((), device=x.device)) + value.float().sum()
        totals = totals if self.fabric is None else summed(self.fabric, totals)
        means = {key: float(total) / len(self.x) for key, total in totals.items()}
        if model.has_encoder:
            means["error"] = 0.5 * (means["error/x"] + means["error/z"])
        elif "reconstruction" in means:
            means["error"] = means["reconstruction"]
        return means

    def _pieces(self) -> tuple[Sequence[Tensor], int]:
        """This process's examples in pieces of about one size, none of them alone; and the seed of its noise."""
        if self.fabric is None:
            return self.x.chunk(math.ceil(len(self.x) / CHUNK)), self.seed
        rank, world = self.fabric.global_rank, self.fabric.world_size
        own = self.x.tensor_split(world)[rank]
        if len(own) < 2:
            raise ConfigError(
                "too few validation examples for so many processes", given=f"{len(self.x)} for {world}"
            )
        return own.chunk(math.ceil(len(own) / CHUNK)), mix_seeds(self.seed, rank)

    def _errors(self, model: LatentModel, x: Tensor) -> dict[str, Tensor]:
        z = model.prior.rsample(x.shape[:1])
        x_back = representative(model.decode(model.encode(x).rsample()))
        z_back = representative(model.encode(model.decode(z).rsample()))
        return {
            "error/x": (x - x_back).square().flatten(1).sum(1) / self.variance.clamp_min(1e-12),
            "error/z": (z - z_back).square().mean(1),
        }
