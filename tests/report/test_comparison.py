"""Run comparison: runs are ranked only where their estimates can be compared, and the reason is given elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advae.report import compare
from advae.report.comparison import Comparison, RunEstimate

Compare = Callable[..., Comparison]


@pytest.fixture
def compare_estimates(fakes: ModuleType) -> Compare:
    """Return a function that compares runs with one estimate each."""

    def compare_them(*estimates: dict[str, Any], checksums: tuple[str, ...] = ()) -> Comparison:
        runs = [
            fakes.FakeRun(Path(f"/runs/{name}"), estimate_dicts=[estimate])
            for name, estimate in zip("abcdef", estimates, strict=False)
        ]
        for run, checksum in zip(runs, checksums, strict=False):
            run.env = {"data": {"checksum": checksum}}
        return compare(runs)

    return compare_them


@pytest.fixture
def elbo(fakes: ModuleType) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a lower bound on log p(x)."""

    def make(value: float, **fields: Any) -> dict[str, Any]:
        estimate = fakes.make_estimate(
            "elbo", value, fields.pop("kind", "lower bound"), "likelihood", **fields
        )
        return dict(estimate | {"higher_is_better": fields.get("higher_is_better", True)})

    return make


def best(comparison: Comparison) -> list[bool]:
    return [bool(estimate and estimate.best) for estimate in comparison.rows[0].estimates]


def test_best_runs_include_those_within_two_standard_errors(
    fakes: ModuleType, compare_estimates: Compare, elbo: Callable[..., Any]
) -> None:
    assert best(compare_estimates(elbo(-84.0), elbo(-85.0))) == [True, False]
    assert best(compare_estimates(elbo(-84.0), elbo(-84.2), elbo(-84.4))) == [True, True, False]
    errors = [fakes.make_estimate("rmse", value) for value in (30.0, 20.0)]
    assert best(compare_estimates(*errors)) == [False, True]
    scores = [fakes.make_estimate("SSIM", value, "score") for value in (1.0, 9.0)]
    assert best(compare_estimates(*scores)) == [False, True]
    assert best(compare_estimates(elbo(float("nan")), elbo(-84.0))) == [False, True]


def test_direction_is_that_of_the_estimate(compare_estimates: Compare, elbo: Callable[..., Any]) -> None:
    bits = {"kind": "upper bound", "unit": "bits/dim", "higher_is_better": False}
    assert best(compare_estimates(elbo(4.0, **bits), elbo(3.0, **bits))) == [False, True]
    unranked = {"higher_is_better": None}
    assert best(compare_estimates(elbo(-84.0, **unranked), elbo(-80.0, **unranked))) == [False, False]


@pytest.mark.parametrize("kind", ["baseline", "diagnostic", "adversarial estimate"])
def test_kinds_that_describe_no_merit_are_not_ranked(
    compare_estimates: Compare, elbo: Callable[..., Any], kind: str
) -> None:
    fields = {"kind": kind, "higher_is_better": True}
    assert best(compare_estimates(elbo(-84.0, **fields), elbo(-80.0, **fields))) == [False, False]


def test_a_single_run_is_not_the_best(compare_estimates: Compare, elbo: Callable[..., Any]) -> None:
    assert best(compare_estimates(elbo(-84.0))) == [False]


def test_on_the_same_images_differences_are_paired(
    fakes: ModuleType, tmp_path: Path, elbo: Callable[..., Any]
) -> None:
    """The images vary by 1 nat, but the difference of the runs is 0.05 ± 0.01. Values of other images, or of an
    earlier evaluation, are not paired."""
    difficulty = torch.randn(100, dtype=torch.float64)
    difficulty = (difficulty - difficulty.mean()) / difficulty.std()
    noise = torch.tensor([0.1, -0.1]).repeat(50).double()

    def best_with(values: Tensor) -> list[bool]:
        runs = [
            fakes.FakeRun(tmp_path / name, estimate_dicts=[elbo(v)])
            for name, v in (("a", -84.0), ("b", -84.05))
        ]
        for run, per_example in zip(runs, (difficulty - 84.0, values), strict=True):
            (run.path / "eval").mkdir(parents=True, exist_ok=True)
            np.savez(run.path / "eval" / "elbo.npz", value=per_example.numpy())
        comparison = compare(runs)
        assert "per_example" not in json.dumps(comparison.to_dict())
        return best(comparison)

    assert best_with(difficulty + noise - 84.05) == [True, False]
    assert best_with(difficulty + 2.6 * noise - 84.05) == [True, True]  # 0.05 ± 0.026
    assert best_with(difficulty + noise - 84.06) == [True, True], "of another evaluation: not its mean"
    assert best_with((difficulty + noise - 84.05)[:50]) == [True, True], "of other images"


def test_intervals_replace_missing_standard_errors(fakes: ModuleType, compare_estimates: Compare) -> None:
    def fid(value: float) -> dict[str, Any]:
        limits = [value - 0.98, value + 0.98]
        return dict(fakes.make_estimate("FID[a]", value, unit="", stderr=None, interval=limits))

    # Half a 95 % interval is 1.96 standard errors, here 0.5 each; the difference ties up to 2 √2 · 0.5 = 1.41.
    assert best(compare_estimates(fid(10.0), fid(11.3))) == [True, True]
    assert best(compare_estimates(fid(10.0), fid(11.5))) == [True, False]
    assert str(compare_estimates(fid(10.0)).rows[0].estimates[0]) == "10.00 [9.02, 10.98]"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({}, {"kind": "adversarial estimate"}, "different kinds"),
        ({"samples": 64}, {"samples": 32}, "samples: 64 | 32"),
        ({"split": "test"}, {"split": "train"}, "split: test | train"),
        ({"n": 100}, {"n": 50}, "n: 100 | 50"),
        ({"samples": 64}, {}, "samples: 64 | none"),
    ],
)
def test_incomparable_estimates_are_not_ranked_and_say_why(
    compare_estimates: Compare,
    elbo: Callable[..., Any],
    one: dict[str, Any],
    other: dict[str, Any],
    reason: str,
) -> None:
    comparison = compare_estimates(elbo(-84.0, **one), elbo(-80.0, **other))
    assert best(comparison) == [False, False]
    assert reason in comparison.rows[0].incomparable
    (section,) = comparison.table().sections
    assert section.rows[0].marks == "≠ a"
    assert [(note.label, note.warning) for note in section.footnotes] == [("a", True)]
    assert not comparison.has_best


def test_bounds_of_different_tightness_are_called_bounds_and_not_ranked(
    fakes: ModuleType, compare_estimates: Compare, elbo: Callable[..., Any]
) -> None:
    def reason(*estimates: dict[str, Any]) -> str:
        comparison = compare_estimates(*estimates)
        assert best(comparison) == [False, False]
        return comparison.rows[0].incomparable

    encoder, normal = elbo(-84.0, proposal="encoder"), elbo(-80.0, proposal="fitted normal")
    assert "bounds on log p(x)" in reason(encoder, normal)
    # With another preprocessing, the bounds are on different quantities.
    other = elbo(-80.0, proposal="fitted normal", preprocessing="binarize-static")
    assert "different protocols" in reason(elbo(-84.0, proposal="encoder", preprocessing="gray"), other)
    errors = fakes.make_estimate("rmse", 3.0, samples=1), fakes.make_estimate("rmse", 2.0, samples=2)
    assert "different protocols" in reason(*errors)


def test_estimates_on_generated_images_are_not_compared(
    compare_estimates: Compare, elbo: Callable[..., Any]
) -> None:
    bounds = [elbo(value, images="made by the model") for value in (-84.0, -80.0)]
    assert "generated" in compare_estimates(*bounds).rows[0].incomparable
    assert compare_estimates(bounds[0]).rows[0].incomparable == ""


def test_other_data_are_another_protocol(compare_estimates: Compare, elbo: Callable[..., Any]) -> None:
    comparison = compare_estimates(elbo(-84.0), elbo(-80.0), checksums=("aa", "bb"))
    assert "data checksum: aa | bb" in comparison.rows[0].incomparable


def test_evaluation_seeds_may_differ(compare_estimates: Compare, elbo: Callable[..., Any]) -> None:
    assert best(compare_estimates(elbo(-84.0, seed=0), elbo(-85.0, seed=1))) == [True, False]


def test_rows_are_grouped_by_section_with_shared_protocols(fakes: ModuleType) -> None:
    def run(name: str, samples: int) -> Any:
        fid = {"unit": "", "metric": "fid", "split": "test", "features": "a"}
        estimates = [
            fakes.make_estimate("FID[a]", 4.0, **fid),
            fakes.make_estimate("rmse", 4.0, section="reconstruction", split="test"),
            fakes.make_estimate("FID[a] of test data", 1.0, "baseline", **fid),
            fakes.make_estimate("elbo", -84.0, "lower bound", "likelihood", split="test", samples=samples),
        ]
        return fakes.FakeRun(Path(f"/runs/{name}"), estimate_dicts=estimates)

    table = compare([run("note", 16), run("kind", 64)]).table()  # runs may be named like columns
    assert [column.title for column in table.columns] == ["metric", "note", "kind", "unit", "kind"]
    assert [section.title for section in table.sections] == ["Likelihood", "Reconstruction", "Samples"]
    assert [row.label for row in table.sections[2].rows] == ["FID[a]", "FID[a] of test data"]
    assert table.protocol == "split test"
    assert [section.protocol for section in table.sections] == ["", "", "features a"]
    assert table.sections[0].rows[0].marks == "≠ a"


def test_a_run_without_a_valid_evaluation_is_named_with_the_reason(
    fakes: ModuleType, elbo: Callable[..., Any]
) -> None:
    remark = fakes.make_remark("evaluation", "Evaluate again.", True)
    runs = [
        fakes.FakeRun(Path("/runs/a"), estimate_dicts=[elbo(-84.0)]),
        fakes.FakeRun(Path("/runs/b"), remark_dicts=[remark]),
    ]
    comparison = compare(runs)
    assert comparison.unevaluated == {"b": "Evaluate again."}
    assert [str(note) for note in comparison.table().sections[-1].notes] == ["b: Evaluate again."]


def test_runs_are_named_by_their_folders_with_parents_where_needed(fakes: ModuleType) -> None:
    runs = [fakes.FakeRun(Path(path)) for path in ("/x/same", "/y/same")]
    assert compare(runs).runs == ["x/same", "y/same"]


def test_values_without_an_error_have_none() -> None:
    assert RunEstimate(1.0, None, "error", 10, {}).error == 0
    assert RunEstimate(1.0, 0.25, "error", 10, {}, (0.0, 10.0)).error == 0.25


def test_differences_are_method_training_parameters_and_options_that_differ(fakes: ModuleType) -> None:
    configs = [
        {
            "method": {"name": "vae", "beta": 1.0},
            "train": {"lr": 1e-3, "steps": 50},
            "seed": 0,
            "out": "runs/a",
        },
        {"method": {"name": "avb"}, "train": {"lr": 2e-3, "steps": 50}, "seed": 0, "out": "runs/b"},
    ]
    for name, config in zip("ab", configs, strict=True):
        config |= {"description": f"a long sentence on {name}", "published": f"table {name}"}
    runs = [
        fakes.FakeRun(Path(f"/runs/{name}"), config=config, metric_lines=[{"step": 50, "time": 61.0}])
        for name, config in zip("ab", configs, strict=True)
    ]
    runs[0].saved_model = model = fakes.FakeModel((5,), 2)
    comparison = compare(runs)
    parameters = sum(p.numel() for p in model.parameters())
    assert comparison.differences == {
        "method": ["vae", "avb"],
        "steps": ["50", "50"],
        "training time": ["1 min 1 s"] * 2,
        "parameters": [str(parameters), "—"],
        "method.beta": ["1", "—"],
        "train.lr": ["0.001", "0.002"],
    }
    assert comparison.to_dict()["differences"]["train.lr"] == ["0.001", "0.002"]
    assert comparison.differences_table().columns[2].title == "b"
