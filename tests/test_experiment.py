"""Training with evaluation and report, for a given time, and without a recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import advae
from advae import experiment
from advae.config import resolve
from advae.errors import ConfigError, DataError
from advae.training import benchmark
from advae.training.setup import Setup

SMALL = {
    "train.steps": 3,
    "train.samples_every": 0,
    "model.encoder.hidden": [8],
    "model.decoder.hidden": [8],
    "data.limit": 40,
    "data.test": 20,
    "train.batch_size": 8,
}
WITHOUT_STEPS = {key: value for key, value in SMALL.items() if key != "train.steps"}


def test_training_and_resuming_evaluate_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command does, whose tests check what is written."""
    calls: list[tuple[str, int]] = []
    for name in ("evaluate_run", "write_report"):
        record = partial(
            lambda name, run, model, data, **more: calls.append((name, model.info["step"])), name
        )
        monkeypatch.setattr(experiment, name, record)
    run = advae.train("vae-digits", options=SMALL, out=tmp_path / "run", quiet=True)
    advae.resume(run.path, options={"train.steps": 5}, quiet=True)
    assert calls == [("evaluate_run", 3), ("write_report", 3), ("evaluate_run", 5), ("write_report", 5)]


def test_without_report_nothing_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = advae.train("vae-digits", options=SMALL, out=tmp_path / "run", report=False, quiet=True)
    assert not run.estimates() and not (run.path / "report.html").exists()
    assert capfd.readouterr() == ("", "")


def test_recipe_is_chosen_by_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = advae.load_data(advae.DataOptions(limit=40))
    run = advae.train(data=data, options=SMALL, out=tmp_path / "run", report=False)
    assert run.config["recipe"] == "vae-digits"
    assert "vae-digits" in capsys.readouterr().err.splitlines()[0]
    with pytest.raises(ConfigError, match="Nothing to train"):
        advae.train(out=tmp_path / "other")


def test_training_for_a_time_is_training_for_the_steps_that_it_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MAX_TIMED_STEPS", 2)
    monkeypatch.setattr("advae.training.train.steps_in", lambda seconds, per_step: 4 if seconds == 90 else 0)
    more = {"options": WITHOUT_STEPS, "report": False, "quiet": True}
    timed = advae.train("vae-digits", out=tmp_path / "timed", time="1m30s", **more)
    more["options"] = SMALL | {"train.steps": 4}
    counted = advae.train("vae-digits", out=tmp_path / "counted", **more)
    assert timed.config == counted.config and timed.config["train"]["steps"] == 4
    weights = [run.model().state_dict() for run in (timed, counted)]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


@pytest.mark.parametrize("time", ["10", "ten minutes", "0s", "-5m", "", 0.0])
def test_invalid_times_are_refused_before_anything_is_written(time: str | float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="time"):
        advae.train("vae-digits", options=WITHOUT_STEPS, out=tmp_path / "run", time=time)
    assert list(tmp_path.iterdir()) == []


def test_a_time_and_a_number_of_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps"):
        advae.train("vae-digits", options=SMALL, out=tmp_path / "run", time="1s")


def test_timing_steps_changes_neither_model_nor_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "MAX_TIMED_STEPS", 2)
    setup = Setup(resolve("avb-digits", SMALL))
    before = {key: value.clone() for key, value in setup.model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert benchmark.time_step(setup) > 0
    assert all(torch.equal(before[key], value) for key, value in setup.model.state_dict().items())
    assert all(parameter.grad is None for parameter in setup.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_arrays_are_data(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(60, 4)) * [1, 10, 100, 1000]
    options = {"train.steps": 2, "train.batch_size": 8}
    run = advae.train(data=table, options=options, out=tmp_path / "run", report=False, quiet=True)
    assert run.config["recipe"] == "vae-table" and run.model().x_shape == (4,)
    assert run.config["data"]["source"] not in ("", "digits")
    with pytest.raises(DataError, match="memory"):
        advae.load_data(advae.DataOptions(source=run.config["data"]["source"]))
    resumed = advae.resume(run.path, options={"train.steps": 3}, data=table, report=False, quiet=True)
    assert resumed.model().info["step"] == 3
