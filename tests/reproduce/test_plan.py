"""Plans: which runs belong to a row, shorter training, and dry runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advae.config import resolve
from advae.devices import find_device, find_precision
from advae.reproduce import estimate_cost
from advae.reproduce.plan import config_fingerprint, shorten
from advae.training.trainer import Trainer
from reproduce.small import STEPS, page, recipe, record, record_calls, reproduce

# --- shorter training ---------------------------------------------------------------------------------------


def test_shortened_training_is_reported(tmp_path: Path) -> None:
    assert reproduce(tmp_path, "--steps", 5) == 0
    assert [run["steps"] for row in record(tmp_path)["rows"] for run in row["runs"]] == [5, 5]
    assert "vae-small 5 of 12, avb-small 5 of 12" in page(tmp_path)
    assert (tmp_path / "runs" / "vae-small" / "5-steps" / "s0").is_dir()


def test_steps_of_the_recipe_are_the_maximum(tmp_path: Path) -> None:
    assert reproduce(tmp_path, "--steps", 1000, "--rows", "vae-small") == 0
    assert record(tmp_path)["rows"][0]["runs"][0]["steps"] == STEPS
    assert "fewer steps" not in page(tmp_path)


def test_warm_ups_end_by_half_of_a_shortened_run() -> None:
    whole = resolve(recipe("vae-small"), {"train.steps": 100, "train.lr_warmup": 30, "method.kl_warmup": 40})
    assert shorten(whole, 100) == whole
    for steps, kl, rates in ((80, 40, 30), (50, 25, 25), (1, 1, 1)):
        short = shorten(whole, steps)
        assert (short.train.steps, short.method["kl_warmup"], short.train.lr_warmup) == (steps, kl, rates)


# --- dry runs -----------------------------------------------------------------------------------------------


def test_dry_run_estimates_time_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", record_calls(Trainer.fit, calls))
    assert reproduce(tmp_path, "--dry-run", "--seeds", "0,1") == 0
    stdout = capsys.readouterr().out
    assert "estimated" in stdout and stdout.count("to train") == 4 and "12 of 12" in stdout
    assert calls == [] and sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_dry_run_reports_completed_and_interrupted_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path, "--rows", "vae-small") == 0
    step = Trainer._run_step

    def interrupt_at_6(fit: Any, number: int, stream: Any) -> None:
        step(fit, number, stream)
        if number == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_step", interrupt_at_6)
        assert reproduce(tmp_path) == 130
    timed_jobs: list[Any] = []
    monkeypatch.setattr(estimate_cost, "_time_step", record_calls(lambda job, log: 1.0, timed_jobs))
    capsys.readouterr()
    assert reproduce(tmp_path, "--dry-run", "--json") == 0
    vae, avb = json.loads(capsys.readouterr().out)["jobs"]
    assert (vae["state"], vae["training"]) == ("done", 0.0)
    assert (avb["state"], avb["training"]) == ("stopped at 4", 8.0)
    assert len(timed_jobs) == 1  # completed runs are not timed
    assert reproduce(tmp_path, "--rows", "vae-small", "--images", 8, "--dry-run") == 0
    assert "trained" in capsys.readouterr().out


# --- fingerprints of configurations -------------------------------------------------------------------------


def test_fingerprint_ignores_names_paths_and_logging() -> None:
    base = recipe("vae-small")
    same = [{"recipe": "x"}, {"train.log_every": 7}, {"train.validate_every": 3}, {"device": "auto"}]
    same += [{"data.source": "elsewhere.npy"}, {"train.samples_every": 5}, {"published": "5 nats"}]
    same += [{"train.backend": "eager"}]
    other = [
        {"seed": 1},
        {"train.steps": 13},
        {"train.lr": 0.1},
        {"model.latent_dim": 3},
        {"train.ema_decay": 0.5},
    ]
    other += [{"data.preprocessing": "gray"}, {"data.limit": 10}, {"method.beta": 2.0}]

    def fingerprint(options: dict[str, Any]) -> dict[str, Any]:
        return config_fingerprint(resolve(base, options).to_dict())

    assert [fingerprint(options) == fingerprint({}) for options in same] == [True] * len(same)
    assert [fingerprint(options) == fingerprint({}) for options in other] == [False] * len(other)
    auto = find_precision("auto", find_device("auto"))
    assert fingerprint({"train.precision": "auto"}) == fingerprint({"train.precision": auto})
    often, seldom = ({"train.patience": 2, "train.validate_every": every} for every in (3, 6))
    assert fingerprint(often) != fingerprint(seldom)  # early stopping depends on validations
