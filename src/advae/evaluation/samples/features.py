"""Named feature networks: what sample metrics see an image as. The name is part of every metric's name.

classifier              a small network trained on the labels of the data set (evaluation/classifier.py)
inception               the network of the published Fréchet distances (evaluation/inception.py)
PATH.safetensors        the same, with its weights from this file
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from advae.data import Dataset
from advae.errors import ConfigError, nearest
from advae.evaluation.estimate import Estimate, Estimates, Remark
from advae.evaluation.resumable import ALONE, Work, fingerprint
from advae.evaluation.samples.classifier import Trained, classifier
from advae.evaluation.samples.inception import AT_ONCE, Inception, read_inception
from advae.io import write_atomically
from advae.model import refuse_pickles

NETWORKS = ("classifier", "inception")
KEPT = "inception.safetensors"  # in the cache folder
SURE, POOR = (
    0.9,
    0.5,
)  # accuracy above chance (1 is perfect): below the first worth saying, below the second a warning


@dataclass(frozen=True)
class Features:
    """A feature network.

    Attributes:
        name: as it stands in brackets: "digits-classifier".
        compute: images ``[B, C, H, W]`` on 0 … 255 to features ``[B, D]`` and logits ``[B, K]``.
        protocol: what identifies it, JSON.
        found: what is known of it: a classifier's accuracy, with remarks.
    """

    name: str
    compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    protocol: dict[str, Any]
    found: Estimates = field(default_factory=Estimates)


def feature_network(
    features: str,
    data: Dataset,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    work: Work = ALONE,
) -> Features:
    """The network that ``features`` names, for these data.

    Args:
        features: "classifier", "inception" or the path of a safetensors file with Inception weights.
        data: images.
        cache: folder for what is trained or converted; by default ``$ADVAE_CACHE``, ``$XDG_CACHE_HOME/advae`` or
            ``~/.cache/advae``.
        device: where it runs.
        work: how training is shown.

    Raises:
        ConfigError: no such network, or none for these data.
        CheckpointError: weights that cannot be used.
    """
    if len(data.x_shape) != 3:
        raise ConfigError(
            "sample metrics over a feature network need images",
            given=f"examples of shape {list(data.x_shape)}",
            expected="[C, H, W]",
        )
    folder = cache_folder(cache)
    if features == "classifier":
        return _of_classifier(data, classifier(data, folder, device, work))
    _check_channels(data)
    if features == "inception":
        return _of_inception(_kept_inception(folder / KEPT), device)
    path = Path(features).expanduser()
    refuse_pickles(path)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"there is no feature network {features!r}",
            remedy=f"{nearest(features, NETWORKS)}, or the path of a .safetensors file",
        )
    return _of_inception(read_inception(path), device)


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where trained and converted networks are kept."""
    if cache is not None:
        return Path(cache)
    if os.environ.get("ADVAE_CACHE"):
        return Path(os.environ["ADVAE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advae"


def _of_classifier(data: Dataset, trained: Trained) -> Features:
    name = f"{data.name}-classifier"
    error = (trained.accuracy * (1 - trained.accuracy) / trained.n) ** 0.5
    protocol = {"network": name, "weights": fingerprint(trained.network)[:16]}
    accuracy = Estimate(
        f"accuracy[{name}]",
        trained.accuracy,
        error,
        "diagnostic",
        "",
        trained.n,
        {"data": data.name, "checksum": data.checksum, "split": trained.split, **protocol},
        "samples",
    )
    return Features(name, trained.network, protocol, Estimates([accuracy], _remarks(name, trained)))


def _remarks(name: str, trained: Trained) -> list[Remark]:
    """What its accuracy means for what it judges."""
    remarks = []
    skill = (trained.accuracy - trained.chance) / max(1 - trained.chance, 1e-9)
    if skill < SURE:
        poor = skill < POOR
        meaning = (
            "no inception score under it means anything, and the other metrics see little of what the classes are"
            if poor
            else "the inception score under it is blurred by its errors"
        )
        text = f"the {name} names {trained.accuracy:.0%} of {trained.split} images rightly: {meaning}"
        remarks.append(Remark(f"accuracy[{name}]", text, poor))
    if trained.kept is None:
        text = f"the {name} could not be kept and is trained again each time: set ADVAE_CACHE to a folder"
        remarks.append(Remark(f"accuracy[{name}]", text))
    return remarks


def _check_channels(data: Dataset) -> None:
    if data.x_shape[0] not in (1, 3):
        raise ConfigError(
            "the Inception network sees grey or RGB images",
            given=f"{data.x_shape[0]} channels",
            remedy="--features classifier, where the data have labels",
        )


def _of_inception(network: Inception, device: torch.device | str) -> Features:
    network = network.to(device)

    def compute(grey: Tensor) -> tuple[Tensor, Tensor]:
        rgb = grey.float().expand(-1, 3, -1, -1)  # a grey image in all three channels
        found = [network(part) for part in rgb.split(AT_ONCE)]
        return torch.cat([f for f, _ in found]), torch.cat([logits for _, logits in found])

    protocol = {
        "network": "inception-2015-12-05",
        "weights": fingerprint(network)[:16],
        "resize": "bilinear to 299, TensorFlow 1",
    }
    return Features("inception", compute, protocol)


def _kept_inception(path: Path) -> Inception:
    """The network with the weights kept in the cache, put there by torch-fidelity if they are not there yet."""
    if path.is_file():
        return read_inception(path)
    if find_spec("torch_fidelity") is None:
        raise ConfigError(
            "the weights of the Inception network are not here",
            given=path,
            remedy="pip install 'advae[fidelity]', which fetches them; or --features PATH.safetensors"
            " (docs/metrics.md says how to convert them)",
        )
    with _only_weights():
        theirs = import_module("torch_fidelity").FeatureExtractorInceptionV3("inception", ["2048"])
    weights = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(weights))
    return read_inception(path)


@contextmanager
def _only_weights() -> Iterator[None]:
    """Let torch read tensors and nothing else, whatever the library asks for: its file is a pickle."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
