"""Reconstruction metrics against explicit loops, and principal components against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as SklearnPCA
from torch import Size, Tensor, nn

from advae.data import DataOptions, Dataset, load_data
from advae.distributions.base import Distribution, ImplicitDistribution
from advae.distributions.normal import Normal
from advae.evaluation import pca as pca_module
from advae.evaluation.eval_data import EvalData
from advae.evaluation.pca import PCA, fit_pca
from advae.evaluation.reconstruction import evaluate_reconstruction
from advae.metrics.image_similarity import mean_squared_error, psnr, ssim, window_width
from advae.model import LatentModel
from evaluation.toy import NOISE, N, data_of, toy_model

CPU = torch.device("cpu")
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def digits(protocol: str = "dequantize", storage: str = "auto") -> Dataset:
    return load_data(DataOptions(source="digits", preprocessing=protocol, storage=storage))


def gray_of(data: Dataset, split: str = "train") -> Tensor:
    """All stored images of a split, ``[N, n]``."""
    images = getattr(data, split)
    return data.preprocessing.raw_to_gray(images.raw(range(len(images)))).double().flatten(1)


# --- image similarity ---------------------------------------------------------------------------------------


def ssim_by_loops(a: np.ndarray, b: np.ndarray, width: int) -> float:
    """SSIM of one channel ``[H, W]``: weighted mean, variances and covariance in every window."""
    half = width // 2
    weights = np.array(
        [
            [math.exp(-(r * r + c * c) / (2 * 1.5**2)) for c in range(-half, half + 1)]
            for r in range(-half, half + 1)
        ]
    )
    weights /= weights.sum()
    result = []
    for top in range(a.shape[0] - width + 1):
        for left in range(a.shape[1] - width + 1):
            p = a[top : top + width, left : left + width]
            q = b[top : top + width, left : left + width]
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
            cross = (weights * (p - mean_p) * (q - mean_q)).sum()
            above = (2 * mean_p * mean_q + C1) * (2 * cross + C2)
            result.append(above / ((mean_p**2 + mean_q**2 + C1) * (var_p + var_q + C2)))
    return float(np.mean(result))


@pytest.mark.parametrize(("shape", "width"), [((3, 13, 16), 11), ((1, 8, 8), 7), ((2, 9, 20), 9)])
def test_ssim_is_the_mean_over_windows(shape: tuple[int, ...], width: int) -> None:
    """Images are a common part plus noise, so that brightness, contrast and structure all matter."""
    common = 255 * torch.rand(4, *shape)
    a = common.double()
    b = (0.7 * common + 60 * torch.rand(4, *shape)).double()
    assert window_width(shape) == width
    by_loops = [
        np.mean([ssim_by_loops(p.numpy(), q.numpy(), width) for p, q in zip(x, y, strict=True)])
        for x, y in zip(a, b, strict=True)
    ]
    # Both in float64; variances as differences of squares lose 255² of 2^-53.
    assert ssim(a, b).tolist() == pytest.approx(by_loops, abs=1e-9)
    assert 0.1 < min(by_loops) < max(by_loops) < 0.95  # neither end of the scale
    torch.testing.assert_close(ssim(a, b), ssim(b, a))


def test_ssim_of_equal_negative_and_constant_images() -> None:
    a = 255 * torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
    assert (ssim(a, 255 - a) < 0).all()  # the negative of an image of noise about the middle gray
    flat = ssim(torch.full((1, 1, 12, 12), 100.0), torch.full((1, 1, 12, 12), 150.0))
    assert flat.item() == pytest.approx((2 * 100 * 150 + C1) / (100**2 + 150**2 + C1))


def test_psnr_by_hand() -> None:
    """An error of 10 gray levels everywhere, and of 255 on a quarter of the pixels."""
    a = torch.zeros(2, 1, 2, 2)
    b = torch.stack([torch.full((1, 2, 2), 10.0), torch.tensor([[[255.0, 0], [0, 0]]])])
    by_hand = [20 * math.log10(255 / 10), 10 * math.log10(4)]
    assert psnr(mean_squared_error(a, b)).tolist() == pytest.approx(by_hand)
    assert psnr(mean_squared_error(a, a)).tolist() == [100, 100]  # finite


# --- principal components -----------------------------------------------------------------------------------


def test_pca_equals_scikit_learn() -> None:
    data = digits()
    train, test = gray_of(data), gray_of(data, "test")
    sklearn_pca = SklearnPCA(10, svd_solver="full").fit(train.numpy())
    reconstructed = sklearn_pca.inverse_transform(sklearn_pca.transform(test.numpy()))
    pca = fit_pca(data, 10, CPU)
    # The gap between the 10th and the 11th eigenvalue is a fifth of the 10th: the vectors are as good as float64 is.
    torch.testing.assert_close(pca.reconstruct(test), torch.from_numpy(reconstructed), atol=1e-8, rtol=0)
    ratio = len(train) / (len(train) - 1)
    assert (pca.variances * ratio).tolist() == pytest.approx(sklearn_pca.explained_variance_.tolist())


@pytest.mark.parametrize("exact", [pca_module.MAX_COVARIANCE_DIMS, 0])
def test_pca_error_on_training_images_is_the_residual_variance(
    exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca_module, "MAX_COVARIANCE_DIMS", exact)
    data = digits()
    train = gray_of(data)
    pca = fit_pca(data, 10, CPU)
    values = torch.linalg.eigvalsh(torch.cov(train.T, correction=0)).flip(0)
    error = mean_squared_error(pca.reconstruct(train), train).mean().item() * train.shape[1]
    explained = values[:10].sum().item()
    # With 26 iterated directions the excess error shrinks by (λ_27 / λ_10)² < ½ per iteration. So it is less than the
    # reduction of the last iteration, which is 1e-3 of the residual.
    assert (values[26] / values[9]) ** 2 < 0.5
    residual = values[10:].sum().item()
    tolerance = 1e-9 * explained if exact else pca_module.RELATIVE_TOL * residual
    assert error == pytest.approx(residual, abs=tolerance)
    assert pca.variances.sum().item() == pytest.approx(explained, abs=tolerance)
    torch.testing.assert_close(pca.basis @ pca.basis.T, torch.eye(10, dtype=torch.float64))
    assert pca.method == ("covariance matrix" if exact else "subspace iteration")


def test_pca_of_the_same_data_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    pca = fit_pca(data, 4, CPU)
    assert fit_pca(data, 4, CPU) is pca
    other = fit_pca(data, 5, CPU)
    assert len(other.basis) == 5 and fit_pca(digits(), 5, CPU) is not other


def test_pca_minimizes_the_error_among_planes_of_its_dimension() -> None:
    data = digits()
    train = gray_of(data)
    pca = fit_pca(data, 5, CPU)
    best = mean_squared_error(pca.reconstruct(train), train).mean()
    for size in (0.01, 0.1, 1.0, 100.0):
        for _ in range(10):
            rotated = torch.linalg.qr((pca.basis + size * torch.randn_like(pca.basis)).T).Q.T
            other = PCA(pca.mean, rotated, pca.variances, pca.num_images, "")
            assert mean_squared_error(other.reconstruct(train), train).mean() > best
    shifted = replace(pca, mean=pca.mean + 0.1 * torch.randn_like(pca.mean))
    assert mean_squared_error(shifted.reconstruct(train), train).mean() > best


def test_pca_does_not_depend_on_storage_or_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pca = fit_pca(digits(), 6, CPU)
    monkeypatch.setattr(pca_module, "IMAGES_PER_CHUNK", 100)
    again = fit_pca(digits(storage="stream"), 6, CPU)
    torch.testing.assert_close(again.variances, pca.variances)
    torch.testing.assert_close(again.basis.T @ again.basis, pca.basis.T @ pca.basis)


def test_pca_of_many_images_uses_an_evenly_spaced_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    monkeypatch.setattr(pca_module, "MAX_BYTES", 64 * 97)  # bytes: 97 images of 64
    pca = fit_pca(data, 3, CPU)
    indices = [i * len(data.train) // 97 for i in range(97)]
    assert pca.num_images == 97
    torch.testing.assert_close(pca.mean, gray_of(data)[indices].mean(0))


# --- evaluation of reconstructions --------------------------------------------------------------------------


class Copy(nn.Module):
    """Identity plus noise of ``scale``, as an encoder or decoder."""

    def __init__(self, scale: float, event: Sequence[int]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=False)
        self.event = Size(event)

    def forward(self, inputs: Tensor) -> Distribution:
        return Normal(inputs.reshape(-1, *self.event), self.log_scale)


class WithoutDensity(ImplicitDistribution):
    """A distribution without its density."""

    def __init__(self, inner: Distribution) -> None:
        self.inner, self.batch_shape, self.event_shape = inner, inner.batch_shape, inner.event_shape

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.inner.rsample(sample_shape)


class Changed(nn.Module):
    """A module whose output distribution is replaced by ``change`` of it."""

    def __init__(self, inner: nn.Module, change: Callable[[Distribution], Distribution]) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, inputs: Tensor) -> Distribution:
        return self.change(self.inner(inputs))


def copier(shape: tuple[int, ...], latent_scale: float = 1e-6, image_scale: float = 0.1) -> LatentModel:
    d = Size(shape).numel()
    return LatentModel(Copy(latent_scale, (d,)), Copy(image_scale, shape), x_shape=shape, latent_dim=d)


def test_reconstructions_are_compared_with_the_stored_gray_levels() -> None:
    """A model that copies its binarized input has the error of binarization; PCA of gray levels does not."""
    data = digits("binarize-dynamic")
    eval_data = EvalData(data)
    part = next(eval_data.batches(CPU))
    x, raw = part.x, part.raw
    difference = (255 * x - raw.float()).double()
    squares = difference.square().flatten(1).mean(1)
    result = evaluate_reconstruction(copier(data.x_shape), eval_data)
    # Latents have a noise of 1e-6 of 255 gray levels.
    assert result.find("rmse").value == pytest.approx(difference.square().mean().sqrt().item(), rel=1e-5)
    assert result.find("rmse").per_example["value"].tolist() == pytest.approx(
        squares.sqrt().tolist(), rel=1e-5
    )
    by_hand = squares.std().item() / math.sqrt(len(raw)) / (2 * squares.mean().sqrt().item())
    assert result.find("rmse").stderr == pytest.approx(by_hand, rel=1e-4)
    by_loops = [
        ssim_by_loops(255 * a[0].double().numpy(), b[0].double().numpy(), 7)
        for a, b in zip(x, raw, strict=True)
    ]
    assert result.find("SSIM").per_example["value"].tolist() == pytest.approx(by_loops, abs=1e-4)
    ratio = -10 * torch.log10(squares / 255**2)
    assert result.find("PSNR").value == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert result.find("PSNR").stderr == pytest.approx(ratio.std().item() / math.sqrt(len(raw)), rel=1e-5)
    assert result.find("rmse (PCA-64)").value < 1e-6  # the stored images themselves, by 64 of 64 components
    assert "rmse (PCA-64)" in [remark.about for remark in result.remarks]


def test_reconstruction_metrics_have_kinds_units_protocols_and_baselines() -> None:
    data = digits()
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Copy(0.5, (4,)))
    decoder = nn.Sequential(nn.Linear(4, 64), Copy(0.1, data.x_shape))
    model = LatentModel(encoder, decoder, x_shape=data.x_shape, latent_dim=4)
    result = evaluate_reconstruction(model, EvalData(data))
    kinds = {e.name: (e.kind, e.unit) for e in result}
    assert kinds == {
        "rmse": ("error", "gray levels"),
        "PSNR": ("score", "dB"),
        "SSIM": ("score", ""),
        "reconstruction": ("error", "nats"),
        "rmse (PCA-4)": ("baseline", "gray levels"),
        "PSNR (PCA-4)": ("baseline", "dB"),
        "SSIM (PCA-4)": ("baseline", ""),
        "rmse (mean example)": ("baseline", "gray levels"),
        "rmse (train)": ("baseline", "gray levels"),
        "rmse (mean latent)": ("error", "gray levels"),
    }
    for e in result:
        assert e.section == "reconstruction"
        assert e.per_example["value"].shape == (len(data.test),)
        assert e.stderr > 0
        assert {"data", "checksum", "split", "preprocessing", "seed", "latent"} <= set(e.protocol)
    assert result.find("SSIM").protocol["window"].startswith("7 × 7")
    test, train = gray_of(data, "test").numpy(), gray_of(data).numpy()
    sklearn_pca = SklearnPCA(4, svd_solver="full").fit(train)
    difference = sklearn_pca.inverse_transform(sklearn_pca.transform(test)) - test
    assert result.find("rmse (PCA-4)").value == pytest.approx(math.sqrt((difference**2).mean()))


def test_reconstruction_error_of_vectors_has_its_closed_form() -> None:
    model = toy_model(width=1.5)
    data = data_of(model)
    result = evaluate_reconstruction(model, EvalData(data))
    assert [e.name for e in result][:3] == ["rmse", "reconstruction", "rmse (PCA-2)"]
    assert result.find("rmse").unit == result.find("rmse (PCA-2)").unit == "standard deviations"
    x = data.test.raw(range(len(data.test)))
    W, q = model.decoder.W.detach(), model.encode(x)  # type: ignore[union-attr]
    noise = (q.moments()[1] * W.square().sum(0)).sum(1)  # tr(W Cov(z|x) Wᵀ), diagonal
    squared = (x - q.mean @ W.T).square().sum(1) + noise
    exact = squared / (2 * NOISE**2) + N * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))
    # Sampling noise: per-image differences have mean zero, within five standard errors.
    gap = result.find("reconstruction").per_example["value"] - exact
    assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap))
    assert 5 * gap.std() / math.sqrt(len(gap)) < 0.1 * exact.mean().abs()
    gap = result.find("rmse").per_example["value"].square() * N - squared
    assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap))


def test_implicit_decoder_has_image_metrics_without_a_log_likelihood() -> None:
    data = digits()
    plain = copier(data.x_shape)
    decoder = Changed(plain.decoder, WithoutDensity)
    model = LatentModel(plain.encoder, decoder, x_shape=data.x_shape, latent_dim=64)
    names = [e.name for e in evaluate_reconstruction(model, EvalData(data))]
    assert "reconstruction" not in names
    assert {"rmse", "PSNR", "SSIM"} <= set(names)
