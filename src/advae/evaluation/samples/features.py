"""Feature extractors: the networks in whose features sample metrics compare images.

classifier              a small network trained on the labels of the data (classifier.py)
inception               the network of published Fréchet distances (inception.py)
PATH.safetensors        the same, with its weights from this file

The name is part of every metric's name: metrics in features of different networks are not comparable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from advae.data import Dataset
from advae.errors import ConfigError, nearest
from advae.evaluation.estimate import Criterion, Estimate, EvaluationResult, Remark
from advae.evaluation.resumable import LOCAL, Runner, model_fingerprint
from advae.evaluation.samples.classifier import TrainedClassifier, load_or_train_classifier
from advae.evaluation.samples.inception import BATCH_SIZE, Inception, read_inception
from advae.io import write_atomically
from advae.serialization import check_no_pickle

EXTRACTOR_NAMES = ("classifier", "inception")
CACHED_INCEPTION = "inception.safetensors"  # in the cache folder
# Accuracy above chance, as a fraction of the possible: limits of a remark and of a warning.
RELIABLE_SKILL, POOR_SKILL = 0.9, 0.5


@dataclass(frozen=True)
class FeatureExtractor:
    """A network whose features sample metrics use.

    Attributes:
        name: for people: "digits-classifier".
        compute: maps images ``[B, C, H, W]`` in gray levels to features ``[B, D]`` and logits ``[B, K]``.
        protocol: what identifies it, as JSON values.
        estimates: what is known about it: a classifier's accuracy, with remarks.
    """

    name: str
    compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    protocol: dict[str, Any]
    estimates: EvaluationResult = field(default_factory=EvaluationResult)


def load_feature_extractor(
    name: str,
    data: Dataset,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    runner: Runner = LOCAL,
) -> FeatureExtractor:
    """Return the feature extractor for these data.

    Args:
        name: "classifier", "inception" or the path of a safetensors file with Inception weights.
        cache: folder for trained and converted networks; by default ``$ADVAE_CACHE``, ``$XDG_CACHE_HOME/advae`` or
            ``~/.cache/advae``.

    Raises:
        ConfigError: the name is unknown, or the network does not suit the data.
        CheckpointError: the weights cannot be used.
    """
    if len(data.x_shape) != 3:
        shape = f"examples of shape {list(data.x_shape)}"
        raise ConfigError("Feature extractors need images.", given=shape, expected="[C, H, W]")
    folder = cache_folder(cache)
    if name == "classifier":
        return _classifier_extractor(data, load_or_train_classifier(data, folder, device, runner))
    if data.x_shape[0] not in (1, 3):
        fix = "--feature-extractor classifier, if the data have labels"
        raise ConfigError(
            "The Inception network needs gray or RGB images.", given=f"{data.x_shape[0]} channels", fix=fix
        )
    if name == "inception":
        return _inception_extractor(_cached_inception(folder / CACHED_INCEPTION), device)
    path = Path(name).expanduser()
    check_no_pickle(path)
    if path.suffix != ".safetensors":
        fix = f"{nearest(name, EXTRACTOR_NAMES)}, or the path of a .safetensors file"
        raise ConfigError(f"Unknown feature extractor {name!r}.", fix=fix)
    return _inception_extractor(read_inception(path), device)


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for trained and converted networks."""
    if cache := cache or os.environ.get("ADVAE_CACHE"):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advae"


def _classifier_extractor(data: Dataset, trained: TrainedClassifier) -> FeatureExtractor:
    name = f"{data.name}-classifier"
    protocol = {"network": name, "weights": model_fingerprint(trained.network)[:16]}
    p, n = trained.accuracy, trained.n
    about = {"data": data.name, "checksum": data.checksum, "split": trained.split, **protocol}
    stderr = (p * (1 - p) / n) ** 0.5
    accuracy = Estimate(f"accuracy[{name}]", p, stderr, "diagnostic", "", n, about, "samples")
    accuracy = replace(accuracy, metric="classifier-accuracy", variant=name)
    estimates = EvaluationResult([accuracy], _classifier_remarks(name, trained))
    return FeatureExtractor(name, trained.network, protocol, estimates)


def _classifier_remarks(name: str, trained: TrainedClassifier) -> list[Remark]:
    """Return what the classifier's accuracy means for the metrics, if it is low."""
    about, remarks = f"accuracy[{name}]", []
    skill = (trained.accuracy - trained.chance) / max(1 - trained.chance, 1e-9)
    is_poor = skill < POOR_SKILL
    if skill < RELIABLE_SKILL:
        consequence = "the inception score is blurred by its errors"
        if is_poor:
            consequence = "the inception score is meaningless, and other metrics hardly depend on the classes"
        accuracy = f"an accuracy of {trained.accuracy:.0%} on {trained.split} images"
        limit = POOR_SKILL if is_poor else RELIABLE_SKILL
        criterion = Criterion.at_least("accuracy above chance", skill, limit)
        remarks.append(Remark(about, f"The {name} has {accuracy}: {consequence}.", is_poor, (criterion,)))
    if trained.folder is None:
        text = "could not be stored and is trained in every evaluation: set ADVAE_CACHE to a folder."
        remarks.append(Remark(about, f"The {name} {text}"))
    return remarks


def _inception_extractor(network: Inception, device: torch.device | str) -> FeatureExtractor:
    network = network.to(device)

    def compute(gray: Tensor) -> tuple[Tensor, Tensor]:
        rgb = gray.float().expand(-1, 3, -1, -1)  # a gray image in all three channels
        outputs = [network(batch) for batch in rgb.split(BATCH_SIZE)]
        return torch.cat([features for features, _ in outputs]), torch.cat([logits for _, logits in outputs])

    protocol = {
        "network": "inception-2015-12-05",
        "weights": model_fingerprint(network)[:16],
        "resize": "bilinear to 299, TensorFlow 1",
    }
    return FeatureExtractor("inception", compute, protocol)


def _cached_inception(path: Path) -> Inception:
    """Return the network with weights from the cache, converted from torch-fidelity's if they are missing."""
    if path.is_file():
        return read_inception(path)
    if find_spec("torch_fidelity") is None:
        raise ConfigError(
            "The weights of the Inception network are missing.",
            given=path,
            fix="pip install 'advae[fidelity]', which downloads them; or --feature-extractor PATH.safetensors"
            " (docs/reference/metrics.md explains the conversion)",
        )
    with _weights_only():
        fidelity = import_module("torch_fidelity").FeatureExtractorInceptionV3("inception", ["2048"])
    weights = {name: tensor.contiguous() for name, tensor in fidelity.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(weights))
    return read_inception(path)


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch.load read tensors only, whatever torch-fidelity requests: its file is a pickle."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
