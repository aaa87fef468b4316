"""Small data of every kind, made in a temporary folder; the cache of ``datasets`` goes there too."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def png(pixels: Pixels) -> bytes:
    """The bytes of a PNG with these pixels, [H, W] or [H, W, 3]."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave nothing in the home of whoever runs the tests."""
    import datasets

    folder = tmp_path_factory.getbasetemp() / "datasets-cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes images [N, H, W] or [N, H, W, 3] as Parquet in the Hugging Face layout."""

    def write(name: str, pixels: Pixels, labels: list[int] | list[str] | None = None) -> Path:
        cells = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
        columns: dict[str, object] = {"image": cells}
        if labels is not None:
            columns["label"] = labels
        path = tmp_path / "table" / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images as PNG files, by their path in the folder."""

    def write(files: dict[str, Pixels]) -> Path:
        for name, pixels in files.items():
            path = tmp_path / "folder" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(pixels))
        return tmp_path / "folder"

    return write
