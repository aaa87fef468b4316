"""Budgets and forecasts: steps are decided once, a dry run trains nothing, time is estimated from what is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advae.config import resolve
from advae.devices import find_device, find_precision
from advae.errors import ConfigError
from advae.reproduce import plan
from advae.reproduce.budget import within
from advae.reproduce.jobs import identity
from advae.reproduce.probe import Speed
from advae.training.train_options import TrainOptions
from advae.training.trainer import Trainer
from reproduce.small import STEPS, counting, page, recipe, record, reproduced, table


def speed(step: float, validation: float = 0.0, decode: float = 0.0, gradient: float = 0.0) -> Speed:
    return Speed(step, validation, decode, gradient)


# --- budgets ------------------------------------------------------------------------------------------------


def test_all_rows_get_the_same_time() -> None:
    """Rows of 40, 160 and 1000 s, two seeds each: of 480 s a run of the first needs its 40, the others get 100 each."""
    rows = {"a": TrainOptions(steps=10_000), "b": TrainOptions(steps=40_000), "c": TrainOptions(steps=1000)}
    speeds = {"a": speed(0.004), "b": speed(0.004), "c": speed(1.0)}
    assert within(480.0, speeds, rows, seeds=2) == {"a": 10_000, "b": 25_000, "c": 100}
    backwards = dict(reversed(speeds.items()))  # the order of rows is no matter
    assert within(480.0, backwards, rows, seeds=2) == {"a": 10_000, "b": 25_000, "c": 100}
    assert within(60.0, speeds, rows, seeds=2) == {"a": 2500, "b": 2500, "c": 10}
    assert within(600.0, speeds, rows, seeds=1) == {"a": 10_000, "b": 40_000, "c": 400}
    assert within(1e9, speeds, rows, seeds=2) == {"a": 10_000, "b": 40_000, "c": 1000}
    assert within(1e-9, speeds, rows, seeds=1) == {"a": 1, "b": 1, "c": 1}
    almost = {"a": TrainOptions(steps=1460)}  # two digits of 1457 are more than there are
    assert within(1.457, {"a": speed(0.001)}, almost, seeds=1) == {"a": 1460}


def test_validations_are_in_a_budget() -> None:
    """A validation every 100 steps costs as much as 100 steps, and one at the end: half of 20 s less 1 s."""
    rows = {"a": TrainOptions(steps=1000, validate_every=100)}
    assert speed(0.01, 1.0).training(rows["a"]) == pytest.approx(10 + 10 + 1)
    assert within(10.0, {"a": speed(0.01, 1.0)}, rows, seeds=1) == {"a": 450}
    with pytest.raises(ConfigError, match="too short"):
        within(2.0, {"a": speed(0.01, 1.0)}, rows, seeds=2)
    assert speed(0.01, 1.0).training(rows["a"], done=900) == pytest.approx(1 + 1 + 1)


def test_a_row_that_could_not_be_timed_takes_no_time_of_others() -> None:
    rows = {"a": TrainOptions(steps=1000), "bad": TrainOptions(steps=500)}
    assert within(5.0, {"a": speed(0.01)}, rows, seeds=1) == {"a": 500, "bad": 500}
    assert within(5.0, {}, rows, seeds=1) == {"a": 1000, "bad": 500}


def test_the_same_budget_finds_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided at the first call, though the machine is ten times as slow at the second; and the page says it."""
    definition = table()
    speeds = iter([0.5, 0.5, 5.0, 5.0, 0.5])
    calls: list[Any] = []
    monkeypatch.setattr(plan, "measured", counting(lambda config, data: speed(next(speeds)), calls))
    for _ in range(2):
        assert reproduced(tmp_path, "--budget", "5s", definition=definition) == 0
        assert [run["steps"] for row in record(tmp_path)["rows"] for run in row["runs"]] == [5, 5]
        assert len(calls) == 2
    assert "**Trained for fewer steps than the recipes say**, all of them in about 5 s: " in page(tmp_path)
    assert "vae-small 5 of 12, avb-small 5 of 12" in page(tmp_path)
    assert (tmp_path / "runs" / "vae-small" / "5-steps" / "s0").is_dir()
    assert reproduced(tmp_path, "--budget", "6s", "--rows", "vae-small", definition=definition) == 0
    assert len(calls) == 3  # another question, another answer


def test_a_row_of_a_whole_training_says_nothing_of_fewer_steps(tmp_path: Path) -> None:
    assert reproduced(tmp_path, "--budget", "1h", "--rows", "vae-small") == 0
    assert record(tmp_path)["rows"][0]["runs"][0]["steps"] == STEPS
    assert "fewer steps" not in page(tmp_path)


# --- forecasts ----------------------------------------------------------------------------------------------


def test_a_dry_run_estimates_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "main", counting(Trainer.main, calls))
    assert reproduced(tmp_path, "--dry-run", "--budget", "1h", "--seeds", "0,1") == 0
    said = capsys.readouterr().out
    assert "estimated:" in said and said.count("to train") == 4 and "12 of 12" in said
    assert calls == [] and sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_a_dry_run_knows_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(tmp_path, "--rows", "vae-small") == 0
    step = Trainer._run_step

    def cut(fit: Any, number: int, stream: Any) -> None:
        step(fit, number, stream)
        if number == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_step", cut)
        assert reproduced(tmp_path) == 130
    timed: list[Any] = []
    monkeypatch.setattr(plan, "measured", counting(lambda config, data: speed(1.0, decode=1e-3), timed))
    capsys.readouterr()
    assert reproduced(tmp_path, "--dry-run", "--json") == 0
    vae, avb = json.loads(capsys.readouterr().out)["jobs"]
    assert (vae["state"], vae["training"], vae["evaluation"]) == ("done", 0.0, 0.0)
    assert (avb["state"], avb["training"]) == ("stopped at 4", 8.0)
    assert avb["evaluation"] == pytest.approx(180 * (2 + 4) * 1e-3)
    assert len(timed) == 1  # what is done need not be timed
    assert reproduced(tmp_path, "--rows", "vae-small", "--images", 8, "--dry-run") == 0
    assert "trained" in capsys.readouterr().out


def test_evaluation_is_estimated_from_what_is_asked() -> None:
    found = speed(0, decode=1e-3, gradient=1e-2)
    assert found.judging([{"likelihood": ["elbo"], "draws": 5}], 100) == pytest.approx(0.5)
    assert found.judging([{"likelihood": ["iwae"], "importance": 7, "limit": 10}], 100) == pytest.approx(0.07)
    assert found.judging([{"likelihood": [], "samples": ["fid"]}], 100) == pytest.approx(0.1)
    part = {"likelihood": ["ais"], "chains": 3, "leapfrogs": 2}
    once, twice = (found.judging([{**part, "temperatures": t}], 10) for t in (1000, 2000))
    assert twice - once == pytest.approx(10 * 3 * 1000 * 2 * 1e-2)  # the pilot run takes no longer
    assert once > 10 * 3 * 1000 * 2 * 1e-2


def test_a_row_is_really_timed() -> None:
    """The probe's own steps: a positive time for each, and twenty-fold networks do not take less."""
    from advae.data import load_data

    small = resolve(recipe("vae-small"))
    large = resolve(recipe("vae-large", model={"encoder": {"name": "mlp", "hidden": [3000, 3000]}}))
    data = load_data(small.data)
    a, b = (plan.measured(config, data) for config in (small, large))
    assert min(a.step, a.validation, a.decode, a.gradient) > 0
    assert b.step > 2 * a.step  # 9 million weights against a thousand: some hundred times the work


def test_what_grows_from_zero_has_grown_by_half_of_a_shortened_run() -> None:
    whole = resolve(recipe("vae-small"), {"train.steps": 100, "train.lr_warmup": 30, "method.kl_warmup": 40})
    assert plan.shortened(whole, 100) == whole
    for steps, kl, rates in ((80, 40, 30), (50, 25, 25), (1, 1, 1)):
        short = plan.shortened(whole, steps)
        assert (short.train.steps, short.method["kl_warmup"], short.train.lr_warmup) == (steps, kl, rates)


# --- which runs are a row's ---------------------------------------------------------------------------------


def test_only_names_places_and_logging_may_differ() -> None:
    base = recipe("vae-small")
    same = [{"recipe": "x"}, {"train.log_every": 7}, {"train.validate_every": 3}, {"device": "auto"}]
    same += [{"data.source": "elsewhere.npy"}, {"train.samples_every": 5}, {"published": "5 nats"}]
    same += [{"train.backend": "eager"}]
    other = [{"seed": 1}, {"train.steps": 13}, {"train.lr": 0.1}, {"model.latent_dim": 3}, {"train.ema_decay": 0.5}]
    other += [{"data.preprocessing": "gray"}, {"data.limit": 10}, {"method.beta": 2.0}]

    def of(options: dict[str, Any]) -> dict[str, Any]:
        return identity(resolve(base, options).to_dict())

    assert [of(options) == of({}) for options in same] == [True] * len(same)
    assert [of(options) == of({}) for options in other] == [False] * len(other)
    auto = find_precision("auto", find_device("auto"))
    assert of({"train.precision": "auto"}) == of({"train.precision": auto})
    often, seldom = ({"train.patience": 2, "train.validate_every": every} for every in (3, 6))
    assert of(often) != of(seldom)  # early stopping looks at validations
