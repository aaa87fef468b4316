"""Feature extractors: the trained and cached classifier, and the published Inception network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from advae.data import DataOptions, Dataset, load_data
from advae.errors import CheckpointError, ConfigError
from advae.evaluation.resumable import model_fingerprint
from advae.evaluation.samples import classifier as module
from advae.evaluation.samples import features
from advae.evaluation.samples.classifier import RECORD, WEIGHTS, Classifier, load_or_train_classifier
from advae.evaluation.samples.features import cache_folder, load_feature_extractor
from advae.evaluation.samples.inception import Inception, inception_c, read_inception, resize


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(DataOptions(source="digits", preprocessing="gray"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for a twentieth of the usual steps, which suffices for most digits."""
    monkeypatch.setattr(module, "MIN_STEPS", 15)
    monkeypatch.setattr(module, "NUM_EPOCHS", 1)


def never(*args: object) -> None:
    raise AssertionError("trained again")


# --- the classifier -----------------------------------------------------------------------------------------


def test_classifier_is_trained_once_and_cached(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_or_train_classifier(data, tmp_path)
    assert first.accuracy > 0.5 and first.n == 180 and first.split == "test"
    assert first.folder == tmp_path / "classifiers" / f"{data.checksum}-v{module.VERSION}"
    predicted = first.network(data.test.raw(range(180)).float())[1].argmax(1)
    assert first.accuracy == pytest.approx((predicted == data.test.labels).double().mean().item(), abs=1e-12)
    monkeypatch.setattr(module, "_train", never)
    again = load_or_train_classifier(data, tmp_path)
    assert replace(again, network=first.network) == first
    assert model_fingerprint(again.network) == model_fingerprint(first.network)
    assert not again.network.training


@pytest.mark.parametrize(
    "damage", ["flipped bit", "truncated weights", "truncated record", "missing weights", "edited record"]
)
def test_corrupted_classifier_is_trained_again_with_the_same_result(
    damage: str, data: Dataset, tmp_path: Path
) -> None:
    first = load_or_train_classifier(data, tmp_path)
    assert first.folder is not None
    weights, record = first.folder / WEIGHTS, first.folder / RECORD
    if damage == "flipped bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "truncated record":
        record.write_text(record.read_text()[:40])
    elif damage == "missing weights":
        weights.unlink()
    else:
        record.write_text(json.dumps({**json.loads(record.read_text()), "accuracy": "high"}))
    again = load_or_train_classifier(data, tmp_path)
    assert model_fingerprint(again.network) == model_fingerprint(first.network)
    assert again.accuracy == first.accuracy
    assert json.loads(record.read_text())["accuracy"] == first.accuracy


def test_classifiers_of_different_data_are_stored_separately(data: Dataset, tmp_path: Path) -> None:
    load_or_train_classifier(data, tmp_path)
    folder = tmp_path / "classifiers"
    load_or_train_classifier(replace(data, checksum="0123"), tmp_path)
    binarized = load_data(DataOptions(source="digits", preprocessing="binarize-static", binarize_seed=3))
    load_or_train_classifier(binarized, tmp_path)
    assert sorted(path.name.removeprefix(data.checksum) for path in folder.iterdir()) == sorted(
        [f"0123-v{module.VERSION}", f"-v{module.VERSION}", f"-binarized-3-v{module.VERSION}"]
    )


def test_training_does_not_advance_the_random_state(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_or_train_classifier(data, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_labels_are_ignored(data: Dataset, tmp_path: Path) -> None:
    labels = data.test.labels
    assert labels is not None
    half = replace(data, test=replace(data.test, labels=torch.where(torch.arange(180) < 90, labels, -1)))
    assert load_or_train_classifier(half, tmp_path).n == 90
    learned = data.train.labels
    assert learned is not None
    some = replace(data.train, labels=torch.where(torch.arange(1455) % 2 == 0, learned, -1))
    assert load_or_train_classifier(replace(half, train=some), tmp_path / "some").accuracy > 0.5
    none = replace(data, test=replace(data.test, labels=None))
    assert load_or_train_classifier(none, tmp_path / "none").split == "validation"


def test_cache_that_cannot_be_written_gives_a_remark(data: Dataset, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a file instead of a folder
    network = load_feature_extractor("classifier", data, cache=blocked)
    assert any("ADVAE_CACHE" in remark.text for remark in network.estimates.remarks)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 13, 40), (2, 5, 3)])
def test_classifier_accepts_images_of_any_size(shape: tuple[int, int, int]) -> None:
    outputs, logits = Classifier(shape, 7).eval()(torch.full((2, *shape), 255.0))
    assert outputs.shape == (2, module.NUM_FEATURES) and logits.shape == (2, 7)
    assert sum(p.numel() for p in Classifier(shape, 7).parameters()) < 1_000_000


def test_low_accuracy_gives_a_remark(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_feature_extractor("classifier", data, cache=tmp_path)
    accuracy = network.estimates.find("accuracy[digits-classifier]")
    p = accuracy.value
    assert accuracy.kind == "diagnostic" and accuracy.n == 180 and accuracy.section == "samples"
    assert accuracy.stderr == pytest.approx((p * (1 - p) / 180) ** 0.5)
    trained = load_or_train_classifier(data, tmp_path)
    for known, expected in ((0.97, []), (0.8, [False]), (0.3, [True])):
        remarks = features._classifier_remarks("digits-classifier", replace(trained, accuracy=known))
        assert [remark.warning for remark in remarks] == expected


def test_cache_folder_depends_on_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADVAE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "advae"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "advae"
    monkeypatch.setenv("ADVAE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"


# --- errors -------------------------------------------------------------------------------------------------


def test_invalid_options_are_an_error(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(data, train=replace(data.train, labels=None))
    with pytest.raises(ConfigError, match="--feature-extractor inception"):
        load_feature_extractor("classifier", bare, cache=tmp_path)
    with pytest.raises(ConfigError, match="held-out"):
        unlabeled = {"test": replace(data.test, labels=None), "validation": replace(data.test, labels=None)}
        load_feature_extractor("classifier", replace(data, **unlabeled), cache=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'inception'"):
        load_feature_extractor("inceptoin", data, cache=tmp_path)
    with pytest.raises(ConfigError, match="C, H, W"):
        load_feature_extractor("classifier", replace(data, x_shape=(64,)), cache=tmp_path)
    with pytest.raises(ConfigError, match="2 channels"):
        load_feature_extractor("inception", replace(data, x_shape=(2, 8, 8)), cache=tmp_path)
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"advae\[fidelity\]"):
        load_feature_extractor("inception", data, cache=tmp_path)
    pickled = tmp_path / "inception.pth"
    pickled.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"inception\.pth"):
        load_feature_extractor(str(pickled), data, cache=tmp_path)
    with pytest.raises(CheckpointError, match="absent"):
        load_feature_extractor(str(tmp_path / "absent.safetensors"), data, cache=tmp_path)


# --- the Inception network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception() -> Iterator[Inception]:
    """Random weights of a size that lets the image through 94 convolutions, and random statistics."""
    torch.manual_seed(0)
    network = Inception().eval().requires_grad_(False)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            part.weight.uniform_(0.8, 1.2)
            part.bias.normal_(0, 0.1)
    yield network


def test_resize_is_that_of_tensorflow_1() -> None:
    """Output i from input ``i · in / out``: 2 pixels to 4 at 0, ½, 1 and 1½, where the last repeats the edge.

    With half-pixel centers they would be at −¼, ¼, ¾ and 1¼. From 4 to 2, pixels 0 and 2 are unchanged: no
    smoothing.
    """
    image = torch.tensor([[[[0.0, 8.0], [16.0, 40.0]]]])
    rows = [[0, 4, 8, 8], [8, 16, 24, 24], [16, 28, 40, 40], [16, 28, 40, 40]]
    torch.testing.assert_close(resize(image, 4), torch.tensor([[rows]], dtype=torch.float32))
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(resize(ramp, 2), torch.tensor([[[[0.0, 2.0], [8.0, 10.0]]]]))
    wide = resize(torch.arange(6.0).reshape(1, 1, 2, 3), 299)
    assert wide.shape == (1, 1, 299, 299)
    assert wide[0, 0, 0, 298].item() == 2 and wide[0, 0, 298, 0].item() == 3  # the edges are included


def test_inception_has_the_published_size(inception: Inception) -> None:
    """torchvision documents 27,161,264 parameters for its own, of which 3,326,696 are the auxiliary classifier's; eight
    more classes have 8 · 2,049."""
    assert sum(p.numel() for p in inception.parameters()) == 27_161_264 - 3_326_696 + 8 * 2049
    names = set(inception.state_dict())
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch3x3dbl_3.bn.running_var", "fc.bias"} <= names
    assert inception.Mixed_7c.branch_pool.conv.weight.shape == (192, 2048, 1, 1)  # type: ignore[union-attr]


def test_inception_gives_features_and_logits_without_bias(inception: Inception) -> None:
    images = torch.randint(0, 256, (2, 3, 20, 30)) * torch.tensor([0.2, 1.0]).reshape(2, 1, 1, 1)
    outputs, logits = inception(images)
    assert outputs.shape == (2, 2048) and logits.shape == (2, 1008)
    assert (outputs[0] - outputs[1]).norm() > 0.05 * outputs[0].norm()  # else the image would have no effect
    torch.testing.assert_close(logits, outputs @ inception.fc.weight.T)
    stretched, _ = inception(128 + 0.5 * (images - 128))
    assert (stretched - outputs).norm() > 0.05 * outputs.norm()
    assert inception.Mixed_7b.pool == "mean" and inception.Mixed_7c.pool == "max"


def test_inception_scales_gray_levels_to_minus_1_to_1(inception: Inception) -> None:
    """(v − 128)/128 of each: 0, 128 and 255 become −1, 0 and 127/128."""
    inputs: list[torch.Tensor] = []
    hook = inception.Conv2d_1a_3x3.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    inception(torch.tensor([0.0, 128.0, 255.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8))
    hook.remove()
    assert inputs[0].amin((0, 2, 3)).tolist() == inputs[0].amax((0, 2, 3)).tolist() == [-1, 0, 127 / 128]


def test_average_pooling_ignores_the_padding_and_the_last_block_has_max_pooling() -> None:
    mean, maximum = inception_c(4, "mean"), inception_c(4, "max")
    for block in (mean, maximum):
        block.branch_pool = nn.Identity()
    ones, point = torch.ones(1, 4, 5, 5), torch.zeros(1, 4, 5, 5)
    point[..., 2, 2] = 9
    torch.testing.assert_close(mean._apply_pool(ones), ones)  # with the padding a corner would have 4/9
    assert mean._apply_pool(point)[0, 0, 1, 1] == 1
    assert maximum._apply_pool(point)[0, 0, 1, 1] == 9


def test_weights_are_read_from_a_file_and_those_of_another_network_are_an_error(
    inception: Inception, data: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    weights = {k: v for k, v in inception.state_dict().items() if "num_batches" not in k}
    save_file(weights, path)  # as the usual conversion has them
    network = load_feature_extractor(str(path), data, cache=tmp_path)
    assert network.name == "inception"
    gray = data.test.raw(range(3)).float()
    outputs, logits = network.compute(gray)
    theirs, _ = inception(gray.repeat(1, 3, 1, 1))  # gray in all three channels
    torch.testing.assert_close(outputs, theirs)
    assert logits.shape == (3, 1008)
    save_file({**weights, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)
    with pytest.raises(CheckpointError, match="1008 outputs"):
        read_inception(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        read_inception(path)


def test_weights_of_torch_fidelity_are_cached_and_nothing_is_unpickled(
    inception: Inception, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the package, whose constructor reads a pickle of tensors, as the real one does."""
    import os
    from types import SimpleNamespace

    environment = []

    class Extractor:
        def __init__(self, name: str, features_list: list[str]) -> None:
            environment.append(os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"))

        def state_dict(self) -> dict[str, torch.Tensor]:
            return inception.state_dict()

    monkeypatch.setattr(features, "find_spec", lambda name: object())
    monkeypatch.setattr(
        features, "import_module", lambda name: SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    )
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    for _ in range(2):
        network = load_feature_extractor("inception", data, cache=tmp_path)
    assert environment == ["1"]  # once, and torch reads tensors only
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    cached = load_file(tmp_path / features.CACHED_INCEPTION)
    assert torch.equal(cached["fc.weight"], inception.fc.weight)
    assert network.protocol["weights"] == model_fingerprint(inception)[:16]


def test_inception_equals_that_of_torch_fidelity(inception: Inception, tmp_path: Path) -> None:
    """With random weights and statistics; up to float32 rounding through 94 convolutions."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(inception.state_dict(), tmp_path / "weights.pth")
    extractor = theirs.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], str(tmp_path / "weights.pth")
    )
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    outputs, logits = extractor(images)
    mine, my_logits = inception(images.float())
    torch.testing.assert_close(mine, outputs, rtol=1e-4, atol=1e-5 * float(outputs.abs().max()))
    torch.testing.assert_close(my_logits, logits, rtol=1e-4, atol=1e-5 * float(logits.abs().max()))
