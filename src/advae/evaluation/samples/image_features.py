"""8-bit images, real or sampled from a model, and their features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset, Split
from advae.errors import NotFiniteError
from advae.evaluation.eval_data import OtherExamples
from advae.evaluation.resumable import PartialResult, Runner, Ticks
from advae.evaluation.samples.features import FeatureExtractor
from advae.model import LatentModel
from advae.random import mix_seeds

BATCH_SIZE = 256  # images read or sampled at a time; the samples of a batch depend on its seed


@dataclass(frozen=True)
class ImageSource:
    """Images that are read or sampled when needed.

    Attributes:
        description: for people: "test images".
        n: number of images.
        read: returns those from ``start``, a multiple of BATCH_SIZE, to ``stop``: uint8 ``[stop − start, C, H, W]``.
        key: what the images depend on, as JSON values.
    """

    description: str
    n: int
    read: Callable[[int, int], Tensor]
    key: dict[str, Any]

    def get(self, indices: Tensor) -> Tensor:
        """Return the images at ``indices [k]``: uint8 ``[k, C, H, W]``."""
        images = []
        for index in indices.tolist():
            start = index // BATCH_SIZE * BATCH_SIZE
            images.append(self.read(start, min(start + BATCH_SIZE, self.n))[index - start].cpu())
        return torch.stack(images)


def to_8_bit(gray: Tensor) -> Tensor:
    """Clamp gray levels to 0 … 255 and round them to uint8, like image files that published metrics are based on."""
    return gray.clamp(0, 255).round().to(torch.uint8)


def real_images(
    data: Dataset,
    split: Split,
    max_images: int,
    seed: int,
    limit: int | None = None,
    other: OtherExamples | None = None,
) -> ImageSource:
    """Return all images of a split, or a random subset of ``max_images``; with ``limit``, of its first images."""
    indices = torch.arange(len(split) if limit is None else limit)
    is_subset = len(indices) > max_images
    if is_subset:
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
        indices = order[:max_images].sort().values

    def read(start: int, stop: int) -> Tensor:
        return to_8_bit(data.preprocessing.raw_to_gray(split.raw(indices[start:stop])))

    key = {
        "data": (other or data).checksum,
        "split": split.name,
        "seed": seed if is_subset else None,
        "n": len(indices),
        "preprocessing": data.preprocessing.describe(),
    }
    return ImageSource(f"{other.name if other else split.name} images", len(indices), read, key)


def model_samples(model: LatentModel, data: Dataset, n: int, seed: int) -> ImageSource:
    """Return ``n`` samples of the model: means of p(x|z), as samples are usually shown.

    They are samples from p(x|z) where its mean is unknown, and where the stored images are binarized; and samples from
    p(x) of a model without latents.
    """
    is_binary = data.preprocessing.describe()["name"] == "binarize-static"
    mean = model.latent_dim > 0 and model.decoder_has_density() and not is_binary

    def read(start: int, stop: int) -> Tensor:
        x = model.sample(stop - start, seed=mix_seeds(seed, start), mean=mean, batch_size=BATCH_SIZE)
        if not bool(torch.isfinite(x).all()):
            raise NotFiniteError("The model's samples are not finite.", fix="check its training curves")
        return to_8_bit(data.preprocessing.to_gray(x))

    description = f"{'means of' if mean else 'samples from'} p(x|z), z from the prior"
    if not model.latent_dim:
        description = "samples from p(x)"
    key = {"samples": n, "seed": seed, "mean": mean, "preprocessing": data.preprocessing.describe()}
    return ImageSource(description, n, read, key)


def extract_features(
    extractor: FeatureExtractor, images: ImageSource, device: torch.device | str, runner: Runner
) -> tuple[Tensor, Tensor]:
    """Return features ``[n, D]`` and logits ``[n, K]`` of images, on the CPU; resumable and distributed."""

    @torch.no_grad()
    def compute(start: int, partial: PartialResult, tick: Ticks) -> dict[str, Tensor]:
        gray = images.read(start, min(start + BATCH_SIZE, images.n)).to(device, torch.float32)
        features, logits = extractor.compute(gray)
        return {"features": features.float(), "logits": logits.float()}

    key = {**extractor.protocol, **images.key, "batch_size": BATCH_SIZE}
    label = f"{extractor.name}: {images.description}"
    result = runner.map(label, range(0, images.n, BATCH_SIZE), compute, key)
    return result["features"], result["logits"]
