"""Comparisons: a best only where figures can be compared, and plain words where they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from advae.report import compare, write_comparison
from advae.report.comparison import to_levels
from advae.report.comparison_page import Comparison
from advae.report.html import png_size
from advae.report.ranking import direction


def estimate(value: float, kind: str = "lower bound", unit: str = "nats", **protocol: Any) -> dict[str, Any]:
    n = protocol.pop("n", 100)
    found = {"name": "elbo", "value": value, "stderr": 0.1, "kind": kind, "unit": unit, "n": n}
    return {**found, "protocol": {"split": "test", **protocol}}


def figure(name: str, value: float, kind: str, section: str = "samples", **more: Any) -> dict[str, Any]:
    found = {"name": name, "value": value, "stderr": 0.1, "kind": kind, "unit": "", "n": 100}
    return {**found, "section": section, "protocol": {"split": "test"}, "interval": None, **more}


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


def test_on_the_same_images_the_error_is_that_of_the_differences(fakes: ModuleType, tmp_path: Path) -> None:
    """Images are hard or easy for both runs: by 1 nat, where the runs differ by 0.05 ± 0.01. What is of other images,
    or of an evaluation that is no more, is not paired."""
    hard = torch.randn(100, dtype=torch.float64)
    hard = (hard - hard.mean()) / hard.std()
    noise = torch.tensor([0.1, -0.1]).repeat(50).double()

    def seen(values: Tensor, **more: Any) -> list[bool]:
        runs = [fakes.FakeRun(tmp_path / name, figures=[estimate(-84.0)]) for name in "ab"]
        runs[1].figures[0] |= {"value": -84.05, **more}
        for run, each in zip(runs, (hard - 84.0, values), strict=True):
            (run.path / "eval").mkdir(parents=True, exist_ok=True)
            np.savez(run.path / "eval" / "elbo.npz", value=each.numpy())
        comparison = compare(runs)
        assert "each" not in json.dumps(comparison.as_dict())
        return best(comparison)

    assert seen(hard + noise - 84.05) == [True, False]
    assert seen(hard + 2.6 * noise - 84.05) == [True, True]  # 0.05 ± 0.026
    assert seen(hard + noise - 84.06) == [True, True], "of another evaluation: not its mean"
    assert seen((hard + noise - 84.05)[:50]) == [True, True], "of other images"


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


@pytest.mark.parametrize(
    ("name", "unit", "kind", "sign"),
    [
        ("iwae-5000[full-normal]", "nats", "lower bound", 1),
        ("iwae-64", "nats", "lower bound", 1),
        ("elbo[full-normal]", "nats", "lower bound", 1),
        ("ais", "nats", "lower bound", 1),
        ("exact log-likelihood", "nats", "exact", 1),
        ("elbo (bits/dim)", "bits/dim", "upper bound", -1),
        ("elbo[full-normal] (bits/dim)", "bits/dim", "upper bound", -1),
        ("ais (bits/dim)", "bits/dim", "upper bound", -1),
        ("exact log-likelihood (bits/dim)", "bits/dim", "exact", -1),
        ("FID[inception]", "", "error", -1),
        ("reconstruction (bits/dim)", "bits/dim", "error", -1),
        ("SSIM", "", "score", 1),
        ("rmse (PCA-32)", "grey levels", "yardstick", 0),
        ("active units", "of 8", "diagnostic", 0),
        ("bdmc lower", "nats", "lower bound", 0),
        ("bdmc upper", "nats", "upper bound", 0),
        ("bdmc gap", "nats", "upper bound", 0),
        ("inference gap", "nats", "lower bound", 0),  # bounds, but of something that is not a merit
        ("elbo (critic)", "nats", "adversarial estimate", 0),
        ("elbo (critic) (bits/dim)", "bits/dim", "adversarial estimate", 0),
    ],
)
def test_which_way_is_better(name: str, unit: str, kind: str, sign: int) -> None:
    assert direction(name, unit, kind) == sign


def test_scores_are_ranked_yardsticks_and_diagnostics_are_not(fakes: ModuleType) -> None:
    def of(kind: str) -> list[bool]:
        return best(compared(fakes, figure("a", 1.0, kind), figure("a", 9.0, kind)))

    assert of("score") == [False, True]
    assert of("error") == [True, False]
    assert of("yardstick") == of("diagnostic") == [False, False]


def test_figures_of_images_that_a_model_made_are_not_compared(fakes: ModuleType) -> None:
    sides = [figure("bdmc lower", value, "lower bound", "likelihood") for value in (-84.0, -80.0)]
    comparison = compared(fakes, *sides)
    assert best(comparison) == [False, False]
    assert comparison.lines[0].differs == "not comparable: on images that each model made itself"
    assert compared(fakes, sides[0]).lines[0].differs == ""


def test_bounds_of_differing_tightness_are_said_and_not_ranked(fakes: ModuleType) -> None:
    loose = compared(fakes, estimate(-84.0, proposal="encoder"), estimate(-80.0, proposal="fitted normal"))
    assert loose.lines[0].differs.startswith("not comparable like for like: bounds of log p(x)")
    assert "proposal: encoder | fitted normal" in loose.lines[0].differs
    assert best(loose) == [False, False]
    # Another observation protocol is another figure, however the bound was made.
    other = estimate(-80.0, proposal="fitted normal", observation="binarised")
    plainly = compared(fakes, estimate(-84.0, proposal="encoder", observation="grey"), other)
    assert plainly.lines[0].differs.startswith("not comparable: protocols differ (observation")
    errors = estimate(3.0, "error", draws=1), estimate(2.0, "error", draws=2)
    assert compared(fakes, *errors).lines[0].differs.startswith("not comparable: protocols differ (draws")


def test_intervals_tell_runs_apart_where_there_is_no_standard_error(fakes: ModuleType) -> None:
    def found(value: float, half: float) -> dict[str, Any]:
        return figure("FID[a]", value, "error", stderr=None, interval=[value - half, value + half])

    # Half a 95 % interval is 1.96 standard errors; two such errors differ by √2 of them, and 2 of those tie.
    assert best(compared(fakes, found(10.0, 0.98), found(11.3, 0.98))) == [True, True]
    assert best(compared(fakes, found(10.0, 0.98), found(11.5, 0.98))) == [True, False]
    assert compared(fakes, found(10.0, 0.98)).lines[0].cells[0].text == "10.00 [9.02, 10.98]"  # type: ignore[union-attr]


def test_rows_stand_in_sections_with_what_they_share(fakes: ModuleType) -> None:
    def run(name: str, draws: int) -> Any:
        figures = [
            figure("FID[a]", 4.0, "error", protocol={"split": "test", "features": "a"}),
            figure("rmse", 4.0, "error", "reconstruction"),
            figure("FID[a] of test data", 1.0, "yardstick", protocol={"split": "test", "features": "a"}),
            figure("elbo", -84.0, "lower bound", "likelihood", protocol={"split": "test", "draws": draws}),
        ]
        return fakes.FakeRun(Path(f"/runs/{name}"), figures=figures)

    # A run may be called like a column.
    comparison = compare([run("note", 16), run("kind", 64)])
    groups = comparison.groups()
    assert [group.title for group in groups] == ["Likelihood", "Reconstruction", "Samples"]
    assert [line.name for line in groups[2].lines] == ["FID[a]", "FID[a] of test data"]
    assert comparison.protocol == "split test"
    assert [group.protocol for group in groups] == ["", "", "features a"]
    assert groups[0].marks == ["≠ a"]
    assert [(note.letter, note.forbids) for note in groups[0].notes] == [("a", True)]
    text = printed(comparison)
    assert text.index("Likelihood") < text.index("Reconstruction") < text.index("Samples")
    assert json.loads(json.dumps(comparison.as_dict()))["lines"][0]["section"] == "Likelihood"


def test_files_of_older_evaluations_are_matched_by_name(fakes: ModuleType) -> None:
    old = {k: v for k, v in figure("rmse", 5.0, "error").items() if k not in ("section", "interval")}
    comparison = compared(fakes, old, figure("rmse", 4.0, "error", "reconstruction"))
    assert [line.section for line in comparison.lines] == ["Reconstruction"]
    assert best(comparison) == [False, True]
    assert [group.title for group in compared(fakes, old, old).groups()] == [""]


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
    assert "bounds of log p(x), each as tight as its own settings (draws: none | 5)" in page
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
