"""Sources that are tables of encoded images: Parquet, a folder of images, the hub, all through ``datasets``.

Each is opened as tables with one column ``image`` of encoded bytes or paths, not decoded, and its labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.data.dataset import split_of
from advae.errors import DataError

if TYPE_CHECKING:
    import datasets

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label", "class")
PARQUET_MAGIC = b"PAR1"  # the first and the last four bytes of every Parquet file
HUB_REMEDY = (
    "for local data, check the path: there is no file or folder of this name here; for the hub, check the "
    "name and the network, or set HF_HUB_OFFLINE=1 to use what was fetched before"
)
HUB_PATIENCE = 10.0  # seconds for the hub to say whether it knows a data set


@dataclass(frozen=True)
class Tables:
    """Encoded images of each part (column ``image``), with their labels as they come."""

    images: dict[str, datasets.Dataset]
    labels: Mapping[str, Sequence[Any]]
    ordered: bool
    class_names: tuple[str, ...] | None = None


def open_parquet(parts: Mapping[str, Sequence[Path]]) -> Tables:
    """Open local Parquet files in the Hugging Face layout, by split.

    Raises:
        DataError: not Parquet, or no column of images.
    """
    import datasets

    for file in (file for files in parts.values() for file in files):
        _check_parquet(file)
    paths = {part: [str(file.resolve()) for file in files] for part, files in parts.items()}
    with _quiet(), _explained(f"the Parquet files beside {parts['train'][0]}"):
        found = datasets.load_dataset("parquet", data_files=paths)
    return _tables({str(part): table for part, table in found.items()})


def open_hub(name: str) -> Tables:
    """Open a data set of the Hugging Face hub, from its cache where it is there.

    Raises:
        DataError: the hub does not know it or cannot be reached, or it holds no images or no train split.
    """
    import datasets

    with _quiet(), _explained(f"the data set {name} of the hub", HUB_REMEDY):
        if not datasets.config.HF_HUB_OFFLINE:
            _ask_hub(name)
        found = datasets.load_dataset(name)
    named: dict[str, datasets.Dataset] = {}
    for key, table in found.items():
        named.setdefault(split_of(str(key)) or "", table)
    named.pop("", None)
    if "train" not in named:
        raise DataError("this data set has no train split", given=f"{name}: {', '.join(found)}")
    return _tables(named)


def open_folder(parts: Mapping[str, Sequence[Path]], classes: Mapping[str, Sequence[str]]) -> Tables:
    """Open image files by split, each with the name of its class if any."""
    import datasets

    images = {
        part: datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(file)} for file in files]})
        for part, files in parts.items()
    }
    return Tables(images, dict(classes), ordered=False)


def _check_parquet(file: Path) -> None:
    with file.open("rb") as handle:
        head = handle.read(4)
        handle.seek(max(0, file.stat().st_size - 4))
        whole = head == handle.read(4) == PARQUET_MAGIC
    if not whole:
        raise DataError(
            "this is no Parquet file, or it was cut short", given=file, fix="fetch or write it again"
        )


def _tables(found: Mapping[str, datasets.Dataset]) -> Tables:
    """Bring the columns of opened tables to one form; an empty part is as good as none."""
    import datasets

    features = found["train"].features
    image, label = _image_column(features), _label_column(features)
    kept = {part: table for part, table in found.items() if len(table) or part == "train"}
    images = {}
    for part, table in kept.items():
        alone = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        images[part] = alone if image == "image" else alone.rename_column(image, "image")
    if label is None:
        return Tables(images, {}, ordered=True)
    values = {part: list(table[label]) for part, table in kept.items() if label in table.column_names}
    known = {part: labels for part, labels in values.items() if None not in labels}
    return Tables(images, known, ordered=True, class_names=_names(features[label]))


def _names(feature: Any) -> tuple[str, ...] | None:
    names = getattr(feature, "names", None)
    return tuple(names) if names else None


def _image_column(features: Mapping[str, Any]) -> str:
    """The column that holds encoded images.

    Raises:
        DataError: there is none.
    """
    import datasets

    def holds_images(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return encoded or isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") == "binary"

    found = [name for name, feature in features.items() if holds_images(feature)]
    if not found:
        raise DataError(
            "no column of this table holds images",
            given=", ".join(features),
            expected="a column image: {bytes, path}, with encoded images",
            fix="save plain numbers as a .npy or .npz file instead",
        )
    return next((name for name in IMAGE_COLUMNS if name in found), found[0])


def _label_column(features: Mapping[str, Any]) -> str | None:
    """The usual names first, then any column of classes."""
    classes = [name for name, feature in features.items() if getattr(feature, "names", None)]
    usual = [
        n
        for n in LABEL_COLUMNS
        if n in features and "float" not in str(getattr(features[n], "dtype", "float"))
    ]
    return next(iter(usual + classes), None)


def _ask_hub(name: str) -> None:
    """Ask once whether the hub knows the data set: its own client would try for half a minute."""
    from huggingface_hub import HfApi

    HfApi().dataset_info(name, timeout=HUB_PATIENCE)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or log lines of ``datasets`` meanwhile; its settings are put back."""
    import datasets

    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs as an error is in ours
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _explained(what: str, fix: str | None = None) -> Iterator[None]:
    """Turn whatever ``datasets`` and the hub's client raise into one DataError with its first line."""
    try:
        yield
    except Exception as error:  # their errors share no class: of HTTP, Arrow, files, and their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"cannot read {what}", given=lines[0], fix=fix) from error
