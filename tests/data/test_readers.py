"""Readers return the stored pixels and labels of every format, and name what cannot be read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from advae.data import DataOptions, Dataset, load_data
from advae.data.arrays import array_examples
from advae.data.readers import READERS, DataSource, SourceReader
from advae.data.sources import Location
from advae.errors import DataError

Pixels = npt.NDArray[np.uint8]


def noise(count: int, *shape: int, seed: int = 0) -> Pixels:
    """Uniform bytes, [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    """The bytes of a PNG with these pixels, [H, W]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def load(source: Path | str, **options: object) -> Dataset:
    return load_data(DataOptions(source=str(source), **options))  # type: ignore[arg-type]


def everything(data: Dataset) -> torch.Tensor:
    """All stored examples of the three splits, [N, *shape]."""
    return torch.cat([chunk for split in data.splits for chunk in split.chunks()])


def same_examples(data: Dataset, pixels: Pixels) -> bool:
    """Whether the splits hold exactly these examples [N, ...], in any order."""
    flat = everything(data).reshape(-1, pixels[0].size).numpy()
    return sorted(map(bytes, flat)) == sorted(map(bytes, pixels.reshape(len(pixels), -1)))


def test_options_import_neither_torch_nor_numpy() -> None:
    code = "import sys; from advae.data.data_options import DataOptions; import advae.data; "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'datasets')))"
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ | path).returncode == 0


def test_digits_are_scaled_from_16_to_255() -> None:
    data = load("digits")
    assert data.x_shape == (1, 8, 8) and data.classes == 10
    assert [len(split) for split in data.splits] == [1455, 162, 180]
    values = everything(data)
    assert set(values.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}
    assert values.dtype == torch.uint8
    # Labels match images: the mean zero has an empty center, the mean eight does not.
    assert data.train.labels is not None
    mean = {k: data.train.raw(torch.nonzero(data.train.labels == k)[:, 0]).float().mean(0)[0] for k in (0, 8)}
    assert mean[0][3:5, 3:5].mean() < 60 < 120 < mean[8][3:5, 3:5].mean()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5,), (5,)),
        ((), (1,)),
        ((9, 7), (1, 9, 7)),
        ((3, 9, 7), (3, 9, 7)),
        ((9, 7, 3), (3, 9, 7)),
        ((2, 5, 3), (2, 5, 3)),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_arrays_of_any_shape(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    pixels = noise(30, *shape)
    np.save(tmp_path / "a.npy", pixels)
    data = load(tmp_path / "a.npy")
    assert data.x_shape == expected
    if shape == (9, 7, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    assert same_examples(data, np.ascontiguousarray(pixels))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("unit", [True, False])
def test_values_on_the_8_bit_lattice_are_stored_exactly(tmp_path: Path, kind: str, unit: bool) -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(4).reshape(-1, 4)
    if kind == "bool" or (kind == "int64" and unit):
        pixels = (pixels > 100).astype(np.uint8) * 255
    values = pixels / 255 if unit or kind == "bool" else pixels
    np.save(tmp_path / "a.npy", values.astype(kind))
    data = load(tmp_path / "a.npy")
    assert data.train.dtype == torch.uint8 and same_examples(data, pixels)


def test_npz_with_splits_and_labels(tmp_path: Path) -> None:
    train, test = noise(40, 4, 4), noise(6, 4, 4, seed=1)
    labels = np.arange(40) % 3
    np.savez(tmp_path / "a.npz", x_train=train, y_train=labels, x_test=test, y_test=np.arange(6) % 3)
    data = load(tmp_path / "a.npz")
    assert [len(split) for split in data.splits] == [36, 4, 6] and data.classes == 3
    assert np.array_equal(everything(data).numpy()[:, 0], np.concatenate([train, test]))  # the order is kept
    assert data.validation.labels is not None and data.validation.labels.tolist() == labels[36:].tolist()
    assert data.validation.labels.dtype == torch.int64


def test_names_as_labels_become_ids_in_alphabetical_order(tmp_path: Path) -> None:
    names = np.array(["dog", "cat", "emu"])[np.arange(30) % 3]
    np.savez(tmp_path / "a.npz", x=np.arange(30, dtype=np.uint8)[:, None], y=names)
    data = load(tmp_path / "a.npz")
    assert data.class_names == ("cat", "dog", "emu") and data.classes == 3
    assert data.train.labels is not None
    expected_ids = [
        ("cat", "dog", "emu").index(str(names[v])) for v in data.train.raw(range(20))[:, 0].tolist()
    ]
    assert data.train.labels[:20].tolist() == expected_ids


def test_parquet_folder_keeps_its_order_and_cuts_validation_from_the_end(
    parquet: Callable[..., Path],
) -> None:
    train, test = noise(50, 6, 5), noise(8, 6, 5, seed=1)
    labels = [i * 7 % 10 for i in range(50)]
    parquet("train-00000-of-00002.parquet", train[:30], labels[:30])
    parquet("train-00001-of-00002.parquet", train[30:], labels[30:])
    root = parquet("test.parquet", test, [-1] * 8).parent
    data = load(root)
    assert data.name == "table" and data.x_shape == (1, 6, 5)
    assert torch.equal(data.train.raw(range(45))[:, 0], torch.from_numpy(train[:45]))
    assert torch.equal(data.validation.raw(range(5))[:, 0], torch.from_numpy(train[45:]))
    assert torch.equal(data.test.raw(range(8))[:, 0], torch.from_numpy(test))
    assert data.validation.labels is not None and data.validation.labels.tolist() == labels[45:]
    assert data.test.labels is None  # all -1: unknown


def test_parquet_file_and_pattern_are_shuffled_before_cutting(parquet: Callable[..., Path]) -> None:
    pixels = noise(40, 4, 4, 3)
    path = parquet("all.parquet", pixels)
    for source in (path, path.parent / "*.parquet"):
        data = load(source)
        assert [len(split) for split in data.splits] == [32, 4, 4] and data.x_shape == (3, 4, 4)
        assert same_examples(data, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        assert not torch.equal(data.test.raw(range(4)), torch.from_numpy(pixels[-4:].transpose(0, 3, 1, 2)))


def test_folder_with_classes(folder: Callable[..., Path]) -> None:
    names, images = ["zebra", "ant", "cow"], noise(30, 7, 9, 3)
    files = {f"{names[i % 3]}/deep/{i}.png": image for i, image in enumerate(images)}
    root = folder(files)
    (root / "notes.txt").write_text("not an image")
    data = load(root)
    assert data.class_names == ("ant", "cow", "zebra") and data.x_shape == (3, 7, 9)
    assert same_examples(data, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    place = {bytes(image.transpose(2, 0, 1)): i for i, image in enumerate(images)}
    assert data.train.labels is not None
    for raw, label in zip(data.train.raw(range(10)), data.train.labels, strict=False):
        assert data.class_names[label] == names[place[bytes(raw.numpy())] % 3]


def test_folder_with_splits(folder: Callable[..., Path]) -> None:
    train, test = noise(20, 4, 4), noise(5, 4, 4, seed=1)
    files = {f"train/{'ab'[i % 2]}/{i:02}.png": image for i, image in enumerate(train)}
    root = folder(files | {f"test/b/{i}.png": image for i, image in enumerate(test)})
    data = load(root)
    assert np.array_equal(data.test.raw(range(5))[:, 0].numpy(), test)
    assert data.test.labels is not None and data.test.labels.tolist() == [1] * 5
    # Sorted by class as it is, the end of train would be one class only: a folder is always shuffled.
    assert load(root, validation=8).validation.labels.unique().tolist() == [0, 1]  # type: ignore[union-attr]


def test_folder_named_train_next_to_others_is_a_class(folder: Callable[..., Path]) -> None:
    root = folder({f"{name}/{i}.png": noise(1, 4, 4)[0] for name in ("train", "bus") for i in range(6)})
    assert load(root).class_names == ("bus", "train")


def test_images_are_resized_cropped_and_converted(folder: Callable[..., Path]) -> None:
    left_black = np.zeros((10, 20, 3), np.uint8)
    left_black[:, 10:, 0] = 255  # the right half is red
    files = {f"{i}.png": left_black for i in range(9)} | {"tall.png": noise(1, 30, 12)[0]}
    data = load(folder(files), image_size=5, channels=3)
    assert data.x_shape == (3, 5, 5)
    image = next(raw for raw in everything(data) if raw[1:].max() == 0)
    # The centre square of a 10 × 20 image has its edge in the middle: black, then red.
    assert image[0, :, 0].max() < 30 and image[0, :, -1].min() > 225
    gray = load(folder(files), image_size=5, channels=1)
    assert gray.x_shape == (1, 5, 5)
    assert int(everything(gray).reshape(10, -1).max(1).values.min()) in range(70, 82)  # red is 0.299 of white


def test_sixteen_bits_alpha_palette_and_orientation(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    for i in range(5):
        Image.fromarray(np.full((4, 6), 257 * 100, np.uint16)).save(root / f"sixteen{i}.png")
    assert everything(load(root)).unique().tolist() == [100]
    root = tmp_path / "turned"
    root.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter
    for i in range(5):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / f"{i}.jpg", exif=turned)
    assert load(root).x_shape == (3, 6, 4)
    root = tmp_path / "alpha"
    root.mkdir()
    for i in range(5):
        Image.new("RGBA", (4, 4), (10, 20, 30, 40)).save(root / f"{i}.png")
        Image.new("RGB", (4, 4), (10, 20, 30)).convert("P").save(root / f"p{i}.gif")
    assert load(root).x_shape == (3, 4, 4)


def test_unreadable_images_are_named_and_counted(folder: Callable[..., Path]) -> None:
    root = folder({f"{i:02}.png": noise(1, 8, 8)[0] for i in range(20)})
    for i in range(6):
        (root / f"bad{i}.png").write_text("not an image")
    truncated = (root / "07.png").read_bytes()[:60]
    (root / "07.png").write_bytes(truncated)
    with pytest.raises(DataError, match="7 of 26 images cannot be read") as caught:
        load(root)
    assert "bad" in str(caught.value) and "and 2 more" in str(caught.value)
    with pytest.raises(DataError, match=r"6 of 26 images cannot be read.*(\n.*)*bad0.png"):
        load(root, storage="stream")  # headers only: the truncated image is detected while streaming


def test_parquet_row_is_named(parquet: Callable[..., Path], tmp_path: Path) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    cells = [{"bytes": png(noise(1, 4, 4)[0]), "path": f"i{i}.png"} for i in range(12)]
    cells[3]["bytes"] = b"broken"
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 3 \(i3.png\)"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_different_image_sizes_are_an_error(folder: Callable[..., Path], storage: str) -> None:
    files = {f"{i}.png": noise(1, 8, 8)[0] for i in range(9)} | {"odd.png": noise(1, 8, 6)[0]}
    root = folder(files)
    with pytest.raises(DataError, match=r"8 × 8 \(9\), 8 × 6 \(1\)(.*\n)*.*data.image_size"):
        load(root, storage=storage)
    assert load(root, storage=storage, image_size=6).x_shape == (1, 6, 6)


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_images_of_another_size_than_the_first_are_an_error(
    folder: Callable[..., Path], storage: str
) -> None:
    """The first image sets the shape, and may not be in any of the splits."""
    files = {"0.png": noise(1, 10, 8)[0]} | {f"{i}.png": noise(1, 8, 8)[0] for i in range(1, 40)}
    root = folder(files)
    for seed in range(8):
        with pytest.raises(DataError, match="2 different sizes"):
            load(root, storage=storage, limit=5, split_seed=seed)


@pytest.mark.parametrize("storage", ["resident", "stream"])
def test_exif_rotation_is_applied_before_sizes_are_compared(
    folder: Callable[..., Path], storage: str
) -> None:
    upright, turned = Image.fromarray(noise(1, 12, 8)[0]), Image.fromarray(noise(1, 8, 12)[0])
    root = folder({f"{i}.png": noise(1, 12, 8)[0] for i in range(9)})
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(root / "turned.jpg", exif=exif)
    upright.save(root / "upright.jpg")
    assert load(root, storage=storage).x_shape == (1, 12, 8)


def test_a_new_format_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered reader is used for the files that it declares."""

    class TextReader(SourceReader):
        description = "a .numbers file"
        suffixes = (".numbers",)

        @classmethod
        def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
            values = np.loadtxt(location.path, dtype=np.uint8, ndmin=2)
            return DataSource(location.name, array_examples({"train": values}, location.path, eight_bit))

    monkeypatch.setattr(READERS, "_classes", dict(READERS._classes))
    READERS.names()
    READERS.register("numbers")(TextReader)
    pixels = noise(20, 3)
    np.savetxt(tmp_path / "a.numbers", pixels, fmt="%d")
    data = load(tmp_path / "a.numbers")
    assert data.name == "a" and same_examples(data, pixels)
    with pytest.raises(DataError, match=r"data\.channels"):
        load(tmp_path / "a.numbers", channels=1)


@pytest.mark.parametrize("name", READERS.names())
def test_readers_declare_what_they_recognize(name: str) -> None:
    reader = READERS.find(name)
    assert reader.description and all(suffix == suffix.lower() for suffix in reader.suffixes)
    assert reader.builtin_names or reader.suffixes or name == "hub"


class Evil:
    """Unpickling one of these writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickles_are_an_error_and_not_executed(tmp_path: Path, name: str) -> None:
    evil = np.array([Evil(tmp_path / "ran"), None], dtype=object)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, evil)
    with pytest.raises(DataError, match="never loaded"):
        load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def truncated_npz(path: Path) -> None:
    np.savez(path, x=noise(100, 50))
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "make", "details"),
    [
        ("a.npy", lambda p: np.save(p, np.zeros((0, 4))), ["shape (0, 4)"]),
        ("a.npy", lambda p: np.save(p, np.array(["a", "b"])), ["<U1"]),
        ("a.npy", lambda p: np.save(p, np.array([[1.0, np.nan]] * 9)), ["NaN", "example 0"]),
        ("a.npy", lambda p: np.save(p, np.array([[1.0, np.inf]] * 9)), ["infinite", "example 0"]),
        ("a.npy", lambda p: np.save(p, np.linspace(-1, 1, 40)[:, None]), ["from -1 to 1", "standardize"]),
        ("a.npy", lambda p: np.save(p, np.linspace(0, 1, 40)[:, None]), ["from 0 to 1", "standardize"]),
        ("a.npy", lambda p: np.save(p, np.full((9, 2), 300)), ["from 300 to 300", "standardize"]),
        ("a.npy", lambda p: np.save(p, noise(2, 4)), ["2 examples", "data.validation"]),
        ("a.npy", lambda p: p.write_bytes(b""), ["a.npy"]),
        ("a.npz", truncated_npz, ["a.npz"]),
        (
            "a.npz",
            lambda p: np.savez(p, one=noise(9, 4), two=noise(9, 4)),
            ["one [9, 4]", "two [9, 4]", "x_train"],
        ),
        ("a.npz", lambda p: np.savez(p, x=noise(9, 4), y=np.arange(8)), ["8 labels, 9 examples"]),
        ("a.npz", lambda p: np.savez(p, train=noise(9, 4), test=noise(9, 5)), ["[(4,), (5,)]"]),
        ("a.parquet", lambda p: p.write_text("not a table"), ["a.parquet"]),
        ("a.pkl", lambda p: p.write_bytes(b"\x80\x04."), ["pickled", "numpy.save"]),
        ("a.txt", lambda p: p.write_text("hello"), ["a.txt", ".npy or .npz"]),
        ("empty", lambda p: p.mkdir(), ["empty", "folder of images"]),
        ("gone.npy", lambda p: None, ["gone.npy", "does not exist"]),
        ("*.parquet", lambda p: None, ["*.parquet"]),
        ("*.txt", lambda p: (p.parent / "b.txt").write_text("hello"), ["*.txt", "Parquet"]),
    ],
)
def test_data_that_cannot_be_read_raise_an_error_with_details(
    tmp_path: Path, name: str, make: Callable[[Path], object], details: list[str]
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert all(detail in str(caught.value) for detail in details)


def test_unreachable_hub_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(DataError, match="someone/something of the hub") as caught:
        load("someone/something")
    assert "no route to host" in str(caught.value) and "much more" not in str(caught.value)
    assert "check the path" in str(caught.value)


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch, parquet: Callable[..., Path]) -> None:
    """What the hub's client returns is read like local Parquet; its settings are restored."""
    import huggingface_hub

    path = parquet("train.parquet", noise(20, 4, 4), [i % 2 for i in range(20)])
    table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    dataset_dict = datasets.DatasetDict({"train": table, "valid": table.select(range(5)), "extra": table})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: dataset_dict)
    bars = datasets.are_progress_bars_disabled()
    data = load("someone/something")
    assert [len(split) for split in data.splits] == [18, 5, 2] and data.name == "someone/something"
    assert datasets.are_progress_bars_disabled() == bars


def test_misspelled_source_suggests_the_nearest_name(tmp_path: Path) -> None:
    np.save(tmp_path / "faces.npy", noise(9, 4))
    with pytest.raises(DataError, match=r"did you mean 'faces.npy'"):
        load(tmp_path / "face.npy")
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load("digit")
