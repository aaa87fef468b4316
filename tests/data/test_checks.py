"""Data that do not fit the likelihood are refused before step 1, with the option to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advae.data import DataOptions, Dataset, Split, check, load_data
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
def test_protocol_against_likelihood(preprocessing: str, fits: set[str]) -> None:
    data = digits(preprocessing)
    for support in ("binary", "unit", "8-bit", "real"):
        if support in fits:
            check(data, support, 128)
        else:
            with pytest.raises(DataError, match=f"data.preprocessing {preprocessing}(.*\n)*.*set data.preprocessing to"):
                check(data, support, 128)


def test_unknown_support() -> None:
    with pytest.raises(ConfigError, match="did you mean 'binary'"):
        check(digits("gray"), "binry", 128)


def test_batch_size() -> None:
    data = digits("gray")
    check(data, "unit", 1455)
    with pytest.raises(DataError, match=r"set train.batch_size to 1455 or less"):
        check(data, "unit", 1456)
    with pytest.raises(ConfigError):
        check(data, "unit", 0)


def test_values_that_are_not_finite_are_found_in_any_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 3)))
    data = load_data(DataOptions(source=str(tmp_path / "a.npy"), preprocessing="standardize"))
    check(data, "real", 8)
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        assert split.values is not None
        values = split.values.clone()
        values[-1, -1] = torch.nan
        broken: dict[str, Any] = {name: Split(name, values)}
        with pytest.raises(DataError, match=f"NaN(.*\n)*.*{name}"):
            check(replace(data, **broken), "real", 8)


def test_empty_and_odd_splits() -> None:
    data = digits("gray")
    with pytest.raises(DataError, match="empty"):
        check(replace(data, test=Split("test", torch.zeros(0, 1, 8, 8, dtype=torch.uint8))), "unit", 8)
    with pytest.raises(DataError, match="different shapes"):
        check(replace(data, test=Split("test", torch.zeros(9, 1, 8, 7, dtype=torch.uint8))), "unit", 8)


def test_values_out_of_the_range_of_the_protocol() -> None:
    data = digits("gray")
    with pytest.raises(DataError, match=r"leave the range(.*\n)*.*from 2 to 2"):
        check(replace(data, train=Split("train", torch.full((9, 1, 8, 8), 510.0))), "unit", 8)
    undrawn = replace(digits("binarize-static"), train=data.train)  # gray values where 0 and 255 are due
    with pytest.raises(DataError, match="leave the range"):
        check(undrawn, "binary", 8)


def test_check_moves_no_random_state() -> None:
    data = digits("dequantize")
    before = torch.get_rng_state()
    check(data, "8-bit", 128)
    assert torch.equal(torch.get_rng_state(), before)
