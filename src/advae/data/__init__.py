"""Data sources, splits, preprocessing and batches.

>>> from advae.data import DataOptions, load_data
>>> data = load_data(DataOptions(source="digits"))
>>> data.x_shape, len(data.train), len(data.validation), len(data.test)
((1, 8, 8), 1455, 162, 180)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advae.data.compatibility import check_compatibility
    from advae.data.data_options import DataOptions
    from advae.data.dataset import Dataset, Preprocessing, Split
    from advae.data.loader import BatchLoader
    from advae.data.loading import load_data, load_part
    from advae.data.preprocessing import make_preprocessing, preprocessing_from_dict

__all__ = [
    "BatchLoader",
    "DataOptions",
    "Dataset",
    "Preprocessing",
    "Split",
    "check_compatibility",
    "load_data",
    "load_part",
    "make_preprocessing",
    "preprocessing_from_dict",
]

_MODULES = {  # imported on first use, so that the options alone do not import torch
    "BatchLoader": "loader",
    "DataOptions": "data_options",
    "Dataset": "dataset",
    "Preprocessing": "dataset",
    "Split": "dataset",
    "check_compatibility": "compatibility",
    "load_data": "loading",
    "load_part": "loading",
    "make_preprocessing": "preprocessing",
    "preprocessing_from_dict": "preprocessing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
