"""Sample metrics end to end on the digits: a linear model, a model that copies, and real images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from advae.data import DataOptions, Dataset, load_data
from advae.distributions import Distribution
from advae.distributions.bernoulli import Bernoulli
from advae.errors import ConfigError, NotFiniteError
from advae.evaluation.estimate import Estimate, EvaluationResult, Kind
from advae.evaluation.eval_config import EvalConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.resumable import LOCAL, Runner
from advae.evaluation.samples import classifier as module
from advae.evaluation.samples.base import (
    SAMPLE_METRICS,
    ImageSet,
    MetricContext,
    Requirement,
    SampleMetric,
    sample_metric_names,
)
from advae.evaluation.samples.features import FeatureExtractor, load_feature_extractor
from advae.evaluation.samples.image_features import (
    BATCH_SIZE,
    extract_features,
    model_samples,
    real_images,
    to_8_bit,
)
from advae.evaluation.samples.nearest_training_images import NUM_STORED_PAIRS
from advae.evaluation.samples.sample_metrics import evaluate_samples
from advae.metrics.bootstrap import BootstrapEstimate
from advae.model import LatentModel

NAME = "digits-classifier"
LATENT = 8


class Linear(nn.Module):
    """Principal components: the mean of the training images plus the first principal directions times z."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        x = data.train.raw(range(len(data.train))).float().flatten(1) / 255
        _, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        self.shape, self.mean = data.x_shape, x.mean(0)
        self.directions = nn.Parameter(v[:LATENT] * s[:LATENT, None] / len(x) ** 0.5)

    def forward(self, z: Tensor) -> Distribution:
        return Bernoulli(torch.logit((self.mean + z @ self.directions).reshape(-1, *self.shape), eps=1e-4))


class Copier(nn.Module):
    """A training image for every latent."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        self.images = nn.Parameter(data.train.raw(range(len(data.train))).float() / 255)

    def forward(self, z: Tensor) -> Distribution:
        index = (torch.special.ndtr(z[:, 0]) * len(self.images)).long().clamp_max(len(self.images) - 1)
        return Bernoulli(torch.logit(self.images[index], eps=1e-6))


def model_of(decoder: nn.Module, data: Dataset) -> LatentModel:
    return LatentModel(nn.Identity(), decoder, x_shape=data.x_shape, latent_dim=LATENT)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(DataOptions(source="digits", preprocessing="gray"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Iterator[Path]:
    """A cache with a classifier that was trained for a fifth of the usual steps."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_STEPS", 60)
        patch.setattr(module, "NUM_EPOCHS", 1)
        load_feature_extractor("classifier", data, cache=folder)
        yield folder


@pytest.fixture(scope="module")
def result(data: Dataset, cache: Path) -> EvaluationResult:
    return evaluate_samples(model_of(Linear(data), data), EvalData(data), cache=cache)


def test_every_metric_has_a_baseline(result: EvaluationResult) -> None:
    kinds = {"FID": "error", "KID": "error", "IS": "score"}
    kinds |= dict.fromkeys(("precision", "recall", "density", "coverage"), "score")
    for metric, kind in kinds.items():
        estimate = result.find(f"{metric}[{NAME}]")
        baseline = result.find(f"{metric}[{NAME}] of test data")
        assert estimate.kind == kind and baseline.kind == "baseline"
        assert estimate.n == baseline.n == 180
        assert baseline.protocol["images"] == "test images"
        assert estimate.protocol["images"] == "means of p(x|z), z from the prior"
        differing = {k for k in estimate.protocol if estimate.protocol[k] != baseline.protocol[k]}
        assert differing <= {"images"}
        for e in (estimate, baseline):
            assert e.section == "samples" and estimate.stderr > 0
            assert estimate.interval is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
            assert estimate.protocol["bootstrap"] == 100
    assert result.find(f"FID[{NAME}]").protocol["reference"] == "1455 training images"
    assert result.find(f"density[{NAME}]").protocol["reference"] == "180 training images"
    assert len(result) == 2 * len(kinds) + 3 + 1
    json.dumps(result.to_dict(), allow_nan=False)


def test_real_images_are_better_than_principal_components(result: EvaluationResult) -> None:
    """By every one of these, and by more than four standard errors of both."""
    for metric, sign in {
        "FID": 1,
        "KID": 1,
        "IS": -1,
        "precision": -1,
        "density": -1,
        "coverage": -1,
    }.items():
        model, real = result.find(f"{metric}[{NAME}]"), result.find(f"{metric}[{NAME}] of test data")
        gap = sign * (model.value - real.value)
        assert gap > 4 * (model.stderr**2 + real.stderr**2) ** 0.5, metric


def test_linear_model_has_no_sign_of_memorization(result: EvaluationResult) -> None:
    remark = next(r for r in result.remarks if r.about == f"memorization[{NAME}]")
    assert not remark.warning and all(criterion.passed for criterion in remark.criteria)


def test_copies_are_detected_and_stored_with_their_originals(data: Dataset, cache: Path) -> None:
    eval_data = EvalData(data)
    result = evaluate_samples(
        model_of(Copier(data), data), eval_data, metrics="nearest-neighbors", cache=cache
    )
    z = result.find(f"memorization[{NAME}]")
    assert z.kind == "diagnostic" and z.value < -10 and result.find(f"copies[{NAME}]").value == 1
    remark = next(r for r in result.remarks if r.about == z.name)
    assert remark.warning and not any(criterion.passed for criterion in remark.criteria)
    samples, nearest = z.per_example["samples"], z.per_example["nearest"]
    assert samples.shape == nearest.shape == (NUM_STORED_PAIRS, 1, 8, 8) and samples.dtype == torch.uint8
    assert torch.equal(samples, nearest)
    assert z.per_example["distance"].shape == (180,) and z.per_example["held_out_distance"].shape == (180,)
    assert float(z.per_example["distance"].max()) < 1e-3
    assert {e.name for e in result} == {
        f"{metric}[{NAME}]" for metric in ("accuracy", "memorization", "memorization ratio", "copies")
    }


def test_result_depends_on_the_seed_alone(data: Dataset, cache: Path, result: EvaluationResult) -> None:
    model = model_of(Linear(data), data)
    again = evaluate_samples(model, EvalData(data), cache=cache)
    other = evaluate_samples(model, EvalData(data), metrics="fid", seed=1, cache=cache)
    assert [e.value for e in again] == [e.value for e in result]
    assert [e.interval for e in again] == [e.interval for e in result]
    fid = f"FID[{NAME}]"
    assert other.find(fid).value != result.find(fid).value
    assert other.find(f"{fid} of test data").value == result.find(f"{fid} of test data").value


def test_metric_does_not_depend_on_other_metrics(
    data: Dataset, cache: Path, result: EvaluationResult
) -> None:
    model = model_of(Linear(data), data)
    for metric, name in (("is", "IS"), ("kid", "KID"), ("prdc", "recall")):
        alone = evaluate_samples(model, EvalData(data), metrics=[metric], cache=cache).find(f"{name}[{NAME}]")
        assert alone.value == result.find(alone.name).value


def test_different_numbers_of_images_give_a_warning(data: Dataset, cache: Path) -> None:
    model = model_of(Linear(data), data)
    result = evaluate_samples(model, EvalData(data), metrics=("fid", "prdc"), num_samples=400, cache=cache)
    fid = f"FID[{NAME}]"
    assert result.find(fid).n == 400 and result.find(f"{fid} of test data").n == 180
    assert result.find(f"precision[{NAME}]").protocol["reference"] == "400 training images"
    assert any(r.warning and r.about == "samples" for r in result.remarks)
    few = evaluate_samples(model, EvalData(data, limit=50), metrics="fid", cache=cache)
    assert few.find(fid).n == few.find(f"{fid} of test data").n == 50
    assert any(r.warning and r.about == fid for r in few.remarks)  # 64 features


def test_baseline_is_never_of_training_images(data: Dataset, cache: Path) -> None:
    model = model_of(Linear(data), data)
    of_train = evaluate_samples(model, EvalData(data, split="train"), metrics="fid", cache=cache)
    assert of_train.find(f"FID[{NAME}] of test data").protocol["split"] == "test"
    of_validation = evaluate_samples(model, EvalData(data, split="validation"), metrics="fid", cache=cache)
    assert of_validation.find(f"FID[{NAME}] of validation data").n == len(data.validation)


def test_invalid_options_are_an_error(data: Dataset, cache: Path) -> None:
    model, eval_data = model_of(Linear(data), data), EvalData(data)
    with pytest.raises(ConfigError, match="did you mean 'prdc'"):
        evaluate_samples(model, eval_data, metrics="prcd", cache=cache)
    with pytest.raises(ConfigError, match="20 or more"):
        evaluate_samples(model, eval_data, replicates=5, cache=cache)
    with pytest.raises(ConfigError, match="samples"):
        evaluate_samples(model, eval_data, num_samples=4, cache=cache)
    with pytest.raises(ConfigError, match="held-out"):
        evaluate_samples(model, EvalData(data, limit=10), num_samples=20, cache=cache)
    broken = Linear(data)
    broken.mean = torch.full_like(broken.mean, torch.nan)
    with pytest.raises(NotFiniteError, match="training curves"):
        evaluate_samples(model_of(broken, data), eval_data, cache=cache)
    assert sample_metric_names() == ["fid", "kid", "is", "prdc", "nearest-neighbors"]


def test_gray_levels_are_clamped_and_rounded() -> None:
    gray = torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0])
    assert to_8_bit(gray).tolist() == [0, 0, 1, 255, 255]


def test_samples_of_binarized_data_are_binary(data: Dataset) -> None:
    """Means are compared with stored gray levels, binary samples with binarized images."""
    binarized = load_data(DataOptions(source="digits", preprocessing="binarize-static"))
    model = model_of(Linear(data), data)
    means, binary = model_samples(model, data, 30, 0), model_samples(model, binarized, 30, 0)
    assert len(means.read(0, 30).unique()) > 50
    assert binary.read(0, 30).unique().tolist() == [0, 255]
    assert binary.description.startswith("samples") and means.description.startswith("means")


def test_real_images_are_a_subset_without_repetition(data: Dataset) -> None:
    everything = real_images(data, data.train, 10_000, 0)
    assert everything.n == 1455
    assert torch.equal(everything.read(256, 512), data.train.raw(range(256, 512)))
    images, subset = data.train.raw(range(1455)).flatten(1), real_images(data, data.train, 300, 0, limit=500)
    indices = (subset.read(0, 256).flatten(1)[:, None] == images[None, :500]).all(2).float().argmax(1)
    assert subset.n == 300 and len(indices.unique()) == 256
    assert torch.equal(
        subset.get(torch.tensor([299, 3])), torch.stack([subset.read(256, 300)[43], subset.read(0, 4)[3]])
    )


class TwoProcesses(Runner):
    """One of two processes, with the results of the other."""

    def __init__(self, results: dict[int, dict[str, Tensor]], rank: int) -> None:
        super().__init__()
        object.__setattr__(self, "results", results)
        object.__setattr__(self, "own_rank", rank)

    @property
    def rank(self) -> int:
        return self.own_rank  # type: ignore[attr-defined,no-any-return]

    @property
    def world_size(self) -> int:
        return 2

    def _gather(self, results: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        self.results.update(results)  # type: ignore[attr-defined]
        return self.results  # type: ignore[attr-defined,no-any-return]


def test_features_are_distributed_and_stored(data: Dataset, tmp_path: Path) -> None:
    """Two processes have the result of one; stored features are not computed again, unless by another network."""
    sizes: list[int] = []

    def compute(gray: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(gray))
        return gray.flatten(1), gray.flatten(1)[:, :3]

    extractor = FeatureExtractor("pixels", compute, {"network": "pixels"})
    images = real_images(data, data.train, 700, 0)
    alone, logits = extract_features(extractor, images, "cpu", LOCAL)
    assert torch.equal(alone, images.get(torch.arange(700)).float().flatten(1)) and logits.shape == (700, 3)
    results: dict[int, dict[str, Tensor]] = {}
    sizes.clear()
    extract_features(extractor, images, "cpu", TwoProcesses(results, 0))
    assert sizes == [BATCH_SIZE, 700 - 2 * BATCH_SIZE]
    together, _ = extract_features(extractor, images, "cpu", TwoProcesses(results, 1))
    assert torch.equal(together, alone)
    runner = Runner(root=tmp_path)
    extract_features(extractor, images, "cpu", runner)
    sizes.clear()
    stored, _ = extract_features(extractor, images, "cpu", runner)
    assert torch.equal(stored, alone) and not sizes
    extract_features(replace(extractor, protocol={"network": "others"}), images, "cpu", runner)
    assert sizes == [BATCH_SIZE, BATCH_SIZE, 700 - 2 * BATCH_SIZE]


def test_a_new_metric_is_one_class(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered metric is computed of samples and held-out images; one without features needs no network."""

    class Brightness(SampleMetric):
        requires = ()
        kind, unit = "diagnostic", "gray levels"

        def compute(self, context: MetricContext, images: ImageSet) -> list[Estimate]:
            values = images.source.read(0, images.n).double().flatten(1).mean(1)
            halves = context.halves(images.n)
            means = torch.cat([values.mean()[None], halves @ values / halves.sum(1)])
            value = BootstrapEstimate.from_values(means)
            return [context.estimate(self, "brightness", value, images, images.n)]

    monkeypatch.setattr(SAMPLE_METRICS, "_classes", dict(SAMPLE_METRICS._classes))
    SAMPLE_METRICS.register("brightness")(Brightness)
    assert "brightness" in EvalConfig(samples=("brightness",)).samples
    model = model_of(Linear(data), data)
    result = evaluate_samples(model, EvalData(data), metrics="brightness", cache=tmp_path / "none")
    test_images = data.test.raw(range(180)).double()
    assert result.find("brightness of test data").value == pytest.approx(test_images.mean().item())
    assert result.find("brightness").unit == "gray levels" and not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", sample_metric_names())
def test_metrics_declare_kind_and_requirements_and_are_documented(name: str) -> None:
    metric = SAMPLE_METRICS.find(name)
    assert metric.kind in get_args(Kind) and set(metric.requires) <= set(get_args(Requirement))
    docs = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
    assert f"`{name}`" in docs.read_text(encoding="utf-8")
