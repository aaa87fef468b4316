"""Number formatting: significant digits follow the error."""

from __future__ import annotations

import math

import pytest

from advae.formatting import as_interval, common_items, format_interval, format_with_error, join_items


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (-84.1234, 0.213, "−84.12 ± 0.21"),
        (12345.6, 21.3, "12,346 ± 21"),
        (0.5, 0.0, "0.5"),
        (0.5, math.nan, "0.5"),
        (math.nan, 0.1, "not finite"),
        (math.inf, None, "not finite"),
        (None, 0.1, "—"),
        ("text", None, "—"),
        (1e-9, 1e-9, "0.000000 ± 0.000000"),  # at most six decimals
    ],
)
def test_values_have_the_decimals_of_their_error(value: object, stderr: object, text: str) -> None:
    assert format_with_error(value, stderr) == text


def test_without_an_error_the_interval_sets_the_decimals() -> None:
    assert format_with_error(1.0, None, [0.8, 1.2]) == "1.00"
    assert format_with_error(1.0, 0.1, [0.0, 100.0]) == "1.00 ± 0.10"


@pytest.mark.parametrize("interval", [None, [1.0], [0.0, math.inf], [None, 1.0], "ab"])
def test_incomplete_intervals_are_none(interval: object) -> None:
    assert as_interval(interval) is None
    assert format_interval(interval) == ""


def test_common_items_and_long_settings() -> None:
    assert common_items([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}]) == {"a": "1"}
    assert common_items([]) == {}
    assert len(join_items({"a": "x" * 500})) < 100
