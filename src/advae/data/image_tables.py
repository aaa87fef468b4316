"""Tables of encoded images and labels, or of numbers, opened by ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from advae.data.data_options import DataOptions
from advae.data.images import image_examples
from advae.data.readers.base import DataSource
from advae.data.sources import list_some
from advae.data.table_columns import NO_LABEL
from advae.errors import DataError, nearest

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label", "class")


def open_tables(name: str, tables: Mapping[str, datasets.Dataset], options: DataOptions) -> DataSource:
    """Return the images and labels of tables by split, or their numbers; empty tables other than train are ignored.

    Raises:
        DataError: if no image can be read, or the label column does not exist.
    """
    import datasets

    features = tables["train"].features
    tables = {split: table for split, table in tables.items() if len(table) or split == "train"}
    image = _image_column(features)
    if image is None:
        numbers = {split: _with_class_names(table) for split, table in tables.items()}
        return DataSource(name, {}, ordered=True, tables=numbers)
    label = _label_column(features, options.label)
    images = {}
    for split, table in tables.items():
        if image not in table.column_names:
            raise DataError(f"The {split} split has no column {image}.", given=", ".join(table.column_names))
        column = table.select_columns([image])
        dtype = str(getattr(column.features[image], "dtype", ""))
        if "binary" in dtype and dtype not in ("binary", "large_binary"):
            column = column.cast_column(image, datasets.Value("binary"))  # binary_view, fixed_size_binary[n]
        column = column.cast_column(image, datasets.Image(decode=False))
        images[split] = column if image == "image" else column.rename_column(image, "image")
    examples = image_examples(name, images, options)
    labels = {split: list(table[label]) for split, table in tables.items() if label in table.column_names}
    class_names = tuple(getattr(features.get(label), "names", None) or ()) or None
    reading = {"image_column": image} | ({"label_column": label} if label else {})
    return DataSource(name, examples, labels, ordered=True, class_names=class_names, reading=reading)


@contextmanager
def quiet_datasets(message: str, fix: str | None = None) -> Iterator[None]:
    """Silence ``datasets``, and turn what it and the hub's client raise into one DataError.

    Its progress bars and log level are restored. The error has the first line of the original one.
    """
    import datasets

    progress_bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # logged errors are part of the DataError
    try:
        yield
    except Exception as error:  # HTTP, Arrow and file errors have no common class
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(message, given=lines[0], fix=fix) from error
    finally:
        datasets.logging.set_verbosity(level)
        if progress_bars:
            datasets.enable_progress_bars()


def _with_class_names(table: datasets.Dataset) -> pa.Table:
    """Return a table as of pyarrow, with the names of classes in place of their numbers."""
    import pyarrow as pa

    arrow = table.with_format("arrow")[:]
    for name, feature in table.features.items():
        if names := getattr(feature, "names", None):
            ids = arrow[name].to_pylist()
            classes = [names[i] if i is not None and i >= 0 else None for i in ids]
            arrow = arrow.set_column(arrow.column_names.index(name), name, pa.array(classes, pa.string()))
    return arrow


def _image_column(features: Mapping[str, Any]) -> str | None:
    """Return the name of the column with encoded images; None if there is none."""
    import datasets

    def holds_images(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return (
            encoded or isinstance(feature, datasets.Image) or "binary" in str(getattr(feature, "dtype", ""))
        )

    columns = [name for name, feature in features.items() if holds_images(feature)]
    first = columns[0] if columns else None
    return next((name for name in IMAGE_COLUMNS if name in columns), first)


def _label_column(features: Mapping[str, Any], label: str | None = None) -> str | None:
    """Return the given column, else the first with a usual name that holds single values or the first of classes."""
    import datasets

    if label is not None and label not in (*features, NO_LABEL):
        expected, fix = f"{list_some(features, 10)}, or none", nearest(label, features)
        raise DataError("The table has no such column (data.label).", given=label, expected=expected, fix=fix)
    if label is not None:
        return None if label == NO_LABEL else label
    for name in LABEL_COLUMNS:
        if isinstance(features.get(name), datasets.ClassLabel | datasets.Value):
            return name
    return next((name for name, feature in features.items() if getattr(feature, "names", None)), None)
