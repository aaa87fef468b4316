"""Comparison page: files, missing parts, and gray levels by the preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import torch

from advae.report import write_comparison
from advae.report.comparison_page import to_gray_levels
from advae.report.html import png_size


def test_files_of_a_comparison(fakes: ModuleType, tmp_path: Path) -> None:
    model, data = fakes.FakeModel((1, 8, 8), 4), fakes.make_digits()
    lines = [{"step": s, "train/kl": 1.0 / s, "validation/kl": 2.0 / s} for s in range(1, 9)]
    env = {"data": data.describe()}
    elbos = [
        fakes.make_estimate("elbo", -3.0, "lower bound", "likelihood"),
        fakes.make_estimate("elbo", -2.0, "lower bound", "likelihood", samples=5),
    ]
    runs = [
        fakes.FakeRun(
            tmp_path / "x" / "same", env=env, metric_lines=lines, saved_model=model, estimate_dicts=elbos[:1]
        ),
        fakes.FakeRun(tmp_path / "y" / "same", env=env, estimate_dicts=elbos[1:]),
        fakes.FakeRun(tmp_path / "<b>bold</b>", env=env, saved_model=fakes.FakeModel((5,), 2)),
    ]
    page = write_comparison(runs, tmp_path / "out").read_text()
    assert "<b>bold" not in page
    assert "http" not in page.replace("http-equiv", "")
    for text in (
        "<h2>Differences</h2>",
        "parameters",
        "samples: none | 5",
        "x/same",
        "y/same",
        "no model yet",
        "not images",
    ):
        assert text in page
    assert png_size((tmp_path / "out" / "compare-samples.png").read_bytes())[0] == 1400
    assert png_size((tmp_path / "out" / "compare-curves.png").read_bytes())[0] == 1400
    saved = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [estimate is None for estimate in saved["rows"][0]["estimates"]] == [False, False, True]


def test_runs_without_estimates_metrics_or_models_can_be_compared(fakes: ModuleType, tmp_path: Path) -> None:
    runs = [fakes.FakeRun(tmp_path / name) for name in "ab"]
    assert "advae evaluate" in write_comparison(runs, tmp_path / "out").read_text()


def test_gray_levels_follow_the_preprocessing() -> None:
    x = torch.tensor([0.0, 0.5, 1.0])
    assert to_gray_levels(x, {"name": "gray"}).tolist() == [0, 127.5, 255]
    assert to_gray_levels(x, {"name": "dequantize"}).tolist() == [-0.5, 127.5, 255.5]
    assert to_gray_levels(torch.tensor([-1.0, 3.0]), None).tolist() == [0, 255]
