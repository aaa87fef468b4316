"""Resumed runs equal uninterrupted ones bit for bit; corrupted checkpoints are refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import advae
from advae.errors import CheckpointError, WriteError
from advae.io import lock_folder
from advae.run import Run
from advae.training.signals import Interrupted
from advae.training.train import train_or_resume
from advae.training.trainer import Trainer
from advae.training.validation import Validation
from training import tiny

CONFIGS: dict[str, dict[str, Any]] = {
    "vae": {},
    "asvae": {"method": {"name": "asvae"}, "model.posterior": {"name": "normal", "variance": "shared"}},
    "avb noise basis": {
        "method": {"name": "avb", "contrast": "full", "kl_warmup": 7},
        "model.posterior": {"name": "noise-basis", "num_basis": 3, "noise_dim": 2, "hidden": [4]},
    },
    "bavae alternating": {
        "method": {"name": "bavae", "update_order": "alternating", "critic_steps": 2},
        "model.posterior": {"name": "implicit", "noise_dim": 2},
        "model.likelihood": {"name": "implicit", "noise_dim": 2, "squash": "sigmoid"},
    },
    "ali, critics twice": {"method": {"name": "ali", "critic_steps": 2}},
    "wgan-gp, critics first": {
        "method": {"name": "wgan-gp", "update_order": "alternating", "critic_steps": 2},
        "model.encoder": {"name": "none"},
        "model.likelihood": {"name": "implicit", "noise_dim": 0, "squash": "sigmoid"},
    },
}

every_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every configuration, trained without interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {
        name: advae.train(config(name, source), out=folder / name.replace(" ", "-"), quiet=True, report=False)
        for name in CONFIGS
    }


def config(name: str, source: str) -> dict[str, Any]:
    return tiny.changed(tiny.tree(source), CONFIGS[name])


def lines(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "time"} for row in run.metrics()]


@every_config
def test_results_depend_on_the_seed_alone(
    name: str, source: str, uninterrupted: dict[str, Run], tmp_path: Path
) -> None:
    """Earlier use of the global generator has no effect; another seed gives other weights."""
    torch.rand(17)
    again = advae.train(config(name, source), out=tmp_path / "again", quiet=True, report=False)
    assert tiny.differing(tiny.state(again), tiny.state(uninterrupted[name])) == []
    assert lines(again) == lines(uninterrupted[name])
    other = advae.train(
        config(name, source), options={"seed": 1}, out=tmp_path / "other", quiet=True, report=False
    )
    weights = [k for k, v in tiny.state(other).items() if k.startswith("model/") and v.dim() > 1]
    assert set(weights) <= set(tiny.differing(tiny.state(other), tiny.state(uninterrupted[name])))


def test_noise_is_a_function_of_seed_and_step(
    source: str, uninterrupted: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use of the global generator between two steps has no effect."""
    after_step = Trainer._after_step

    def draw_first(self: Trainer, logger: Any) -> Any:
        torch.rand(7)
        return after_step(self, logger)

    monkeypatch.setattr(Trainer, "_after_step", draw_first)
    again = advae.train(config("asvae", source), out=tmp_path / "again", quiet=True, report=False)
    assert tiny.differing(tiny.state(again), tiny.state(uninterrupted["asvae"])) == []


@every_config
@pytest.mark.parametrize("stop", [1, 5])
def test_resumed_with_more_steps(
    name: str, stop: int, source: str, uninterrupted: dict[str, Run], tmp_path: Path
) -> None:
    run = advae.train(
        config(name, source), options={"train.steps": stop}, out=tmp_path / "run", quiet=True, report=False
    )
    resumed = advae.resume(run.path, options={"train.steps": tiny.STEPS}, quiet=True, report=False)
    assert tiny.differing(tiny.state(resumed), tiny.state(uninterrupted[name])) == []
    assert resumed.config["train"]["steps"] == tiny.STEPS
    state, whole = [
        json.loads((r.checkpoint() / "state.json").read_text()) for r in (resumed, uninterrupted[name])
    ]
    assert state["step"] == whole["step"] == tiny.STEPS


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, signal.SIGTERM) for name in CONFIGS), ("vae", signal.SIGINT), ("vae", signal.SIGHUP)],
)
def test_repeated_interruption_by_signals(
    name: str, number: signal.Signals, source: str, uninterrupted: dict[str, Run], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The current step is completed, a checkpoint is saved, and the exit code depends on the signal.

    Metrics are logged every second step: their sums since the last row are part of the checkpoint.
    """
    stops = [1, 2, 4, 9, 11]
    run_step = Trainer._run_step

    def interrupted(self: Trainer, step: int, stream: Any) -> None:
        if step + 1 in stops:
            stops.remove(step + 1)
            signal.raise_signal(number)
        run_step(self, step, stream)

    monkeypatch.setattr(Trainer, "_run_step", interrupted)
    if number == signal.SIGHUP:  # as in a terminal, also if the tests run under nohup
        monkeypatch.setattr(signal, "getsignal", lambda signum: signal.SIG_DFL)
    before = signal.getsignal(number)
    run, left = tmp_path / "run", list(stops)
    for stop in left:
        with pytest.raises(Interrupted) as error:
            if stop == left[0]:
                advae.train(config(name, source), out=run, quiet=True, report=False)
            else:
                advae.resume(run, quiet=True, report=False)
        assert error.value.exit_code == 128 + number
        assert json.loads((run / "checkpoints/last/state.json").read_text())["step"] == stop
        assert Run.open(run).model().info["step"] == stop
        assert signal.getsignal(number) == before
    resumed = advae.resume(run, quiet=True, report=False)
    assert tiny.differing(tiny.state(resumed), tiny.state(uninterrupted[name])) == []
    assert lines(resumed) == lines(uninterrupted[name])


def test_killed_run_repeats_the_work_after_its_last_checkpoint(
    source: str, uninterrupted: dict[str, Run], tmp_path: Path, monkeypatch: Any
) -> None:
    """With the same result; its metrics appear once."""
    run_step = Trainer._run_step

    def killed(self: Trainer, step: int, stream: Any) -> None:
        if step == 9:
            raise SystemExit("killed")
        run_step(self, step, stream)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_run_step", killed)
        with pytest.raises(SystemExit):
            options = {"train.checkpoint_every": 5}  # between two rows of metrics
            advae.train(
                config("asvae", source), options=options, out=tmp_path / "run", quiet=True, report=False
            )
    resumed = advae.resume(tmp_path / "run", quiet=True, report=False)
    assert tiny.differing(tiny.state(resumed), tiny.state(uninterrupted["asvae"])) == []
    assert lines(resumed) == lines(uninterrupted["asvae"])


def test_resuming_a_finished_run_changes_nothing(source: str, tmp_path: Path) -> None:
    run = advae.train(config("asvae", source), out=tmp_path / "run", quiet=True, report=False)
    before, rows = tiny.state(run), lines(run)
    advae.resume(run.path, quiet=True, report=False)
    assert tiny.differing(tiny.state(run), before) == [] and lines(run) == rows
    left_behind = run.path / ".model.old"  # of a process that was killed while it replaced the model
    left_behind.mkdir()
    (run.path / "metrics.csv").unlink()
    train_or_resume(config("asvae", source), out=run.path, quiet=True)
    assert (run.path / "metrics.csv").exists() and not left_behind.exists()
    assert tiny.differing(tiny.state(run), before) == []


def test_resumed_early_stopping(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best error so far and the number of validations since are part of the state."""
    errors = iter([3.0, 1.0, 2.0, 2.5, 0.5, 0.4])
    monkeypatch.setattr(Validation, "__call__", lambda self, model, method: {"error": next(errors)})
    options = {"train.patience": 2, "train.validate_every": 1, "train.steps": 3}
    run = advae.train(config("vae", source), options=options, out=tmp_path / "run", quiet=True, report=False)
    state = json.loads((run.checkpoint() / "state.json").read_text())
    assert (state["step"], state["best"], state["validations_since_best"]) == (3, 1.0, 1)
    advae.resume(run.path, options={"train.steps": 6}, quiet=True, report=False)
    state = json.loads((run.checkpoint() / "state.json").read_text())
    assert (state["step"], state["best"], state["validations_since_best"]) == (4, 1.0, 2)
    advae.resume(run.path, quiet=True, report=False)
    assert json.loads((run.checkpoint() / "state.json").read_text())["step"] == 4


# --- what must be refused -----------------------------------------------------------------------------------


@pytest.fixture
def finished(source: str, tmp_path: Path) -> Run:
    return advae.train(
        config("vae", source), options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False
    )


def test_run_locked_by_another_process_is_not_touched(finished: Run, tmp_path: Path, source: str) -> None:
    """Neither resumed nor removed as an incomplete run."""
    before = {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()}
    incomplete = tmp_path / "begun"
    incomplete.mkdir()
    (incomplete / "config.yaml").write_text("")
    with lock_folder(finished.path), lock_folder(incomplete):
        with pytest.raises(CheckpointError, match=r"(?i)another process"):
            advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)
        with pytest.raises(CheckpointError, match=r"(?i)another process"):
            train_or_resume(config("vae", source), out=incomplete, quiet=True)
        assert (incomplete / "config.yaml").exists()
    assert {path: path.read_bytes() for path in finished.path.rglob("*") if path.is_file()} == before
    advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


def test_truncated_checkpoint_is_refused(finished: Run) -> None:
    path = finished.checkpoint() / "state.safetensors"
    content = path.read_bytes()
    for length in (0, 7, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)
    path.unlink()
    with pytest.raises(CheckpointError):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


def test_edited_tensors_are_refused(finished: Run) -> None:
    path = finished.checkpoint() / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


@pytest.mark.parametrize(
    "edit", [{"step": 1}, {"best": 0.0}, {"validations_since_best": 7}, {"step": None}, {"sha256": "0"}]
)
def test_edited_state_is_refused(finished: Run, edit: dict[str, Any]) -> None:
    """With another step in state.json, training would continue with other noise."""
    path = finished.checkpoint() / "state.json"
    state = json.loads(path.read_text()) | edit
    path.write_text(json.dumps({k: v for k, v in state.items() if v is not None}))
    with pytest.raises(CheckpointError):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 99}', "\x00\x01"])
def test_corrupted_state_is_refused(finished: Run, content: str) -> None:
    (finished.checkpoint() / "state.json").write_text(content)
    with pytest.raises(CheckpointError):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


@pytest.mark.parametrize("name", ["weights.pt", "state.pkl", "pytorch_model.bin", "last.CKPT"])
def test_pickles_are_never_read(finished: Run, name: str) -> None:
    (finished.checkpoint() / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match=r"(?i)pickle"):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)
    (finished.path / "model" / "config.json").unlink()
    (finished.path / "model" / name).write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(CheckpointError, match=r"(?i)pickle"):
        advae.load(finished.path)


def test_checkpoint_of_another_model_is_refused(finished: Run, tmp_path: Path, source: str) -> None:
    settings = finished.config
    settings["model"]["latent_dim"] = 3
    finished.write_config(settings)
    with pytest.raises(CheckpointError, match="does not fit"):
        advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)


def test_other_data_are_refused(finished: Run, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "other.npy", np.random.default_rng(1).integers(0, 256, (60, 1, 4, 5), dtype=np.uint8))
    options = {"data.source": str(tmp_path / "other.npy"), "train.steps": 4}
    with pytest.raises(CheckpointError, match="data"):
        advae.resume(finished.path, options=options, quiet=True, report=False)


@pytest.mark.parametrize(
    "key", ["train.batch_size", "model.latent_dim", "method.beta", "seed", "data.preprocessing"]
)
def test_other_options_must_not_change(finished: Run, key: str) -> None:
    with pytest.raises(CheckpointError, match=key):
        advae.resume(finished.path, options={key: 1}, quiet=True, report=False)


def test_folders_that_are_not_runs(tmp_path: Path, finished: Run) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=r"(?i)run directory"):
            advae.resume(path, report=False)
    with pytest.raises(CheckpointError, match="not empty"):
        advae.train(config("vae", "digits"), out=finished.path, quiet=True, report=False)


def test_corrupted_model_is_refused(finished: Run) -> None:
    weights = finished.path / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(CheckpointError):
        advae.load(finished.path)
    tensors = load_file_bytes(content, weights)
    save_file({k: v for k, v in tensors.items() if k != "decoder.network.body.0.bias"}, weights)
    with pytest.raises(CheckpointError, match=r"(?i)fit|corrupted"):
        advae.load(finished.path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        advae.load(finished.path)


def load_file_bytes(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    path.write_bytes(content)
    return load_file(path)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 1, "spec": {}, "x_shape": [1]}'])
def test_corrupted_model_config_is_refused(finished: Run, content: str) -> None:
    (finished.path / "model" / "config.json").write_text(content)
    with pytest.raises(CheckpointError):
        advae.load(finished.path)


def test_failed_save_keeps_the_old_checkpoint(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import advae.training.checkpoint as checkpoint

    before = tiny.state(finished)

    def full(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_tensors", full)
        with pytest.raises(WriteError, match="no space"):
            advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)
    assert tiny.differing(tiny.state(finished), before) == []
    advae.resume(finished.path, options={"train.steps": 4}, quiet=True, report=False)
    assert not list((finished.path / "checkpoints").glob(".*"))
