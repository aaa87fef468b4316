"""Labels become class ids, or are left out with a remark; missing labels stay missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from advae.data.labels import ClassLabels, class_labels
from advae.errors import DataError


def ids_of(train: Any, **options: Any) -> tuple[list[int], ClassLabels]:
    """Class ids of one labeled part, and the whole result."""
    result = class_labels({"train": train}, {"train": len(train)}, **options)
    return (result.ids["train"].tolist() if "train" in result.ids else []), result


@pytest.mark.parametrize(
    ("labels", "ids", "classes"),
    [
        ([0, 2, 1, 2], [0, 2, 1, 2], 3),
        ([1, 2, 3, 3], [1, 2, 3, 3], 4),  # at least half of 0..3 occur: numbers are kept
        ([0.0, 1.0, np.nan], [0, 1, -1], 2),
        ([True, False, True], [1, 0, 1], 2),
        ([0, 1, -1], [0, 1, -1], 2),
        ([0, None, 1], [0, -1, 1], 2),
        ([-1, 1, 1, -1], [0, 1, 1, 0], 2),
        ([-2, -1, 0, 1], [0, 1, 2, 3], 4),
        ([3_000_000, 1_000_000, -1], [1, 0, -1], 2),
        (np.array([2**63 + 5, 7, 7], np.uint64), [1, 0, 0], 2),
        (["b", "a", None, ""], [1, 0, -1, -1], 2),
        (np.array([b"b\xff", b"a"]), [1, 0], 2),
        ([[0], [1], [1]], [0, 1, 1], 2),
        (np.eye(3)[[2, 0, 1]], [2, 0, 1], 3),
        (np.eye(3, dtype=bool)[[2, 2, 1]], [2, 2, 1], 3),
    ],
)
def test_labels_as_class_ids(labels: Any, ids: list[int], classes: int) -> None:
    found, result = ids_of(labels)
    assert found == ids and result.classes == classes


def test_numbers_that_are_ids_become_few_classes_with_their_names() -> None:
    ids, result = ids_of([1_000_000, 3_000_000, 1_000_000, 2_000_000])
    assert ids == [0, 2, 0, 1] and result.classes == 3
    assert result.names == ("1000000", "2000000", "3000000") and len(result.remarks) == 1
    assert ids_of([7, 99, 99], renumber=False)[0] == [7, 99, 99]
    assert ids_of([7, 99, 99], names=("some",) * 100)[0] == [7, 99, 99]


@pytest.mark.parametrize(
    "labels",
    [
        np.linspace(0, 1, 30),  # a regression target
        [0.5, np.inf, 1],
        np.random.default_rng(0).integers(0, 2, (30, 4)),  # several classes per example
        np.full((30, 3), 1 / 3),
        np.arange(30),  # one value per example
        [f"file-{i}" for i in range(30)],
        np.zeros(30, "datetime64[s]"),
        np.zeros(30, complex),
    ],
)
def test_labels_that_are_not_classes_are_left_out_with_a_remark(labels: Any) -> None:
    ids, result = ids_of(labels)
    assert ids == [] and result.classes is None and len(result.remarks) == 1


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], ["", ""], [np.nan, np.nan], []])
def test_parts_without_known_labels_are_omitted(labels: Any) -> None:
    assert ids_of(labels)[1] == ClassLabels({})


def test_classes_are_those_of_all_parts() -> None:
    lengths = {"train": 3, "validation": 0, "test": 2}
    result = class_labels({"train": ["a", "c", "c"], "validation": [], "test": ["b", None]}, lengths)
    assert {part: ids.tolist() for part, ids in result.ids.items()} == {"train": [0, 2, 2], "test": [1, -1]}
    with pytest.raises(DataError, match="2 labels, 3 examples"):
        class_labels({"train": [1, 2]}, lengths)
