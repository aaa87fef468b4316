"""Tables of numbers: separators, headers, labels, missing values; columns keep their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from advae.data import DataOptions, Dataset, load_data, load_part
from advae.data.readers.table import read_csv
from advae.errors import ConfigError, DataError

VALUES = np.random.default_rng(0).normal(100, 30, (40, 3)).round(3)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes text or bytes, or a data frame, to a file."""

    def write(content: str | bytes | pd.DataFrame, name: str = "a.csv", **options: Any) -> Path:
        path = tmp_path / "table" / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, pd.DataFrame):
            (content.to_parquet if path.suffix == ".parquet" else content.to_csv)(
                path, index=False, **options
            )
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(VALUES, columns=["a", "b", "c"]).assign(**columns)


def load(source: Path, **options: Any) -> Dataset:
    return load_data(DataOptions(source=str(source), **({"preprocessing": "auto"} | options)))


def stored(data: Dataset) -> np.ndarray[Any, Any]:
    """All stored examples of the three splits, sorted by the first column."""
    values = torch.cat([chunk for split in data.splits for chunk in split.chunks()]).numpy()
    return np.asarray(values[np.argsort(values[:, 0])])


def holds_values(data: Dataset) -> bool:
    return np.array_equal(stored(data), VALUES[np.argsort(VALUES[:, 0])].astype(np.float32))


# --- text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.csv", {}),
        ("a.CSV", {"sep": ";"}),
        ("a.csv", {"sep": ";", "decimal": ","}),
        ("a.tsv", {"sep": "\t"}),
        ("a.csv", {"sep": "\t", "decimal": ","}),
        ("a.csv", {"quoting": 1}),
        ("a.csv", {"lineterminator": "\r\n"}),
        ("a.csv", {"encoding": "utf-8-sig"}),
        ("a.csv", {"encoding": "utf-16"}),
        ("a.parquet", None),
    ],
)
@pytest.mark.parametrize("header", [True, False])
def test_separators_and_encodings(write: Write, name: str, options: Any, header: bool) -> None:
    data = load(write(frame(), name, **({} if options is None else {**options, "header": header})))
    assert holds_values(data) and data.preprocessing.name == "standardize"
    names = ("a", "b", "c") if header or options is None else ("x1", "x2", "x3")
    assert data.column_names == names and data.describe()["columns"] == list(names)


@pytest.mark.parametrize(
    ("first_line", "names"),
    [
        ("0,1,2", ("0", "1", "2")),
        ("id,2019,2020", ("2019", "2020")),
        ('"a, x", b ,"c ""q"""', ("a, x", "b", 'c "q"')),
        ("# a, b, c", ("a", "b", "c")),
    ],
)
def test_names_in_the_first_row(write: Write, first_line: str, names: tuple[str, ...]) -> None:
    rows = (f"{i},{a},{b}" for i, (a, b, _) in enumerate(VALUES))
    assert load(write("\n".join([first_line, *rows]))).column_names == names


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n \n\n",
        "a,b\n",
        "a,b\n1,2\n3\n",
        "a,b\n1,2\n3,4,5\n",
        "a,b,a\n1,2,3\n4,5,6\n",
        'a,b\n1,"2\n3,4\n',
        "a,b\n1,\0\n",
        "a,é\n1,2\n".encode("latin-1"),
        "a,b\n1,2\n".encode("utf-16-le"),
        b"\xff\xfea",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "city,name\nRome,u\nOslo,v\n",
        f'a\n"{"x" * 200_000}\n',
    ],
)
def test_other_files_are_refused(write: Write, content: str | bytes) -> None:
    with pytest.raises(DataError):
        load(write(content))


def test_types_are_those_of_the_whole_column(write: Write) -> None:
    rows = [f"{i},{i % 7}" for i in range(200_000)]
    assert load(write("\n".join(["a,b", *rows, "0.5,0.25"]))).train.dtype == torch.float32


def test_rows_of_any_length(write: Write) -> None:
    assert len(read_csv(write(f"a,note\n1,{'x' * 2**21}\n2,y\n"))) == 2


def test_large_offsets_keep_their_precision(write: Write) -> None:
    time = 1.7e9 + 0.25 * np.arange(40)
    data = load(write(frame(a=time)))
    assert data.train.dtype == torch.float64 and np.array_equal(stored(data)[:, 0], time)


# --- columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "option", "label"),
    [
        ({"species": np.arange(40) % 3}, None, "species"),
        ({"Target": np.arange(40) % 2 == 0}, None, "Target"),
        ({"target": VALUES[:, 0]}, None, None),
        ({"kind": ["u", "v"] * 20}, None, "kind"),
        ({"kind": ["u", "v"] * 20}, "kind", "kind"),
        ({"kind": np.arange(40) % 3}, "kind", "kind"),
        ({"kind": np.arange(40) % 3}, None, None),
        ({"class": np.arange(40) % 3}, "none", None),
        ({"class": np.arange(40) % 3, "kind": np.arange(40) % 4}, "kind", "kind"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_label(write: Write, name: str, columns: Any, option: str | None, label: str | None) -> None:
    data = load(write(frame(**columns), name), label=option)
    features = ("a", "b", "c", *(key for key in columns if key != label))
    assert data.column_names == features and data.reading.get("label_column") == label
    assert any(str(label) in remark for remark in data.remarks) == (label is not None)
    assert data.classes == (len(set(columns[label])) if label else None)


def test_labels_belong_to_their_rows(write: Write) -> None:
    data = load(write(frame(kind=np.where(VALUES[:, 0] > 100, "high", "low"))))
    assert data.class_names == ("high", "low") and data.test.labels is not None
    assert torch.equal(data.test.labels, (data.test.raw(range(4))[:, 0] < 100).long())


def test_row_numbers_and_empty_columns_are_left_out(write: Write) -> None:
    table = frame(id=np.random.default_rng(0).permutation(40), notes=None)
    data = load(write(table.set_index(pd.RangeIndex(40)).reset_index(), "a.csv"))
    assert holds_values(data) and data.column_names == ("a", "b", "c")
    assert all(any(name in remark for remark in data.remarks) for name in ("index", "id", "notes"))
    assert load(write(frame(id=np.arange(40) // 2))).column_names == ("a", "b", "c", "id")  # repeated: a fact


def test_booleans_and_constants(write: Write) -> None:
    data = load(write(frame(flag=VALUES[:, 0] > 100, k=7)))
    assert data.column_names == ("a", "b", "c", "flag", "k") and any("k" in text for text in data.remarks)
    assert set(stored(data)[:, 3].tolist()) == {0, 1}
    assert (data.preprocessing.apply(data.test.raw(range(4)))[:, 4] == 0).all()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_text_and_dates_are_refused_by_name(write: Write, name: str) -> None:
    days = pd.date_range("2020-01-01", periods=40)
    with pytest.raises(DataError, match=r"city.*street.*day"):
        load(write(frame(city=["u", "v"] * 20, street=["w"] * 40, day=days), name))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_missing_values_are_counted_or_dropped(write: Write, name: str) -> None:
    table = frame(label=["u", None] * 20)
    table.loc[[1, 2], "a"], table.loc[2, "b"], table.loc[5, "b"] = np.nan, np.nan, np.inf
    source = write(table, name, **({"na_rep": "?"} if name == "a.csv" else {}))
    with pytest.raises(DataError, match=r"3 of 40 rows.*a 2, b 2"):
        load(source)
    data = load(source, missing="drop")
    assert len(stored(data)) == 37 and any("3 of 40" in remark for remark in data.remarks)
    assert data.classes == 1  # a missing label is unknown
    with pytest.raises(ConfigError):
        load(source, missing="fill")


def test_unknown_label_and_options_of_other_formats(write: Write, tmp_path: Path) -> None:
    source = write(frame(species=["u", "v"] * 20))
    with pytest.raises(DataError, match="species"):
        load(source, label="specis")
    with pytest.raises(DataError, match=r"data\.layout"):
        load(source, layout="NHW")
    np.save(tmp_path / "a.npy", VALUES)
    with pytest.raises(DataError, match=r"data\.label"):
        load(tmp_path / "a.npy", label="a")


def test_dequantize_names_the_fix(write: Write) -> None:
    with pytest.raises(DataError, match="standardize"):
        load(write(frame()), preprocessing="dequantize")


# --- several files, new data --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_named_after_splits(write: Write, suffix: str) -> None:
    write(frame(target=np.arange(40) % 3), f"train{suffix}")
    folder = write(frame()[["c", "a", "b"]][:7], f"test{suffix}").parent
    data = load(folder)
    assert [len(split) for split in data.splits] == [36, 4, 7] and data.test.labels is None
    assert np.array_equal(data.test.raw(range(7)).numpy(), VALUES[:7].astype(np.float32))
    write(frame()[["a", "b"]], f"test{suffix}")
    with pytest.raises(DataError, match="c"):
        load(folder)


def test_files_of_one_split_are_joined(write: Write) -> None:
    write(frame()[:20], "one.csv")
    folder = write(frame()[["c", "a", "b"]][20:], "two.csv").parent
    assert holds_values(load(folder)) and holds_values(load(folder / "*.csv"))
    write(frame(d=1), "three.csv")
    with pytest.raises(DataError, match="different columns"):
        load(folder)


def test_new_data_are_matched_by_name(write: Write) -> None:
    data = load(write(frame(target=np.arange(40) % 3)))
    shuffled = frame(city="u", street="v", label=["u", "v"] * 20)[["city", "c", "label", "b", "street", "a"]]
    new = DataOptions(source=str(write(shuffled, "new.csv")))
    _, split, _ = load_part(new, data.preprocessing, columns=data.column_names)
    assert (
        np.array_equal(split.raw(range(40)).numpy(), VALUES.astype(np.float32)) and split.labels is not None
    )
    for broken in (shuffled.drop(columns="b"), shuffled.assign(b=[None, *VALUES[1:, 1]])):
        write(broken, "new.csv")
        with pytest.raises(DataError, match="b"):
            load_part(new, data.preprocessing, columns=data.column_names)
