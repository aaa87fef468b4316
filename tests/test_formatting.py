"""Number formatting: significant digits follow the error."""

from __future__ import annotations

import math

import pytest

from advae.formatting import (
    Column,
    Table,
    TableCell,
    TableNote,
    TableRow,
    TableSection,
    as_interval,
    common_items,
    format_interval,
    format_with_error,
    join_items,
    markdown_table,
)


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


def test_markdown_tables_have_notes_styles_and_no_markup_of_texts() -> None:
    rows = [
        TableRow("p(x|z)", (TableCell("1.0", "best"), TableCell("2.0", note="of <b>x</b>")), marks="a"),
        TableRow("PCA", (TableCell("3.0"), TableCell("")), baseline=True),
    ]
    columns = [Column("metric"), Column("value", numeric=True), Column("more")]
    table = Table(columns, [TableSection("", "", rows, [TableNote("a", "split test")])])
    assert markdown_table(table, bold_labels=True).splitlines() == [
        "|  | value | more | note |",
        "| --- | ---: | --- | --- |",
        "| **p(x\\|z)** | **1.0** | 2.0<br><sub>of &lt;b>x&lt;/b></sub> | a |",
        "| *PCA* | 3.0 |  |  |",
    ]
    assert (
        markdown_table(Table.from_texts(["", "n"], [["a", "1"]], right=["n"])).splitlines()[1]
        == "| --- | ---: |"
    )
