"""Each preprocessing has the distribution of its equation, also at the limits of the range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advae.data import DataOptions, Dataset, Split, load_data, make_preprocessing, preprocessing_from_dict
from advae.data.preprocessing import PREPROCESSINGS, hashed_bits

Pixels = npt.NDArray[np.uint8]


def noise(count: int, *shape: int, seed: int = 0) -> Pixels:
    """Uniform bytes, [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


RAW = torch.arange(256, dtype=torch.uint8)


def split(values: torch.Tensor) -> Split:
    return Split("train", values)


def load(path: Path, pixels: npt.NDArray[Any], **options: object) -> Dataset:
    np.save(path / "a.npy", pixels)
    return load_data(DataOptions(source=str(path / "a.npy"), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_shape_type_support_and_description(name: str) -> None:
    values = torch.from_numpy(noise(20, 1, 4, 4))
    preprocessing = make_preprocessing(name, split(values))
    values = preprocessing.prepare_split(split(values), 0).raw(range(20))
    x = preprocessing.apply(values)
    assert x.shape == values.shape and x.dtype == torch.float32
    assert preprocessing.name == name and preprocessing.unit == "gray levels"
    assert preprocessing.to_gray(x).dtype == preprocessing.raw_to_gray(values).dtype == torch.float32
    again = preprocessing_from_dict(preprocessing.describe())
    assert again.describe() == preprocessing.describe()
    assert torch.equal(again.raw_to_gray(values), preprocessing.raw_to_gray(values))
    generator = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(again.apply(values, generator[0]), preprocessing.apply(values, generator[1]))


def test_dynamic_binarization_has_the_right_mean_at_every_level() -> None:
    n = 4000
    x = PREPROCESSINGS["binarize-dynamic"]().apply(RAW.expand(n, 256), torch.Generator().manual_seed(0))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = RAW.float() / 255
    # The mean of n samples has standard deviation sqrt(p (1 - p) / n); 5 of them for 256 levels: one false
    # alarm in 7,000 seeds, and the seed is fixed. Levels 0 and 255 have none: never and always on.
    assert ((x.mean(0) - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize(("u", "on"), [(0.0, RAW > 0), (1 - 2.0**-24, RAW == 255)])
def test_dynamic_binarization_at_the_limits_of_u(
    monkeypatch: pytest.MonkeyPatch, u: float, on: torch.Tensor
) -> None:
    """The smallest and largest float32 of ``torch.rand``: black is always 0, white always 1."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u))
    assert torch.equal(PREPROCESSINGS["binarize-dynamic"]().apply(RAW), on.float())


def test_dynamic_binarization_differs_in_each_call_and_is_seeded() -> None:
    preprocessing, raw = PREPROCESSINGS["binarize-dynamic"](), torch.full((1000,), 128, dtype=torch.uint8)
    assert not torch.equal(preprocessing.apply(raw), preprocessing.apply(raw))
    samples = [preprocessing.apply(raw, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*samples)


def test_static_binarization_is_a_function_of_its_seed(tmp_path: Path) -> None:
    pixels = np.full((4000, 16), 64, np.uint8)
    pixels[:, 0], pixels[:, 1] = 0, 255
    first = load(tmp_path, pixels, preprocessing="binarize-static")
    values = first.train.raw(range(len(first.train)))
    assert set(values.unique().tolist()) == {0, 255}
    assert values[:, 0].max() == 0 and values[:, 1].min() == 255
    assert torch.equal(first.preprocessing.apply(values), values / 255)
    on = (values[:, 2:] == 255).double()
    p, n = 64 / 255, on.numel()  # n = 3,240 examples × 14 pixels
    assert abs(on.mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5  # 5 standard deviations of the mean
    # Neighboring examples and pixels are independent: a product of two centered samples has mean 0 and standard
    # deviation p (1 - p), over fewer than n products; 5 standard deviations of their mean.
    centered = on - p
    for product in (centered[1:] * centered[:-1], centered[:, 1:] * centered[:, :-1]):
        assert abs(product.mean().item()) < 5 * p * (1 - p) / product.numel() ** 0.5
    again = load(tmp_path, pixels, preprocessing="binarize-static").train
    other = load(tmp_path, pixels, preprocessing="binarize-static", binarize_seed=1).train
    assert torch.equal(again.raw(range(100)), values[:100])
    assert not torch.equal(other.raw(range(100)), values[:100])
    # The splits have different samples.
    assert not torch.equal(first.validation.raw(range(100)), values[:100])


def test_static_binarization_of_streams_equals_that_of_resident_data(tmp_path: Path) -> None:
    pixels = noise(300, 4, 4)
    resident = load(tmp_path, pixels, preprocessing="binarize-static")
    stream = load(tmp_path, pixels, preprocessing="binarize-static", storage="stream")
    assert resident.train.resident and not stream.train.resident
    for one, other in zip(resident.splits, stream.splits, strict=True):
        order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
        assert torch.equal(one.raw(order), other.raw(order))


def test_hashed_bits_of_an_example_do_not_depend_on_others() -> None:
    indices = np.array([7, 3, 1_000_000])
    alone = np.concatenate([hashed_bits(5, indices[i : i + 1], 50) for i in range(3)])
    assert np.array_equal(hashed_bits(5, indices, 50), alone)
    assert int(alone.max()) < 2**24 and len(np.unique(alone)) > 140


def test_gray_is_a_probability() -> None:
    assert torch.equal(PREPROCESSINGS["gray"]().apply(RAW), RAW.float() / 255)


def test_dequantized_values_stay_in_their_bin() -> None:
    # Unclamped, v + u rounds up to v + 1 for about one sample in 2¹⁷ at v = 255: expect 38 of these 5 million.
    raw = torch.full((5_000_000,), 255, dtype=torch.uint8)
    x = PREPROCESSINGS["dequantize"]().apply(raw, torch.Generator().manual_seed(0))
    assert x.max() < 1 and x.min() >= 255 / 256
    x = PREPROCESSINGS["dequantize"]().apply(RAW.expand(2000, 256))
    assert torch.equal((x * 256).floor(), RAW.float().expand(2000, 256))


def test_dequantization_noise_is_uniform() -> None:
    n = 200_000
    raw = torch.full((n,), 17, dtype=torch.uint8)
    u = PREPROCESSINGS["dequantize"]().apply(raw, torch.Generator().manual_seed(0)).double() * 256 - 17
    counts = torch.histc(u.float(), 10, 0, 1).double()
    # Chi-squared with 9 degrees of freedom: above 33.7 with probability 10⁻⁴; the seed is fixed.
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 33.7


def test_gray_scale_is_the_inverse() -> None:
    for name in ("binarize-dynamic", "gray"):
        assert torch.allclose(
            PREPROCESSINGS[name]().to_gray(RAW / 255), RAW.float(), atol=1e-4
        )  # float32: 255 · 2⁻²³
    middle = (RAW.float() + 0.5) / 256
    assert torch.equal(PREPROCESSINGS["dequantize"]().to_gray(middle), RAW.float())  # powers of two: exact


def test_standardized_images_have_one_mean_and_scale(tmp_path: Path) -> None:
    pixels = noise(500, 3, 5, 5)
    pixels[:, 0] //= 4
    data = load(tmp_path, pixels, preprocessing="standardize")
    raw = data.train.raw(range(len(data.train)))
    assert raw.dtype == torch.uint8
    x = data.preprocessing.apply(raw)
    # Float32 sums of 30,000 values near 1: errors below 30,000 · 2⁻²⁴ = 0.002.
    assert x.mean().abs() < 2e-3 and (x.std(correction=0) - 1).abs() < 2e-3
    assert x[:, 0].mean() < -0.5  # one pair for the whole image, not one per channel
    assert torch.allclose(data.preprocessing.to_gray(x), raw.float(), atol=1e-3)  # float32 at 255
    assert data.preprocessing.support == "real"


def test_standardized_vectors_are_scaled_by_feature_and_constants_become_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal([5, -1000, 1e4], [0.1, 50, 0], (700, 3))
    data = load(tmp_path, vectors, preprocessing="standardize")
    x = data.preprocessing.apply(data.train.raw(range(len(data.train))))
    assert torch.allclose(x.mean(0), torch.zeros(3), atol=1e-3)  # float32: 1000 · 2⁻²⁴ / 50, and sums
    assert torch.allclose(x.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3)
    shifted = data.train.raw([0]) + 1
    assert (
        abs(data.preprocessing.apply(shifted)[0, 2].item() - 1) < 1e-6
    )  # other values in the feature's own unit
    assert data.preprocessing.unit == "data units"
    assert torch.allclose(data.preprocessing.to_gray(x), data.train.raw(range(len(data.train))), rtol=1e-5)
    # From the training examples, not from all: the test split is not used.
    train = data.train.raw(range(len(data.train))).double()
    assert torch.allclose(
        torch.tensor(data.preprocessing.describe()["mean"]).double(), train.mean(0), rtol=1e-6
    )


def test_moments_of_many_chunks_equal_those_of_all_values() -> None:
    """Values are sorted, so that each chunk has a different mean."""
    values = torch.arange(5000, dtype=torch.float32)[:, None] * torch.tensor([1.0, -3.0])
    described = make_preprocessing("standardize", split(values)).describe()
    for key, expected in (("mean", values.double().mean(0)), ("std", values.double().std(0, correction=0))):
        # The description holds float32: 2⁻²⁴ of the value.
        assert torch.allclose(torch.tensor(described[key]).double(), expected, rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "black", "white"), [(0, 1, 0, 1), (0, 255, 0, 255), (-3, 2, -3, 2)])
def test_float_images_have_a_gray_scale(
    tmp_path: Path, low: float, high: float, black: float, white: float
) -> None:
    images = np.random.default_rng(0).uniform(low, high, (200, 4, 4))
    images[:, 0, 0], images[:, 0, 1] = low, high
    data = load(tmp_path, images, preprocessing="standardize")
    raw = data.train.raw(range(len(data.train)))
    expected = (raw - black) / (white - black) * 255
    assert raw.dtype == torch.float32 and torch.allclose(
        data.preprocessing.raw_to_gray(raw), expected, atol=1e-3
    )
    assert torch.allclose(data.preprocessing.to_gray(data.preprocessing.apply(raw)), expected, atol=1e-3)
