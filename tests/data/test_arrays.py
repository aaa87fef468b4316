"""Arrays are read as what they are: keys of archives, layouts, precision; others are refused before reading."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advae.data import DataOptions, Dataset, load_data, load_part, preprocessing_from_dict
from advae.data.arrays import example_layout
from advae.data.readers.array_files import split_and_role
from advae.errors import ConfigError, DataError


def noise(count: int, *shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Uniform bytes, [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def load(source: Path, **options: Any) -> Dataset:
    return load_data(DataOptions(source=str(source), **options))


# --- keys of archives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "labels", "test_examples", "test_labels"),
    [
        ("X", "y", None, None),
        ("images", "labels", None, None),
        ("imgs", "targets", None, None),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_Train", "X_test", "Y_Test"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("trainX", "trainY", "testX", "testY"),
        ("train", "train_label", "test", "test_label"),
        ("DATA", "Class", None, None),
    ],
)
def test_usual_keys(
    tmp_path: Path, examples: str, labels: str, test_examples: str | None, test_labels: str | None
) -> None:
    arrays: dict[str, Any] = {labels: np.arange(40) % 4, examples: noise(40, 5)}
    if test_examples and test_labels:
        arrays |= {test_labels: np.arange(10) % 4, test_examples: noise(10, 5, seed=1)}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(tmp_path / "a.npz")
    assert data.x_shape == (5,) and data.classes == 4 and data.remarks == ()
    assert data.reading["examples"]["train"] == examples and data.reading["labels"]["train"] == labels
    if test_examples:
        assert torch.equal(data.test.raw(range(10)), torch.from_numpy(noise(10, 5, seed=1)))
        assert data.test.labels is not None and data.test.labels.tolist() == (np.arange(10) % 4).tolist()


@pytest.mark.parametrize("key", ["mean", "filenames", "arr_0", "train_test", "class_names", "_", "trainer"])
def test_other_keys_are_not_taken_for_examples_or_labels(key: str) -> None:
    assert split_and_role(key) is None


@pytest.mark.parametrize(
    "keys", [("faces", "y"), ("y",), ("labels", "mean"), ("x", "images"), ("x", "X_train", "y"), ("a", "b")]
)
def test_unclear_keys_are_refused_and_all_arrays_listed(tmp_path: Path, keys: tuple[str, ...]) -> None:
    np.savez(tmp_path / "a.npz", **{key: np.arange(30 + i) for i, key in enumerate(keys)})
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a.npz")
    assert all(f"{key} [{30 + i}]" in str(caught.value) for i, key in enumerate(keys))


def test_arrays_that_are_left_out_are_named_and_not_read(tmp_path: Path) -> None:
    class Unpickled:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    metadata = np.array([Unpickled()], dtype=object)
    np.savez(tmp_path / "a.npz", imgs=noise(30, 4), latents=np.zeros((30, 6)), metadata=metadata)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "not an array")
    data = load(tmp_path / "a.npz")
    assert len(data.train) == 24 and not (tmp_path / "ran").exists()
    assert all(name in data.remarks[0] for name in ("latents [30, 6]", "metadata", "README.txt"))


def test_test_split_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=noise(30, 4), y_train=np.arange(30) % 3, x_test=noise(9, 4))
    data = load(tmp_path / "a.npz")
    assert data.classes == 3 and data.test.labels is None and len(data.test) == 9


# --- invalid and oversized files ----------------------------------------------------------------------------


def npy(shape: str, content: bytes = b"\0" * 400, descr: str = "'|u1'") -> bytes:
    """The bytes of a .npy file with a header of this text."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def as_npz(member: bytes, **options: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr("x.npy", member)
    return stream.getvalue()


@pytest.mark.parametrize("pack", [lambda content: content, as_npz])
@pytest.mark.parametrize(
    "content",
    [
        npy("(-10, 4)"),
        npy("(True, 4)"),
        npy("(10, True)"),
        npy("(10000000000, 4)"),
        npy(f"(10, {10**40})"),
        npy(f"(0, {10**40})"),
        npy("(0, 4)"),
        npy("(40, 0)"),
        npy("()"),
        npy("(10.5, 4)"),
        npy("[10, 4]"),
        npy("(10, 4)", descr="'|O'"),
        npy("(10, 4)", descr="'<c16'"),
        npy("(10, 4)", descr="[('a', '<f4'), ('b', '<i4')]"),
        npy("(10, 4)", descr="'nonsense'"),
        npy("__import__('os').system('true')"),
        npy("(" * 3000),
        b"\x93NUMPY\x03\x00" + b"\xff" * 50,
        b"\x93NUMPY\x02\x00" + b"\xff" * 50,
        b"not an array",
    ],
)
def test_invalid_arrays_are_one_error(tmp_path: Path, content: bytes, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / ("a.npz" if pack is as_npz else "a.npy")
    path.write_bytes(pack(content))
    with pytest.raises(DataError, match=path.name):
        load(path)


def test_archives_that_expand_beyond_memory_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded = 50 * 2**20
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(expanded, np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < expanded // 500

    def not_read(*_: object, **__: object) -> None:
        raise AssertionError("the array was read")

    with monkeypatch.context() as patch:
        patch.setattr("advae.data.sources.available_memory", lambda: expanded // 2)
        patch.setattr(np.lib.format, "read_array", not_read)
        with pytest.raises(DataError, match="memory"):
            load(tmp_path / "a.npz")
    with monkeypatch.context() as patch:  # it fits in memory, and expands as no observations do
        patch.setattr("advae.data.readers.array_files.MAX_EXPANDED_BYTES", 2**20)
        patch.setattr(np.lib.format, "read_array", not_read)
        with pytest.raises(DataError, match="expands"):
            load(tmp_path / "a.npz")
    # A header that declares less than the member holds does not read more.
    (tmp_path / "b.npz").write_bytes(
        as_npz(npy("(10, 4)", bytes(expanded)), compression=zipfile.ZIP_DEFLATED)
    )
    assert load(tmp_path / "b.npz", preprocessing="gray").x_shape == (4,)


def test_encrypted_doubled_and_oddly_named_archives(tmp_path: Path) -> None:
    encrypted = bytearray(as_npz(npy("(10, 4)")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of encryption
        encrypted[encrypted.index(signature) + offset] |= 1
    (tmp_path / "a.npz").write_bytes(encrypted)
    with pytest.raises(DataError, match="encrypted"):
        load(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", npy("(10, 4)"))
    with pytest.raises(DataError, match="two arrays"):
        load(tmp_path / "b.npz")
    for name in ("C.NPZ", "d.npy"):
        with (tmp_path / name).open("wb") as file:
            (np.savez if name == "C.NPZ" else np.save)(file, noise(20, 4))
        assert load(tmp_path / name).x_shape == (4,)


# --- layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected", "layout"),
    [
        ((32, 32, 3), (3, 32, 32), "NHWC"),
        ((3, 32, 32), (3, 32, 32), "NCHW"),
        ((4, 4, 3), (3, 4, 4), "NHWC"),
        ((3, 4, 4), (3, 4, 4), "NCHW"),
        ((10, 2, 2), (10, 2, 2), "NCHW"),
        ((2, 5, 3), (2, 5, 3), "NCHW"),
        ((3, 3, 3), (3, 3, 3), "NCHW"),
        ((9, 7, 3), (3, 9, 7), "NHWC"),
        ((64, 8, 8), (64, 8, 8), "NCHW"),
    ],
)
def test_layout_of_images_with_channels(
    shape: tuple[int, ...], expected: tuple[int, ...], layout: str
) -> None:
    assert example_layout(shape) == (expected, layout)


def test_layout_is_recorded_and_can_be_set(tmp_path: Path) -> None:
    pixels = noise(30, 10, 2, 2)
    np.save(tmp_path / "a.npy", pixels)
    guessed = load(tmp_path / "a.npy")
    assert guessed.reading["layout"] == "NCHW" and "NCHW" in guessed.remarks[0]
    data = load(tmp_path / "a.npy", layout="NHWC")
    assert (
        data.x_shape == (2, 10, 2) and data.remarks == () and data.describe()["reading"]["layout"] == "NHWC"
    )
    assert torch.equal(data.train.raw([0])[0], guessed.train.raw([0])[0].permute(2, 0, 1))
    np.save(tmp_path / "b.npy", noise(30, 7, 9))
    assert load(tmp_path / "b.npy").x_shape == (1, 7, 9)
    assert load(tmp_path / "b.npy", layout="as-stored").x_shape == (7, 9)
    with pytest.raises(DataError, match=r"data\.layout"):
        load(tmp_path / "b.npy", layout="NHWC")
    with pytest.raises(DataError, match=r"data\.layout"):
        load(Path("digits"), layout="NHWC")
    for options in ({"layout": "HWC"}, {"white_level": 0}, {"white_level": float("nan")}):
        with pytest.raises(ConfigError):
            load(tmp_path / "b.npy", **options)


def test_white_level_of_arrays(tmp_path: Path) -> None:
    np.save(
        tmp_path / "dark.npy", np.array([[0, 1]] * 20)
    )  # of gray levels 0 to 255, as training data would show
    assert load(tmp_path / "dark.npy").train.raw([0]).tolist() == [[0, 255]]
    assert load(tmp_path / "dark.npy", white_level=255).train.raw([0]).tolist() == [[0, 1]]
    np.save(tmp_path / "deep.npy", np.array([[0, 4095, 1000]] * 20))
    assert load(tmp_path / "deep.npy", white_level=4095).train.raw([0]).tolist() == [[0, 255, 62]]
    with pytest.raises(DataError, match="0 to 1000"):
        load(tmp_path / "deep.npy", white_level=1000)


# --- precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_values_with_a_large_offset_are_centered_before_they_are_rounded(
    tmp_path: Path, storage: str
) -> None:
    """Float32 has three values between 1.7e9 - 50 and 1.7e9 + 50."""
    rng = np.random.default_rng(0)
    values = np.stack([1.7e9 + rng.uniform(-50, 50, 300), rng.normal(0, 1, 300), np.full(300, 1e9)], 1)
    np.save(tmp_path / "a.npy", values)
    data = load(tmp_path / "a.npy", preprocessing="standardize", storage=storage)
    raw, preprocessing = data.train.raw(range(len(data.train))), data.preprocessing
    x = preprocessing.apply(raw)
    assert x.dtype == torch.float32 and len(x[:, 0].unique()) == len(x)
    expected = (raw - raw.mean(0)) / raw.std(0, correction=0)
    # Float64 rounds 1.7e9 to 2.4e-7, or 1e-8 of the standard deviation; float32 rounds the result: 2⁻²⁴ of |x| < 4.
    assert torch.allclose(x[:, :2].double(), expected[:, :2], atol=4 * 2.0**-24 + 1e-7)
    assert (x[:, 2] == 0).all()
    back = preprocessing.to_gray(x)
    assert (back[:, 0] - raw[:, 0]).abs().max() < 30 * 2.0**-22  # std 29, x rounded by 2⁻²³ at most
    again = preprocessing_from_dict(preprocessing.describe())
    assert torch.equal(again.apply(raw), x) and torch.equal(again.raw_to_gray(raw), raw)
    _, part, _ = load_part(DataOptions(source=str(tmp_path / "a.npy")), again)
    assert torch.equal(part.raw(range(300)), torch.from_numpy(values))
    np.save(tmp_path / "one.npy", values[:1])  # alone, its range does not show the precision that it needs
    _, one, _ = load_part(DataOptions(source=str(tmp_path / "one.npy")), again)
    assert torch.equal(one.raw([0]), torch.from_numpy(values[:1]))


def test_values_that_float32_resolves_are_stored_as_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([5, -1000, 1e4, 1e9], [0.1, 50, 100, 0], (300, 4))
    np.save(tmp_path / "a.npy", values)
    data = load(tmp_path / "a.npy", preprocessing="standardize")
    assert data.train.dtype == torch.float32 and "dtype" not in data.preprocessing.describe()


# --- the caller's settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["standardize", "binarize-static", "dequantize"])
def test_loading_does_not_depend_on_the_callers_settings(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "a.npy", noise(90, 4, 4))
    expected = load(tmp_path / "a.npy", preprocessing=name)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            data = load(tmp_path / "a.npy", preprocessing=name)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(data.splits, expected.splits, strict=True):
        assert torch.equal(one.raw(range(6)), other.raw(range(6)))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    x, y = (
        d.preprocessing.apply(d.train.raw(range(6)), g)
        for d, g in zip((data, expected), generators, strict=True)
    )
    assert torch.equal(x, y) and x.dtype == torch.float32
    assert data.train.values is not None and not data.train.values.is_inference()
    weight = torch.ones(4, requires_grad=True)
    (weight * x).sum().backward()
    assert weight.grad is not None
