"""Sample quality end to end on the embedded digits: a linear model, a model that copies, and real images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advae.data import DataOptions, Dataset, load_data
from advae.distributions import Distribution
from advae.distributions.bernoulli import Bernoulli
from advae.errors import ConfigError, NotFiniteError
from advae.evaluation.estimate import Estimates
from advae.evaluation.eval_data import Observed
from advae.evaluation.resumable import ALONE, Work
from advae.evaluation.samples import classifier as module
from advae.evaluation.samples.features import Features, feature_network
from advae.evaluation.samples.image_features import PART, eight_bit, features_of, sampled, stored
from advae.evaluation.samples.sample_metrics import METRICS, SHOWN, samples
from advae.model import LatentModel

NAME = "digits-classifier"
LATENT = 8


class Linear(nn.Module):
    """Principal components: the mean of the training images plus their main directions times z."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        x = data.train.raw(range(len(data.train))).float().flatten(1) / 255
        _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        self.shape, self.mean = data.x_shape, x.mean(0)
        self.directions = nn.Parameter(v[:LATENT] * s[:LATENT, None] / len(x) ** 0.5)

    def forward(self, z: Tensor) -> Distribution:
        return Bernoulli(torch.logit((self.mean + z @ self.directions).reshape(-1, *self.shape), eps=1e-4))


class Copier(nn.Module):
    """A training image for every code."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.images = nn.Parameter(data.train.raw(range(len(data.train))).float() / 255)

    def forward(self, z: Tensor) -> Distribution:
        place = (torch.special.ndtr(z[:, 0]) * len(self.images)).long().clamp_max(len(self.images) - 1)
        return Bernoulli(torch.logit(self.images[place], eps=1e-6))


def model_of(decoder: nn.Module, data: Dataset) -> LatentModel:
    return LatentModel(nn.Identity(), decoder, x_shape=data.x_shape, latent=LATENT)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(DataOptions(source="digits", protocol="grey"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Iterator[Path]:
    """A folder with a classifier that had a fifth of the usual training."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST", 60)
        patch.setattr(module, "EPOCHS", 1)
        feature_network("classifier", data, cache=folder)
        yield folder


@pytest.fixture(scope="module")
def found(data: Dataset, cache: Path) -> Estimates:
    return samples(model_of(Linear(data), data), Observed(data), cache=cache)


def test_every_figure_stands_beside_its_yardstick(found: Estimates) -> None:
    kinds = {"FID": "error", "KID": "error", "IS": "score"}
    kinds |= dict.fromkeys(("precision", "recall", "density", "coverage"), "score")
    for metric, kind in kinds.items():
        figure = found.named(f"{metric}[{NAME}]")
        yardstick = found.named(f"{metric}[{NAME}] of test data")
        assert figure.kind == kind and yardstick.kind == "yardstick"
        assert figure.n == yardstick.n == 180
        assert yardstick.protocol["judged"] == "test images"
        assert figure.protocol["judged"] == "means of p(x|z) at codes from the prior"
        differing = {k for k in figure.protocol if figure.protocol[k] != yardstick.protocol[k]}
        assert differing <= {"judged"}
        for estimate in (figure, yardstick):
            assert estimate.section == "samples" and estimate.stderr > 0
            assert estimate.interval is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
            assert estimate.protocol["bootstrap"] == 100
    assert found.named(f"FID[{NAME}]").protocol["reference"] == "1455 training images"
    assert found.named(f"density[{NAME}]").protocol["reference"] == "180 training images"
    assert len(found) == 2 * len(kinds) + 3 + 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_real_images_are_better_than_principal_components(found: Estimates) -> None:
    """By every one of these, and by more than four standard errors of both."""
    for metric, sign in {
        "FID": 1,
        "KID": 1,
        "IS": -1,
        "precision": -1,
        "density": -1,
        "coverage": -1,
    }.items():
        model, real = found.named(f"{metric}[{NAME}]"), found.named(f"{metric}[{NAME}] of test data")
        gap = sign * (model.value - real.value)
        assert gap > 4 * (model.stderr**2 + real.stderr**2) ** 0.5, metric


def test_an_honest_model_is_not_called_a_copier(found: Estimates) -> None:
    remark = next(r for r in found.remarks if r.about == f"copying[{NAME}]")
    assert "no sign of memorising" in remark.text and not remark.warning


def test_a_copier_is_found_with_its_pictures(data: Dataset, cache: Path) -> None:
    observed = Observed(data)
    found = samples(model_of(Copier(data), data), observed, metrics="neighbours", cache=cache)
    z = found.named(f"copying[{NAME}]")
    assert z.kind == "diagnostic" and z.value < -10 and found.named(f"copies[{NAME}]").value == 1
    remark = next(r for r in found.remarks if r.about == z.name)
    assert remark.warning and "memorising" in remark.text
    shown, nearest = z.each["samples"], z.each["nearest"]
    assert shown.shape == nearest.shape == (SHOWN, 1, 8, 8) and shown.dtype == torch.uint8
    assert torch.equal(shown, nearest)
    assert z.each["distance"].shape == (180,) and z.each["held_distance"].shape == (180,)
    assert float(z.each["distance"].max()) < 1e-3
    assert {e.name for e in found} == {
        f"{metric}[{NAME}]" for metric in ("accuracy", "copying", "copying ratio", "copies")
    }


def test_one_seed_gives_one_result(data: Dataset, cache: Path, found: Estimates) -> None:
    model = model_of(Linear(data), data)
    again = samples(model, Observed(data), cache=cache)
    other = samples(model, Observed(data), metrics="fid", seed=1, cache=cache)
    assert [e.value for e in again] == [e.value for e in found]
    assert [e.interval for e in again] == [e.interval for e in found]
    fid = f"FID[{NAME}]"
    assert other.named(fid).value != found.named(fid).value
    assert other.named(f"{fid} of test data").value == found.named(f"{fid} of test data").value


def test_a_metric_alone_is_the_metric_among_others(data: Dataset, cache: Path, found: Estimates) -> None:
    model = model_of(Linear(data), data)
    for metric, name in (("is", "IS"), ("kid", "KID"), ("prdc", "recall")):
        alone = samples(model, Observed(data), metrics=[metric], cache=cache).named(f"{name}[{NAME}]")
        assert alone.value == found.named(alone.name).value


def test_numbers_that_differ_are_said(data: Dataset, cache: Path) -> None:
    model = model_of(Linear(data), data)
    found = samples(model, Observed(data), metrics=("fid", "prdc"), generated=400, cache=cache)
    fid = f"FID[{NAME}]"
    assert found.named(fid).n == 400 and found.named(f"{fid} of test data").n == 180
    assert found.named(f"precision[{NAME}]").protocol["reference"] == "400 training images"
    assert any(r.warning and "not like for like" in r.text for r in found.remarks)
    few = samples(model, Observed(data, limit=50), metrics="fid", cache=cache)
    assert few.named(fid).n == few.named(f"{fid} of test data").n == 50
    assert any(r.warning and "singular" in r.text for r in few.remarks)  # 64 features


def test_the_yardstick_is_never_of_training_images(data: Dataset, cache: Path) -> None:
    model = model_of(Linear(data), data)
    of_train = samples(model, Observed(data, split="train"), metrics="fid", cache=cache)
    assert of_train.named(f"FID[{NAME}] of test data").protocol["split"] == "test"
    of_validation = samples(model, Observed(data, split="validation"), metrics="fid", cache=cache)
    assert of_validation.named(f"FID[{NAME}] of validation data").n == len(data.validation)


def test_errors_say_what_to_do(data: Dataset, cache: Path) -> None:
    model, observed = model_of(Linear(data), data), Observed(data)
    with pytest.raises(ConfigError, match="did you mean 'prdc'"):
        samples(model, observed, metrics="prcd", cache=cache)
    with pytest.raises(ConfigError, match="too few replicates"):
        samples(model, observed, bootstrap=5, cache=cache)
    with pytest.raises(ConfigError, match="too few samples"):
        samples(model, observed, generated=4, cache=cache)
    with pytest.raises(ConfigError, match="too few held-out images"):
        samples(model, Observed(data, limit=10), generated=20, cache=cache)
    broken = Linear(data)
    broken.mean = torch.full_like(broken.mean, torch.nan)
    with pytest.raises(NotFiniteError, match="not finite"):
        samples(model_of(broken, data), observed, cache=cache)
    assert METRICS == ("fid", "kid", "is", "prdc", "neighbours")


def test_samples_are_seen_on_8_bits() -> None:
    grey = torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0])
    assert eight_bit(grey).tolist() == [0, 0, 1, 255, 255]


def test_samples_are_draws_where_the_images_are_draws(data: Dataset) -> None:
    """Means of grey levels against stored grey levels; black and white against stored black and white."""
    drawn = load_data(DataOptions(source="digits", protocol="binarise-static"))
    model = model_of(Linear(data), data)
    means, draws = sampled(model, data, 30, 0), sampled(model, drawn, 30, 0)
    assert len(means.part(0, 30).unique()) > 50
    assert draws.part(0, 30).unique().tolist() == [0, 255]
    assert draws.what.startswith("draws") and means.what.startswith("means")


def test_stored_images_are_a_subset_without_repetition(data: Dataset) -> None:
    everything = stored(data, data.train, 10_000, 0)
    assert everything.n == 1455
    assert torch.equal(everything.part(256, 512), data.train.raw(range(256, 512)))
    images, labels = data.train.raw(range(1455)).flatten(1), stored(data, data.train, 300, 0, first=500)
    places = (labels.part(0, 256).flatten(1)[:, None] == images[None, :500]).all(2).float().argmax(1)
    assert labels.n == 300 and len(places.unique()) == 256
    assert torch.equal(
        labels.at(torch.tensor([299, 3])), torch.stack([labels.part(256, 300)[43], labels.part(0, 4)[3]])
    )


class Second(Work):
    """The second of two processes, with what the first one found."""

    def __init__(self, first: dict[int, dict[str, Tensor]], rank: int) -> None:
        super().__init__()
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "own", rank)

    @property
    def rank(self) -> int:
        return self.own  # type: ignore[attr-defined,no-any-return]

    @property
    def world(self) -> int:
        return 2

    def gathered(self, found: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        self.first.update(found)  # type: ignore[attr-defined]
        return self.first  # type: ignore[attr-defined,no-any-return]


def test_features_are_shared_out_and_kept(data: Dataset, tmp_path: Path) -> None:
    """Two processes find what one finds; what is kept is not computed again; another network's is not taken."""
    seen: list[int] = []

    def compute(grey: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(grey))
        return grey.flatten(1), grey.flatten(1)[:, :3]

    network = Features("pixels", compute, {"network": "pixels"})
    images = stored(data, data.train, 700, 0)
    whole, logits = features_of(network, images, "cpu", ALONE)
    assert torch.equal(whole, images.at(torch.arange(700)).float().flatten(1)) and logits.shape == (700, 3)
    together: dict[int, dict[str, Tensor]] = {}
    seen.clear()
    features_of(network, images, "cpu", Second(together, 0))
    assert seen == [PART, 700 - 2 * PART]
    shared, _ = features_of(network, images, "cpu", Second(together, 1))
    assert torch.equal(shared, whole)
    work = Work(folder=tmp_path)
    features_of(network, images, "cpu", work)
    seen.clear()
    kept, _ = features_of(network, images, "cpu", work)
    assert torch.equal(kept, whole) and not seen
    features_of(replace(network, protocol={"network": "others"}), images, "cpu", work)
    assert seen == [PART, PART, 700 - 2 * PART]
