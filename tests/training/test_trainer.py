"""The training loop: early stopping, the exported model, and runs that diverge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import advae
from advae.errors import NotFiniteError
from advae.run import Run
from advae.training.trainer import Trainer
from advae.training.validation import Validation
from training import tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.data(tmp_path_factory.mktemp("data"))


def set_errors(monkeypatch: pytest.MonkeyPatch, errors: list[float]) -> None:
    """Let validations return these errors."""
    values = iter(errors)
    monkeypatch.setattr(Validation, "__call__", lambda self, model, method: {"error": next(values)})


def checkpoint_state(run: Run, name: str = "last") -> dict[str, Any]:
    return dict(json.loads((run.checkpoint(name) / "state.json").read_text()))


def test_diverging_run_keeps_its_last_checkpoint(source: str, tmp_path: Path) -> None:
    recipe = tiny.changed(tiny.tree(source), {"model.decoder": {"name": "training.tiny.Poison"}})
    tiny.Poison.calls, tiny.Poison.at = 0, -1
    run_step = Trainer._run_step

    def poisoned(self: Trainer, step: int, batches: Any) -> None:
        if step == 7:
            tiny.Poison.at = tiny.Poison.calls + 1
        run_step(self, step, batches)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(NotFiniteError, match="at step 7"):
        patch.setattr(Trainer, "_run_step", poisoned)
        advae.train(
            recipe, options={"train.checkpoint_every": 3}, out=tmp_path / "run", quiet=True, report=False
        )
    tiny.Poison.at = -1
    assert checkpoint_state(Run.open(tmp_path / "run"))["step"] == 6
    assert advae.resume(tmp_path / "run", quiet=True, report=False).model().info["step"] == tiny.STEPS


def test_exported_model_is_the_moving_average(source: str, tmp_path: Path) -> None:
    run = advae.train(tiny.tree(source), out=tmp_path / "run", quiet=True, report=False)
    state, ema = tiny.state(run), tiny.ema(run)
    assert tiny.differing(run.model().state_dict(), ema) == []
    matrices = [key for key, value in ema.items() if value.dim() > 1]
    assert all(not torch.equal(ema[key], state[f"model/{key}"]) for key in matrices)


@pytest.mark.parametrize(
    ("errors", "patience", "last", "best"),
    [
        ([5, 3, 4, 3.5, 1, 1, 1], 2, 4, 2),
        ([5, 3, 4, 2, 4, 4, 4], 2, 6, 4),
        ([5, 4, 3, 2, 1, 0.5], 1, 6, 6),
        ([1, 2, 3], 0, 3, 1),
        ([2, 2, 2, 2], 2, 3, 1),
    ],
)
def test_early_stopping_keeps_the_best_model(
    errors: list[float], patience: int, last: int, best: int, source: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_errors(monkeypatch, errors)
    options = {"train.steps": len(errors), "train.validate_every": 1, "train.patience": patience}
    run = advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True, report=False)
    assert [checkpoint_state(run, name)["step"] for name in ("last", "best")] == [last, best]
    exported = "best" if patience else "last"
    assert run.model().info["step"] == checkpoint_state(run, exported)["step"]
    assert tiny.differing(run.model().state_dict(), tiny.ema(run, exported)) == []


def test_validations_during_kl_warmup_do_not_count(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_errors(monkeypatch, [1.0, 1.0, 1.0, 4.0, 3.0, 5.0])
    options = {"train.steps": 6, "train.validate_every": 1, "train.patience": 3, "method.kl_warmup": 4}
    run = advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True, report=False)
    state = checkpoint_state(run, "best")
    assert (state["step"], state["best"]) == (5, 3.0)


@pytest.mark.parametrize("killed_at", [None, 9])
def test_tensorboard_gets_the_metrics(
    killed_at: int | None, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that was killed and resumed, values after the checkpoint are shown once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"train.tensorboard": True, "train.checkpoint_every": 5}
    run_step, out = Trainer._run_step, tmp_path / "run"

    def killed(self: Trainer, step: int, batches: Any) -> None:
        if step == killed_at:
            raise SystemExit
        run_step(self, step, batches)

    if killed_at:
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(Trainer, "_run_step", killed)
            advae.train(tiny.tree(source), options=options, out=out, quiet=True, report=False)
        run = advae.resume(out, quiet=True, report=False)
    else:
        run = advae.train(tiny.tree(source), options=options, out=out, quiet=True, report=False)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    rows = [row for row in run.metrics() if "train/loss/model" in row]
    logged = [(event.step, event.value) for event in events.Scalars("train/loss/model")]
    assert [step for step, _ in logged] == [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in logged] == pytest.approx([row["train/loss/model"] for row in rows])


def test_sample_grids_are_images(source: str, tmp_path: Path) -> None:
    from PIL import Image

    run = advae.train(
        tiny.tree(source), options={"train.steps": 6}, out=tmp_path / "run", quiet=True, report=False
    )
    (path,) = sorted((run.path / "samples").iterdir())
    with Image.open(path) as image:
        assert path.name == "step-000006.png" and min(image.size) > 100
