"""Encoded images are converted by the documented rules, and every conversion that loses information is named."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image

from advae.data import DataOptions, Dataset, load_data
from advae.data.readers import parquet
from advae.errors import DataError

STORAGE = pytest.mark.parametrize("storage", ["resident", "stream"])


def load(source: Path, **options: Any) -> Dataset:
    return load_data(DataOptions(source=str(source), **options))


def everything(data: Dataset) -> torch.Tensor:
    """All stored examples of the three splits, [N, *shape]."""
    return torch.cat([chunk for split in data.splits for chunk in split.chunks()])


def save(folder: Path, images: list[Image.Image], kind: str = "png", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:02}.{kind}", **options)
    return folder


def gray(count: int, *shape: int) -> list[Image.Image]:
    shape = shape or (4, 6)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def color(count: int) -> list[Image.Image]:
    return [image.convert("RGB") for image in gray(count)]


@STORAGE
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_is_composited_on_white(tmp_path: Path, mode: str, storage: str) -> None:
    """A black shape whose outline is in the transparency alone."""
    alpha = Image.new("L", (4, 4), 0)
    alpha.putpixel((1, 2), 255)
    alpha.putpixel((2, 2), 51)
    if mode == "P":
        image = Image.new("P", (4, 4), 0)
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.putpixel((1, 2), 1)
        data = load(save(tmp_path / "a", [image] * 10, "gif", transparency=0), storage=storage)
    else:
        image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
        image.putalpha(alpha)
        kind = "tif" if mode == "PA" else "png"
        data = load(
            save(tmp_path / "a", [image.convert("RGBA" if mode == "PA" else mode)] * 10, kind),
            storage=storage,
        )
    pixels = everything(data)[0, 0]
    assert pixels[2, 1] == 0 and pixels[0, 0] == 255
    if mode != "P":
        assert pixels[2, 2] == 255 - 51
    assert [remark for remark in data.remarks if "transparency" in remark]


@STORAGE
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_color_image_makes_all_color(tmp_path: Path, place: str, storage: str) -> None:
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    images = [*gray(9)]
    images.insert(0 if place == "first" else 9, red)
    data = load(save(tmp_path / "a", images), storage=storage)
    assert data.x_shape == (3, 4, 6) and [remark for remark in data.remarks if "1 of 10" in remark]
    assert any(image[0].min() == 255 and image[1].max() == 0 for image in everything(data))
    forced = load(tmp_path / "a", channels=1, storage=storage)
    assert forced.x_shape == (1, 4, 6) and forced.remarks == ()


def test_color_of_the_test_split_counts(tmp_path: Path) -> None:
    save(tmp_path / "a/train", gray(9))
    save(tmp_path / "a/test", color(3))
    assert load(tmp_path / "a").x_shape == (3, 4, 6)


@STORAGE
@pytest.mark.parametrize(
    ("largest", "white"), [(200, 255), (900, 1023), (3000, 4095), (9000, 16383), (25_000, 65_535)]
)
def test_sixteen_bits_are_scaled_by_the_bits_that_are_used(
    tmp_path: Path, largest: int, white: int, storage: str
) -> None:
    pixels = np.linspace(0, largest, 24).round().astype(np.uint16).reshape(4, 6)
    data = load(save(tmp_path / "a", [Image.fromarray(pixels)] * 10), storage=storage)
    assert np.array_equal(everything(data)[0, 0].numpy(), np.rint(pixels / (white / 255)))
    assert data.reading["white_level"] == white and [remark for remark in data.remarks if "8 bits" in remark]


@STORAGE
@pytest.mark.parametrize(
    ("kind", "largest", "white"),
    [(np.int32, 5_000_000, 2**24 - 1), (np.float32, 0.7, 1), (np.float32, 900, 1023)],
)
def test_thirty_two_bits(tmp_path: Path, kind: type, largest: float, white: float, storage: str) -> None:
    pixels = np.linspace(0, largest, 24).astype(kind).reshape(4, 6)
    data = load(save(tmp_path / "a", [Image.fromarray(pixels)] * 10, "tif"), storage=storage)
    assert data.reading["white_level"] == white
    assert np.array_equal(everything(data)[0, 0].numpy(), np.rint(pixels / (white / 255)))
    given = load(tmp_path / "a", white_level=2 * white, storage=storage)
    assert np.array_equal(everything(given)[0, 0].numpy(), np.rint(pixels / (2 * white / 255)))
    Image.fromarray(-pixels).save(tmp_path / "a/05.tif")
    with pytest.raises(DataError, match="1 of 10 images cannot be read"):
        load(tmp_path / "a", storage=storage)


def test_sixteen_bits_per_color_channel_are_named(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress((b"\0" + bytes(range(24))) * 4)
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a").mkdir()
    for i in range(10):
        (tmp_path / "a" / f"{i}.png").write_bytes(content)
    data = load(tmp_path / "a")
    assert everything(data)[0, :, 0, 0].tolist() == [0, 2, 4]
    assert [remark for remark in data.remarks if "16 bits per color channel" in remark]


@pytest.mark.parametrize("kind", ["gif", "tif", "webp", "png"])
def test_several_frames_are_named(tmp_path: Path, kind: str) -> None:
    frames = gray(3)
    (tmp_path / "a").mkdir()
    for i in range(10):
        frames[0].save(tmp_path / "a" / f"{i}.{kind}", save_all=True, append_images=frames[1:])
    assert [remark for remark in load(tmp_path / "a").remarks if "frames" in remark]
    save(tmp_path / "b", frames[:1] * 10, kind)
    assert not [remark for remark in load(tmp_path / "b").remarks if "frames" in remark]


@STORAGE
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_orientation_is_applied_in_every_format(tmp_path: Path, kind: str, storage: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    image = Image.new("L", (6, 4), 0)
    image.paste(255, (0, 0, 6, 2))  # the upper half
    options = {"exif": exif} | ({"lossless": True} if kind == "webp" else {})
    data = load(save(tmp_path / "a", [image] * 10, kind, **options), storage=storage)
    pixels = everything(data)[0, 0]
    assert data.x_shape[1:] == (6, 4)
    assert pixels[:, 2:].min() > 200 and pixels[:, :2].max() < 50


def test_upper_case_endings(tmp_path: Path) -> None:
    save(tmp_path / "a", gray(9))
    for path in (tmp_path / "a").iterdir():
        path.rename(path.with_suffix(".PNG"))
    assert load(tmp_path / "a").x_shape == (1, 4, 6)


def test_bombs_and_programs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    save(tmp_path / "a", gray(9))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a/eps.png").write_bytes(postscript)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    gray(1, 30, 30)[0].save(tmp_path / "a/bomb.png")
    for name in ("Popen", "check_call"):
        monkeypatch.setattr(subprocess, name, started)
    with pytest.raises(DataError, match="2 of 11 images") as caught:
        load(tmp_path / "a")
    assert "bomb.png" in str(caught.value) and "eps.png: not an image" in str(caught.value)


# --- Parquet ------------------------------------------------------------------------------------------------


def table(path: Path, image: pa.Array, **columns: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": image, **columns}), path)
    return path


def encoded(count: int) -> list[bytes]:
    streams = [io.BytesIO() for _ in range(count)]
    for image, stream in zip(gray(count), streams, strict=True):
        image.save(stream, "PNG")
    return [stream.getvalue() for stream in streams]


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary(), pa.binary_view(), "fixed"])
@pytest.mark.parametrize("in_struct", [True, False])
def test_binary_types(tmp_path: Path, binary: Any, in_struct: bool) -> None:
    images = encoded(20)
    if binary == "fixed":
        size = max(map(len, images))
        images, binary = [image.ljust(size, b"\0") for image in images], pa.binary(size)
    column = pa.array(images, binary)
    if in_struct:
        text = pa.string_view() if binary == pa.binary_view() else pa.large_string()
        column = pa.StructArray.from_arrays([column, pa.array(["a.png"] * 20, text)], ["bytes", "path"])
    data = load(table(tmp_path / "a.PARQUET", column, label=pa.array([i % 2 for i in range(20)])))
    assert data.x_shape == (1, 4, 6) and data.classes == 2
    expected = np.stack([np.asarray(image) for image in gray(20)])
    assert sorted(map(bytes, everything(data).numpy())) == sorted(map(bytes, expected))


def test_columns_declared_as_images(tmp_path: Path) -> None:
    """Tables saved by ``datasets`` declare their columns in the schema's metadata."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": gray(20), "label": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.x_shape == (1, 4, 6) and data.class_names == ("a", "b")
    expected = np.stack([np.asarray(image) for image in gray(20)])
    assert sorted(map(bytes, everything(data).numpy())) == sorted(map(bytes, expected))


@STORAGE
@pytest.mark.parametrize("in_struct", [True, False])
def test_null_images_are_named(tmp_path: Path, in_struct: bool, storage: str) -> None:
    images: list[Any] = [{"bytes": image, "path": None} if in_struct else image for image in encoded(20)]
    images[7] = None
    if in_struct:
        images[8] = {"bytes": None, "path": None}
    with pytest.raises(
        DataError, match=rf"{1 + in_struct} of 20 images cannot be read(.*\n)*.*row 7: .*missing"
    ):
        load(table(tmp_path / "a.parquet", pa.array(images)), storage=storage)


def test_paths_in_tables_must_be_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    images = [{"bytes": image, "path": None} for image in encoded(20)]
    images[3] = {"bytes": None, "path": str(tmp_path / "pipe.png")}
    images[4] = {"bytes": None, "path": "/dev/zero"}
    with pytest.raises(DataError, match="2 of 20 images"):
        load(table(tmp_path / "a.parquet", pa.array(images)))


def test_tables_that_expand_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_EXPANDED_BYTES", 2**16)
    monkeypatch.setattr(parquet, "open_tables", lambda *args: pytest.fail("was read"))
    pq.write_table(pa.table({"image": [bytes(2**20)] * 2}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(DataError, match="expands"):
        load(tmp_path / "a.parquet")
    monkeypatch.setattr(parquet, "MAX_EXPANDED_BYTES", 2**22)  # equal values are declared once: 2¹⁸ bytes
    pq.write_table(pa.table({"image": [bytes(2**18)] * 64}), tmp_path / "b.parquet", compression="zstd")
    assert pq.read_metadata(tmp_path / "b.parquet").row_group(0).total_byte_size < 2**22
    with pytest.raises(DataError, match="expands"):
        load(tmp_path / "b.parquet")


def test_splits_with_other_columns_and_missing_labels(tmp_path: Path) -> None:
    labels = pa.array([None if i == 5 else i % 3 for i in range(30)])
    table(tmp_path / "a/train.parquet", pa.array(encoded(30)), label=labels, more=pa.array(["x"] * 30))
    table(tmp_path / "a/test.parquet", pa.array(encoded(6)))
    data = load(tmp_path / "a")
    assert data.classes == 3 and data.test.labels is None and data.train.labels is not None
    assert (data.train.labels == -1).sum() == 1
    pq.write_table(pa.table({"picture": pa.array(encoded(6))}), tmp_path / "a/test.parquet")
    with pytest.raises(DataError, match="no column image"):
        load(tmp_path / "a")


# --- folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Callable[..., Path]:
    """Writes 5 images into each of these folders."""

    def write(*names: str) -> Path:
        for name in names:
            save(tmp_path / name, gray(5))
        return tmp_path / names[0].split("/")[0]

    return write


def test_links_to_class_folders_are_followed(tmp_path: Path, classes: Callable[..., Path]) -> None:
    root = classes("a/cat", "a/dog")
    save(tmp_path / "elsewhere", gray(7))
    (root / "emu").symlink_to(tmp_path / "elsewhere")
    (root / "cat/loop").symlink_to(root)
    (root / "dog/again").symlink_to(root / "cat")
    (root / "dog/everything").symlink_to("/")
    data = load(root)
    assert len(everything(data)) == 17 and data.class_names == ("cat", "dog", "emu")
    remarks = " ".join(data.remarks)
    assert all(name in remarks for name in ("cat/loop", "dog/again", "dog/everything"))


def test_pipes_devices_and_broken_links_are_left_out_and_named(
    tmp_path: Path, classes: Callable[..., Path]
) -> None:
    root = classes("a")
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "notes.txt").write_text("not an image")
    data = load(root)
    assert len(everything(data)) == 5
    assert all(name in data.remarks[0] for name in ("pipe.png", "zero.png", "gone.png"))
    (root / "itself.png").symlink_to(root / "itself.png")
    assert len(everything(load(root))) == 5
    assert "notes.txt" in data.remarks[1]
    os.mkfifo(tmp_path / "a.npy")
    (tmp_path / "b.npz").symlink_to("/dev/zero")
    for source in ("a.npy", "b.npz", "*.np?"):
        with pytest.raises(DataError, match="regular files"):
            load(tmp_path / source)


def test_train_and_test_folders_inside_one_folder_are_splits(classes: Callable[..., Path]) -> None:
    data = load(
        classes(*(f"a/mnist_png/{split}/{name}" for split in ("training", "testing") for name in "01"))
    )
    assert (len(data.train) + len(data.validation), len(data.test)) == (10, 10)
    assert data.class_names == ("0", "1") and data.test.labels is not None


def test_train_and_test_folders_inside_classes_are_refused(classes: Callable[..., Path]) -> None:
    root = classes("a/cat/train", "a/cat/test", "a/dog/train", "a/dog/test")
    with pytest.raises(DataError, match="not at the top"):
        load(root)
    assert load(root / "cat").train.labels is None


def test_empty_train_folder_is_refused(classes: Callable[..., Path]) -> None:
    root = classes("a/test/0", "a/test/1")
    (root / "train").mkdir()
    with pytest.raises(DataError, match="train folder"):
        load(root)


@STORAGE
def test_names_that_are_not_utf8(tmp_path: Path, storage: str) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path / "a") + b"/caf\xe9")
    save(Path(folder), gray(6))
    save(tmp_path / "a/tea", gray(6))
    (Path(folder) / "00.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    data = load(tmp_path / "a", storage=storage)
    assert len(everything(data)) == 12 and data.class_names is not None
    data.class_names[0].encode()
    assert load(Path(folder)).name.encode()
    (Path(folder) / "01.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a", storage=storage)
    str(caught.value).encode()


def test_remarks_are_stored_with_the_run(tmp_path: Path) -> None:
    described = load(save(tmp_path / "a", [*gray(9), *color(1)])).describe()
    assert described["remarks"] and described["reading"]["channels"] == 3


def test_available_memory_is_a_positive_number_on_linux() -> None:
    from advae.data.sources import available_memory

    available = available_memory()
    assert available is None or 0 < available < 2**50


def test_resident_data_larger_than_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((100, 100), np.uint8))
    monkeypatch.setattr("advae.data.sources.available_memory", lambda: 100)
    with pytest.raises(DataError, match="memory"):
        load(tmp_path / "a.npy", storage="resident")
