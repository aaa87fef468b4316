"""A small classifier of a data set's labels, trained once and kept: the feature network `classifier`.

Convolutions of 3 × 3 with batch normalisation down to maps of about 8 × 8, then 64 features, then the classes. It is
always trained in the same way under the same seed, whatever run is judged, so that all runs on a data set are judged by
one network. What is kept is read with its checksum; damaged, it is trained anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advae.data import Batches, Dataset, Split
from advae.errors import CheckpointError, ConfigError
from advae.evaluation.resumable import ALONE, Work
from advae.io import digest, read_json, recovered_folder, replaced_folder, write_json
from advae.model import load_weights, seeded

VERSION = 1  # of the network and its training: another number, and it is trained anew
FEATURES = 64
SEED, BATCH, RATE = 0, 128, 2e-3
EPOCHS = 4
LEAST, MOST = 300, 6000  # steps: bounds that hold for 1,455 digits as for a million images
DROPPED = 0.5  # of the last maps. Without it, images learned by heart look surer than others: real test data seem far
SMALL, MAPS = 16, 8  # images up to 16 × 16 are seen whole first; maps are halved until they are 8 × 8 or less
WEIGHTS, RECORD = "classifier.safetensors", "classifier.json"


class Classifier(nn.Module):
    """Images on 0 … 255 to features and logits.

    Args:
        x_shape: ``(C, H, W)``.
        classes: K.
    """

    def __init__(self, x_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = x_shape
        side = min(height, width)
        strides = [1 if side <= SMALL else 2]
        while len(strides) < 2 or math.ceil(side / math.prod(strides)) > MAPS:
            strides.append(2)
        widths = [channels, 32, *[64] * len(strides)]
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(pairwise(widths), [*strides, 1], strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        for stride in strides:
            height, width = math.ceil(height / stride), math.ceil(width / stride)
        self.maps = nn.Sequential(*layers, nn.Flatten())
        self.features = nn.Sequential(
            nn.Dropout(DROPPED),
            nn.Linear(64 * height * width, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)
        self.float()

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, H, W]`` to features ``[B, 64]`` and logits ``[B, K]``."""
        features = self.features(self.maps(grey.float() / 127.5 - 1))
        return features, self.head(features)


@dataclass(frozen=True)
class Trained:
    """A classifier with what is known of it.

    Attributes:
        network: in evaluation mode.
        accuracy: the share of held-out images that it names rightly.
        n: the number of those.
        split: which they are.
        chance: the share of the commonest class among them.
        kept: the folder it is kept in; None if that could not be written.
    """

    network: Classifier
    accuracy: float
    n: int
    split: str
    chance: float
    kept: Path | None


def classifier(
    data: Dataset, folder: Path, device: torch.device | str = "cpu", work: Work = ALONE
) -> Trained:
    """The classifier of these data: read from below ``folder``, or trained and kept there.

    Raises:
        ConfigError: the data have no labels to train on.
    """
    held = _check(data)
    place = folder / "classifiers" / _key(data)
    if work.rank != 0 and work.world > 1:
        torch.distributed.barrier()  # the first process trains it for all
    try:
        return _read(data, place, device)
    except (CheckpointError, KeyError, TypeError, ValueError):
        network, measured = _trained(data, held, device, work)
        return _keep(network, measured, data, place)
    finally:
        if work.rank == 0 and work.world > 1:
            torch.distributed.barrier()


def _check(data: Dataset) -> Split:
    """The held-out split to measure it on."""
    labels = data.train.labels
    if labels is None or data.classes is None or len(labels[labels >= 0].unique()) < 2:
        raise ConfigError(
            "these data have no labels to train a classifier on",
            given=data.source,
            remedy="judge samples by the features of another network: --features inception",
        )
    for split in (data.test, data.validation):
        if split.labels is not None and bool((split.labels >= 0).any()):
            return split
    raise ConfigError(
        "no held-out example has a label, so that a classifier could not be tested",
        given=data.source,
        remedy="judge samples by the features of another network: --features inception",
    )


def _key(data: Dataset) -> str:
    """A name for what the classifier depends on; images drawn to black and white beforehand are other images."""
    described = data.protocol.describe()
    drawn = f"-binarised-{described['seed']}" if described["name"] == "binarise-static" else ""
    return f"{data.checksum}{drawn}-v{VERSION}"


def _grey(data: Dataset, raw: Tensor, device: torch.device | str) -> Tensor:
    return data.protocol.raw_grey(raw.to(device))


def _trained(
    data: Dataset, held: Split, device: torch.device | str, work: Work
) -> tuple[Classifier, dict[str, Any]]:
    """A network trained on the labels, by Adam with a cosine schedule, and what is known of it."""
    assert data.classes is not None
    batches = Batches(data.train, min(BATCH, len(data.train)), seed=SEED, device=device)
    classes = batches.split.labels
    assert classes is not None
    steps = min(MOST, max(LEAST, EPOCHS * batches.steps_per_epoch))
    with seeded(SEED, device):
        network = Classifier(data.x_shape, data.classes).to(device).train()
        optimiser = torch.optim.Adam(network.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        with work.stage("training a classifier of the labels", steps) as tick, torch.enable_grad():
            for step in range(steps):
                _, logits = network(_grey(data, batches(step), device))
                labels = classes[batches.indices(step).to(classes.device)]
                loss = nn.functional.cross_entropy(logits, labels, ignore_index=-1)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                tick(1)
    network.eval().requires_grad_(False)
    return network, {"steps": steps, **_measured(network, data, held, device)}


@torch.no_grad()
def _measured(network: Classifier, data: Dataset, held: Split, device: torch.device | str) -> dict[str, Any]:
    """Accuracy on the held-out images that have a label."""
    assert held.labels is not None
    labels = held.labels.cpu()
    named = torch.cat([network(_grey(data, raw, device))[1].argmax(1).cpu() for raw in held.chunks(BATCH)])
    known = labels >= 0
    right = (named == labels)[known]
    return {
        "accuracy": float(right.double().mean()),
        "n": len(right),
        "split": held.name,
        "chance": float(labels[known].bincount().max() / len(right)),
    }


def _keep(network: Classifier, measured: dict[str, Any], data: Dataset, place: Path) -> Trained:
    """Write it to a folder; where that cannot be done, it serves this once."""
    known = {key: measured[key] for key in ("accuracy", "n", "split", "chance")}
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        with replaced_folder(place) as aside:
            save_file(weights, aside / WEIGHTS)
            about = {
                "data": data.name,
                "checksum": data.checksum,
                "shape": data.x_shape,
                "classes": data.classes,
            }
            made = {"version": VERSION, "seed": SEED, "sha256": digest(aside / WEIGHTS)}
            write_json(aside / RECORD, {**made, **about, **measured})
        return Trained(network, **known, kept=place)
    except OSError:
        return Trained(network, **known, kept=None)


def _read(data: Dataset, place: Path, device: torch.device | str) -> Trained:
    """The classifier of a folder, if it is whole and of these data."""
    place = recovered_folder(place)
    record = read_json(place / RECORD)
    if record["version"] != VERSION or record["checksum"] != data.checksum:
        raise CheckpointError("this is the classifier of other data", given=place)
    network = Classifier(record["shape"], record["classes"])
    load_weights(network, place / WEIGHTS, record["sha256"])
    return Trained(
        network.to(device).eval().requires_grad_(False),
        accuracy=float(record["accuracy"]),
        n=int(record["n"]),
        split=str(record["split"]),
        chance=float(record["chance"]),
        kept=place,
    )
