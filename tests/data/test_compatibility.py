"""Incompatible data, likelihood or batch size are an error that names the option to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advae.data import DataOptions, Dataset, Split, check_compatibility, load_data
from advae.errors import ConfigError, DataError


def digits(preprocessing: str) -> Dataset:
    return load_data(DataOptions(preprocessing=preprocessing))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("preprocessing", "fits"),
    [
        ("binarize-dynamic", {"binary", "unit", "real"}),
        ("binarize-static", {"binary", "unit", "real"}),
        ("gray", {"binary", "unit", "real"}),
        ("dequantize", {"8-bit", "real"}),
        ("standardize", {"real"}),
    ],
)
def test_likelihood_accepts_the_support_of_preprocessing(preprocessing: str, fits: set[str]) -> None:
    data = digits(preprocessing)
    for support in ("binary", "unit", "8-bit", "real"):
        if support in fits:
            check_compatibility(data, support, 128)
        else:
            with pytest.raises(DataError, match=f"data.preprocessing {preprocessing}"):
                check_compatibility(data, support, 128)


def test_unknown_support() -> None:
    with pytest.raises(ConfigError, match="did you mean 'binary'"):
        check_compatibility(digits("gray"), "binry", 128)


def test_batch_size() -> None:
    data = digits("gray")
    check_compatibility(data, "unit", 1455)
    with pytest.raises(DataError, match=r"set train.batch_size to 1455 or less"):
        check_compatibility(data, "unit", 1456)
    with pytest.raises(ConfigError):
        check_compatibility(data, "unit", 0)


def test_non_finite_values_of_any_split_are_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    data = load_data(DataOptions(source=str(tmp_path / "a.npy"), preprocessing="standardize"))
    check_compatibility(data, "real", 8)
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        assert split.values is not None
        values = split.values.clone()
        values[-1, -1] = torch.nan
        broken: dict[str, Any] = {name: Split(name, values)}
        with pytest.raises(DataError, match=name):
            check_compatibility(replace(data, **broken), "real", 8)


def test_empty_split_and_different_shapes_are_errors() -> None:
    data = digits("gray")
    with pytest.raises(DataError, match="no test example"):
        check_compatibility(
            replace(data, test=Split("test", torch.zeros(0, 1, 8, 8, dtype=torch.uint8))), "unit", 8
        )
    with pytest.raises(DataError, match="test: "):
        check_compatibility(
            replace(data, test=Split("test", torch.zeros(9, 1, 8, 7, dtype=torch.uint8))), "unit", 8
        )


def test_values_out_of_the_range_of_the_preprocessing() -> None:
    data = digits("gray")
    with pytest.raises(DataError, match="from 2 to 2"):
        check_compatibility(replace(data, train=Split("train", torch.full((9, 1, 8, 8), 510.0))), "unit", 8)
    not_binarized = replace(digits("binarize-static"), train=data.train)  # gray levels instead of 0 and 255
    with pytest.raises(DataError, match=r"data\.preprocessing binarize-static"):
        check_compatibility(not_binarized, "binary", 8)


def test_check_does_not_advance_the_random_state() -> None:
    data = digits("dequantize")
    before = torch.get_rng_state()
    check_compatibility(data, "8-bit", 128)
    assert torch.equal(torch.get_rng_state(), before)
