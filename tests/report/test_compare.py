"""Comparisons: a best only where figures can be compared, and plain words where they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from advae.report import compare, write_comparison
from advae.report.compare import Comparison
from advae.report.comparison import to_levels
from advae.report.paper import png_size


def estimate(value: float, kind: str = "lower bound", unit: str = "nats", **protocol: Any) -> dict[str, Any]:
    n = protocol.pop("n", 100)
    found = {"name": "elbo", "value": value, "stderr": 0.1, "kind": kind, "unit": unit, "n": n}
    return {**found, "protocol": {"split": "test", **protocol}}


def compared(fakes: ModuleType, *estimates: dict[str, Any], checksums: tuple[str, ...] = ()) -> Comparison:
    runs = [fakes.FakeRun(Path(f"/runs/{chr(97 + i)}"), figures=[e]) for i, e in enumerate(estimates)]
    for run, checksum in zip(runs, checksums, strict=False):
        run.env = {"data": {"checksum": checksum}}
    return compare(runs)


def best(comparison: Comparison) -> list[bool]:
    return [bool(cell and cell.best) for cell in comparison.lines[0].cells]


def printed(comparison: Comparison) -> str:
    console = Console(width=200, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison.table())
    return capture.get()


def test_the_best_is_marked_with_all_that_cannot_be_told_from_it(fakes: ModuleType) -> None:
    assert best(compared(fakes, estimate(-84.0), estimate(-85.0))) == [True, False]
    assert best(compared(fakes, estimate(-84.0), estimate(-84.2), estimate(-84.4))) == [True, True, False]
    errors = estimate(30.0, "error"), estimate(20.0, "error")
    assert best(compared(fakes, *errors)) == [False, True]
    bits = estimate(4.0, "upper bound", "bits/dim"), estimate(3.0, "upper bound", "bits/dim")
    assert best(compared(fakes, *bits)) == [False, True]
    assert best(compared(fakes, estimate(float("nan")), estimate(-84.0))) == [False, True]


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        (estimate(-84.0), estimate(-80.0, "adversarial estimate"), "different kinds"),
        (estimate(-84.0, draws=64), estimate(-80.0, draws=32), "draws: 64 | 32"),
        (estimate(-84.0, split="test"), estimate(-80.0, split="train"), "split: test | train"),
        (estimate(-84.0, n=100), estimate(-80.0, n=50), "n: 100 | 50"),
        (estimate(-84.0, draws=64), estimate(-80.0), "draws: 64 | none"),
    ],
)
def test_mixed_rows_say_so_and_have_no_best(
    fakes: ModuleType, one: dict[str, Any], other: dict[str, Any], word: str
) -> None:
    comparison = compared(fakes, one, other)
    assert best(comparison) == [False, False]
    assert comparison.lines[0].differs.startswith("not comparable")
    assert word in comparison.lines[0].differs
    assert word in printed(comparison)
    assert " *" not in printed(comparison)


def test_other_data_are_another_protocol(fakes: ModuleType) -> None:
    comparison = compared(fakes, estimate(-84.0), estimate(-80.0), checksums=("aa", "bb"))
    assert "data checksum: aa | bb" in comparison.lines[0].differs


def test_no_run_is_best_by_its_own_critic_or_alone(fakes: ModuleType) -> None:
    critics = estimate(-84.0, "adversarial estimate"), estimate(-80.0, "adversarial estimate")
    assert best(compared(fakes, *critics)) == [False, False]
    assert "not a bound" in printed(compared(fakes, *critics))
    assert best(compared(fakes, estimate(-84.0))) == [False]


def test_evaluation_seeds_may_differ(fakes: ModuleType) -> None:
    assert best(compared(fakes, estimate(-84.0, seed=0), estimate(-85.0, seed=1))) == [True, False]


def test_files_of_a_comparison(fakes: ModuleType, tmp_path: Path) -> None:
    model, data = fakes.FakeModel((1, 8, 8), 4), fakes.digits()
    lines = [{"step": s, "train/kl": 1.0 / s, "validation/kl": 2.0 / s} for s in range(1, 9)]
    env = {"data": data.describe()}
    runs = [
        fakes.FakeRun(tmp_path / "x" / "same", env=env, lines=lines, made=model, figures=[estimate(-3.0)]),
        fakes.FakeRun(tmp_path / "y" / "same", env=env, figures=[estimate(-2.0, draws=5)]),
        fakes.FakeRun(tmp_path / "<b>bold</b>", env=env, made=fakes.FakeModel((5,), 2)),
    ]
    page = write_comparison(runs, tmp_path / "out").read_text()
    assert "<b>bold" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "protocols differ (draws: none | 5)" in page
    assert "x/same" in page and "y/same" in page
    assert "this run has no model yet" in page
    assert "its data are not images" in page
    assert png_size((tmp_path / "out" / "compare-samples.png").read_bytes())[0] == 1400
    assert png_size((tmp_path / "out" / "compare-curves.png").read_bytes())[0] == 1400
    saved = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert saved["lines"][0]["cells"][2] is None


def test_runs_without_anything_can_be_compared(fakes: ModuleType, tmp_path: Path) -> None:
    runs = [fakes.FakeRun(tmp_path / name) for name in "ab"]
    assert "None of these runs has been evaluated" in write_comparison(runs, tmp_path / "out").read_text()


def test_levels_follow_the_protocol() -> None:
    import torch

    x = torch.tensor([0.0, 0.5, 1.0])
    assert to_levels(x, {"name": "grey"}).tolist() == [0, 127.5, 255]
    assert to_levels(x, {"name": "dequantise"}).tolist() == [-0.5, 127.5, 255.5]
    assert to_levels(torch.tensor([-1.0, 3.0]), None).tolist() == [0, 255]
