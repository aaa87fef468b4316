"""Images as a feature network sees them: stored or sampled, on 8 bits, some at a time, shared out and kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset, Split, mix
from advae.errors import NotFiniteError
from advae.evaluation.resumable import Slot, Ticks, Work
from advae.evaluation.samples.features import Features
from advae.model import LatentModel

PART = 256  # images at a time; also how many samples are drawn under one seed


@dataclass(frozen=True)
class Images:
    """Images that are made or read when they are wanted.

    Attributes:
        what: for people: "test images".
        n: how many.
        part: those from ``start`` on, a multiple of PART, up to ``stop``: uint8 ``[stop − start, C, H, W]``.
        key: what they depend on, JSON.
    """

    what: str
    n: int
    part: Callable[[int, int], Tensor]
    key: dict[str, Any]

    def at(self, places: Tensor) -> Tensor:
        """The images at ``places [k]``: uint8 ``[k, C, H, W]``."""
        found = []
        for place in places.tolist():
            start = place // PART * PART
            found.append(self.part(start, min(start + PART, self.n))[place - start].cpu())
        return torch.stack(found)


def eight_bit(grey: Tensor) -> Tensor:
    """Grey levels clamped to 0 … 255 and rounded, uint8: what published metrics see are files of images."""
    return grey.clamp(0, 255).round().to(torch.uint8)


def stored(data: Dataset, split: Split, limit: int, seed: int, first: int | None = None) -> Images:
    """Images of a split: all, or ``limit`` of them drawn without replacement; with ``first``, of the first so many."""
    total = len(split) if first is None else first
    places = torch.arange(total)
    if total > limit:
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit]
        places = chosen.sort().values

    def part(start: int, stop: int) -> Tensor:
        return eight_bit(data.protocol.raw_grey(split.raw(places[start:stop])))

    key = {
        "data": data.checksum,
        "split": split.name,
        "seed": seed if total > limit else None,
        "n": len(places),
    }
    return Images(f"{split.name} images", len(places), part, {**key, "protocol": data.protocol.describe()})


def sampled(model: LatentModel, data: Dataset, n: int, seed: int) -> Images:
    """``n`` samples of the model: means of p(x|z), as samples are usually shown.

    Draws from p(x|z) where it has no mean to be known, and where the stored images are draws themselves, of black and
    white pixels; draws from p(x) of a model without codes.
    """
    binary = data.protocol.describe()["name"] == "binarise-static"
    mean = model.latent > 0 and model.decoder_has_density() and not binary

    def part(start: int, stop: int) -> Tensor:
        x = model.sample(stop - start, seed=mix(seed, start), mean=mean, batch=PART)
        if not bool(torch.isfinite(x).all()):
            raise NotFiniteError("the model's samples are not finite", remedy="look at its training curves")
        return eight_bit(data.protocol.to_grey(x))

    coded = f"{'means of' if mean else 'draws from'} p(x|z) at codes from the prior"
    what = coded if model.latent else "draws from p(x)"
    key = {"sampled": n, "seed": seed, "mean": mean, "protocol": data.protocol.describe()}
    return Images(what, n, part, key)


def features_of(
    network: Features, images: Images, device: torch.device | str, work: Work
) -> tuple[Tensor, Tensor]:
    """Features ``[n, D]`` and logits ``[n, K]`` of images, on the CPU; shared out over processes and kept by part."""

    @torch.no_grad()
    def compute(start: int, slot: Slot, tick: Ticks) -> dict[str, Tensor]:
        grey = images.part(start, min(start + PART, images.n)).to(device)
        features, logits = network.compute(grey.float())
        return {"features": features.float(), "logits": logits.float()}

    key = {**network.protocol, **images.key, "part": PART}
    found = work.each(f"{network.name}: {images.what}", range(0, images.n, PART), compute, key)
    return found["features"], found["logits"]
