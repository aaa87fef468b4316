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
    from advae.data.in_memory import from_arrays
    from advae.data.loader import BatchLoader
    from advae.data.loading import load_data, load_part
    from advae.data.observations import as_observations
    from advae.data.preprocessing import make_preprocessing, preprocessing_from_dict

__all__ = [
    "BatchLoader",
    "DataOptions",
    "Dataset",
    "Preprocessing",
    "Split",
    "as_observations",
    "check_compatibility",
    "from_arrays",
    "load_data",
    "load_part",
    "make_preprocessing",
    "preprocessing_from_dict",
]

_MODULES = {  # imported on first use, so that the options alone do not import torch
    "compatibility": ("check_compatibility",),
    "data_options": ("DataOptions",),
    "dataset": ("Dataset", "Preprocessing", "Split"),
    "in_memory": ("from_arrays",),
    "loader": ("BatchLoader",),
    "loading": ("load_data", "load_part"),
    "observations": ("as_observations",),
    "preprocessing": ("make_preprocessing", "preprocessing_from_dict"),
}


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
