"""Tables of estimates in a terminal and in a pipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from advae.cli.console import print_estimates, print_table
from advae.report.comparison import Comparison, ComparisonRow, RunEstimate


def make_estimate(
    name: str, kind: str = "error", section: str = "samples", **protocol: Any
) -> dict[str, Any]:
    estimate = {"name": name, "metric": name.split()[0], "value": 1.0, "stderr": 0.1, "kind": kind, "n": 10}
    return {**estimate, "unit": "nats", "section": section, "interval": None, "protocol": protocol}


def make_remark(about: str, text: str, warning: bool = False) -> dict[str, Any]:
    return {"about": about, "text": text, "warning": warning}


def test_a_pipe_gets_aligned_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    estimates = [
        make_estimate("elbo", "lower bound", "likelihood", split="test", samples=4),
        {**make_estimate("FID[a]", split="test"), "unit": "", "interval": [0.8123, 1.2041]},
        {**make_estimate("FID[a] of test data", "baseline", split="test"), "unit": ""},
    ]
    remarks = [make_remark("samples", "No sign of memorization."), make_remark("FID[a]", "Few images.", True)]
    print_estimates(estimates, remarks)
    assert capsys.readouterr().out.splitlines() == [
        "Likelihood",
        "(samples 4)",
        "metric                     value  95 % interval  unit  kind          n",
        "elbo                 1.00 ± 0.10                 nats  lower bound  10",
        "",
        "Samples",
        "metric                     value  95 % interval  unit  kind          n",
        "FID[a]               1.00 ± 0.10   [0.81, 1.20]        error        10",
        "FID[a] of test data  1.00 ± 0.10                       baseline     10",
        "warning: FID[a]: Few images.",
        "No sign of memorization.",
        "",
        "(common to all: split test)",
    ]
    print_estimates([make_estimate("elbo", split="test")])
    assert not re.search(r"interval|note|common", capsys.readouterr().out)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_terminal_of_any_width_shows_whole_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    estimates = [
        {**make_estimate("FID[digits-classifier]", k=4), "interval": [0.8123, 1.2041]},
        make_estimate("FID[digits-classifier] of test data", "baseline", k=5),
        make_estimate("kl (critic)", "adversarial estimate", "likelihood", k=5),
    ]
    print_estimates(estimates, [make_remark("samples", "word " * 40, True)])
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= width
    for cell in ("[0.81, 1.20]", "1.00 ± 0.10", "k 4", "k 5", "warning:"):
        assert cell in out


def test_the_best_of_a_comparison_has_a_star_and_reasons_are_footnotes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(value: float, best: bool = False) -> RunEstimate:
        return RunEstimate(value, 0.1, "error", 10, {}, best=best)

    rows = [
        ComparisonRow("rmse", "rmse", "", "reconstruction", False, [run(1.0, True), run(2.0)]),
        ComparisonRow("ssim", "ssim", "", "reconstruction", True, [run(1.0), run(2.0)], "not comparable"),
    ]
    print_table(Comparison(["a", "b"], [str(Path("/a")), str(Path("/b"))], rows).table())
    out = capsys.readouterr().out
    assert "1.00 ± 0.10 *" in out and "2.00 ± 0.10 *" not in out
    assert "≠ a" in out and "a: not comparable" in out
