"""Small classifier of the data's labels, as a feature extractor.

Convolutions of 3 × 3 with batch normalization down to maps of about 8 × 8, then 64 features, then the classes. It is
always trained with the same steps and seed, so that all runs on a data set are compared in the features of one
network. It is stored with a checksum; if it is corrupted, it is trained again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from advae.data import BatchLoader, Dataset, Split
from advae.errors import CheckpointError, ConfigError, WriteError
from advae.evaluation.resumable import LOCAL, Runner
from advae.io import file_sha256, read_json, recovered_folder, replaced_folder, write_json
from advae.random import seeded
from advae.serialization import load_weights

VERSION = 1  # of the network and its training; classifiers of another version are trained again
NUM_FEATURES = 64
SEED, BATCH_SIZE, LR = 0, 128, 2e-3
NUM_EPOCHS = 4
MIN_STEPS, MAX_STEPS = 300, 6000  # limits for 1,455 digits and for a million images
# Of the last maps. Without it, the classifier is more confident on training images, and test images appear distant.
DROPOUT = 0.5
SMALL_IMAGE = 16  # pixels: images up to 16 × 16 have a first convolution without stride
FEATURE_MAP_SIZE = 8  # pixels: maps are halved until they are 8 × 8 or smaller
WEIGHTS, RECORD = "classifier.safetensors", "classifier.json"
FIX = "use the features of another network: --feature-extractor inception"


class Classifier(nn.Module):
    """Maps images in gray levels to features and logits.

    Args:
        x_shape: ``(C, H, W)``.
        classes: K.
    """

    def __init__(self, x_shape: Sequence[int], classes: int) -> None:
        super().__init__()
        channels, height, width = x_shape
        side = min(height, width)
        strides = [1 if side <= SMALL_IMAGE else 2]
        while len(strides) < 2 or math.ceil(side / math.prod(strides)) > FEATURE_MAP_SIZE:
            strides.append(2)
        widths = [channels, 32, *[64] * len(strides)]
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(pairwise(widths), [*strides, 1], strict=True):
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            height, width = math.ceil(height / stride), math.ceil(width / stride)
        self.maps = nn.Sequential(*layers, nn.Flatten())
        linear = nn.Linear(64 * height * width, NUM_FEATURES, bias=False)
        self.features = nn.Sequential(nn.Dropout(DROPOUT), linear, nn.BatchNorm1d(NUM_FEATURES), nn.ReLU())
        self.head = nn.Linear(NUM_FEATURES, classes)
        self.float()

    def forward(self, gray: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[B, C, H, W]`` to features ``[B, 64]`` and logits ``[B, K]``."""
        features = self.features(self.maps(gray.float() / 127.5 - 1))
        return features, self.head(features)


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained classifier.

    Attributes:
        network: in evaluation mode.
        accuracy: on ``n`` held-out images of ``split``.
        chance: fraction of the most frequent class among them.
        folder: where it is stored; None if it could not be written.
    """

    network: Classifier
    accuracy: float
    n: int
    split: str
    chance: float
    folder: Path | None


def load_or_train_classifier(
    data: Dataset, cache: Path, device: torch.device | str = "cpu", runner: Runner = LOCAL
) -> TrainedClassifier:
    """Load the classifier of these data from ``cache``, or train and store it.

    Raises:
        ConfigError: the data have no labels for training or testing.
    """
    held_out = _labeled_held_out_split(data)
    folder = cache / "classifiers" / _cache_key(data)
    if runner.rank != 0 and runner.world_size > 1:
        torch.distributed.barrier()  # the first process trains it for all
    try:
        return _load(data, folder, device)
    except (CheckpointError, KeyError, TypeError, ValueError):
        network, record = _train(data, held_out, device, runner)
        return _store(network, record, data, folder)
    finally:
        if runner.rank == 0 and runner.world_size > 1:
            torch.distributed.barrier()


def _labeled_held_out_split(data: Dataset) -> Split:
    """Return the split for testing; raise ConfigError if training or test labels are missing."""
    labels = data.train.labels
    if labels is None or data.classes is None or len(labels[labels >= 0].unique()) < 2:
        raise ConfigError("The data have no labels to train a classifier.", given=data.source, fix=FIX)
    for split in (data.test, data.validation):
        if split.labels is not None and bool((split.labels >= 0).any()):
            return split
    raise ConfigError("No held-out example has a label to test a classifier.", given=data.source, fix=FIX)


def _cache_key(data: Dataset) -> str:
    """Return a name for what the classifier depends on, including static binarization."""
    preprocessing = data.preprocessing.describe()
    is_binary = preprocessing["name"] == "binarize-static"
    binarized = f"-binarized-{preprocessing['seed']}" if is_binary else ""
    return f"{data.checksum}{binarized}-v{VERSION}"


def _train(
    data: Dataset, held_out: Split, device: torch.device | str, runner: Runner
) -> tuple[Classifier, dict[str, Any]]:
    """Train a network on the labels by Adam with a cosine schedule; return it with its test results."""
    assert data.classes is not None
    batches = BatchLoader(data.train, min(BATCH_SIZE, len(data.train)), seed=SEED, device=device)
    classes = batches.split.labels
    assert classes is not None
    steps = min(MAX_STEPS, max(MIN_STEPS, NUM_EPOCHS * batches.steps_per_epoch))
    with seeded(SEED, device):
        network = Classifier(data.x_shape, data.classes).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with runner.stage("training a classifier of the labels", steps) as tick, torch.enable_grad():
            for step in range(steps):
                _, logits = network(_to_gray(data, batches(step), device))
                labels = classes[batches.indices(step).to(classes.device)]
                loss = nn.functional.cross_entropy(logits, labels, ignore_index=-1)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                tick(1)
    network.eval().requires_grad_(False)
    return network, {"steps": steps, **_test(network, data, held_out, device)}


@torch.no_grad()
def _test(network: Classifier, data: Dataset, held_out: Split, device: torch.device | str) -> dict[str, Any]:
    """Return the accuracy on the held-out images that have a label."""
    assert held_out.labels is not None
    labels = held_out.labels.cpu()
    batches = (_to_gray(data, raw, device) for raw in held_out.chunks(BATCH_SIZE))
    predictions = torch.cat([network(gray)[1].argmax(1).cpu() for gray in batches])
    is_correct = (predictions == labels)[labels >= 0]
    n, most_frequent = len(is_correct), int(labels[labels >= 0].bincount().max())
    accuracy, chance = float(is_correct.double().mean()), float(torch.tensor(most_frequent) / n)
    return {"accuracy": accuracy, "n": n, "split": held_out.name, "chance": chance}


def _to_gray(data: Dataset, raw: Tensor, device: torch.device | str) -> Tensor:
    return data.preprocessing.raw_to_gray(raw.to(device))


def _store(network: Classifier, record: dict[str, Any], data: Dataset, folder: Path) -> TrainedClassifier:
    """Write the classifier to a folder, if the folder can be written."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    about = {"data": data.name, "checksum": data.checksum, "shape": data.x_shape, "classes": data.classes}
    try:
        with replaced_folder(folder) as temporary:
            save_file(weights, temporary / WEIGHTS)
            training = {"version": VERSION, "seed": SEED, "sha256": file_sha256(temporary / WEIGHTS)}
            write_json(temporary / RECORD, {**training, **about, **record})
    except (OSError, SafetensorError, WriteError):
        return _with_record(network, record, None)
    return _with_record(network, record, folder)


def _load(data: Dataset, folder: Path, device: torch.device | str) -> TrainedClassifier:
    """Load the classifier from a folder, if it is complete and of these data."""
    folder = recovered_folder(folder)
    record = read_json(folder / RECORD)
    if record["version"] != VERSION or record["checksum"] != data.checksum:
        raise CheckpointError("The classifier is of other data.", given=folder)
    network = Classifier(record["shape"], record["classes"])
    load_weights(network, folder / WEIGHTS, record["sha256"])
    return _with_record(network.to(device).eval().requires_grad_(False), record, folder)


def _with_record(network: Classifier, record: dict[str, Any], folder: Path | None) -> TrainedClassifier:
    accuracy, n, chance = float(record["accuracy"]), int(record["n"]), float(record["chance"])
    return TrainedClassifier(network, accuracy, n, str(record["split"]), chance, folder)
