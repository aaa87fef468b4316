"""Kills, full disks, links, removed folders and wrong types: a run resumes, or one error says why not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import advae
from advae import model as model_module
from advae import serialization
from advae.errors import AdvaeError, CheckpointError, ConfigError, WriteError
from advae.io import LOCK_FILE, lock_folder, write_json
from advae.run import CONFIG_FILE, Run
from advae.training import checkpoint as checkpoint_module
from advae.training import trainer as trainer_module
from advae.training.train import train_or_resume
from advae.training.trainer import Trainer
from training import tiny

SRC = Path(__file__).resolve().parents[2] / "src"


class Killed(BaseException):
    """Ends training where a kill would."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(source: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return advae.train(
        tiny.tree(source), out=tmp_path_factory.mktemp("runs") / "whole", quiet=True, report=False
    )


@pytest.fixture(scope="module")
def five_steps(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "short"
    return advae.train(tiny.tree(source), options={"train.steps": 5}, out=out, quiet=True, report=False).path


@pytest.fixture
def short(five_steps: Path, tmp_path: Path) -> Run:
    """A run that can be resumed for more steps."""
    return Run(Path(shutil.copytree(five_steps, tmp_path / "run")))


def rows(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "time"} for row in run.metrics()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def resume_to_the_end(run: Run) -> Run:
    return advae.resume(run.path, options={"train.steps": tiny.STEPS}, quiet=True, report=False)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Any) -> None:
    """Call ``action()`` before a step."""
    run_step = Trainer._run_step

    def run_step_with_action(self: Trainer, number: int, batches: Any) -> None:
        if number == step:
            action()
        run_step(self, number, batches)

    monkeypatch.setattr(Trainer, "_run_step", run_step_with_action)


def kill() -> None:
    raise Killed


# --- kills --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["out", "resume", "train_or_resume"])
@pytest.mark.parametrize("last_file", ["config.yaml", "env.json", "metrics.jsonl", "checkpoints"])
def test_run_killed_before_its_first_checkpoint_starts_again(
    last_file: str, how: str, source: str, uninterrupted: Run, tmp_path: Path
) -> None:
    out, recipe = tmp_path / "run", tiny.tree(source)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        if last_file == "config.yaml":
            patch.setattr(trainer_module.Trainer, "__init__", lambda *_, **__: kill())
        patch.setattr(trainer_module, "save_checkpoint", lambda *_: kill())
        advae.train(recipe, out=out, quiet=True, report=False)
    if last_file == "config.yaml":
        (out / "env.json").unlink()
    if last_file == "env.json":
        (out / "metrics.jsonl").unlink()
        (out / "metrics.csv").unlink()
    if last_file == "checkpoints":
        (out / "checkpoints" / ".last.new-01234567").mkdir(parents=True)
        (out / "checkpoints" / ".last.new-01234567" / "state.safetensors").write_bytes(b"part")
    if how == "resume":
        run = advae.resume(out, quiet=True, report=False)
    elif how == "out":
        run = advae.train(recipe, out=out, quiet=True, report=False)
    else:
        run = train_or_resume(recipe, out=out, quiet=True)
    assert tiny.differing(tiny.state(run), tiny.state(uninterrupted)) == []
    assert rows(run) == rows(uninterrupted) and "versions" in run.env
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"last", "best"}


@pytest.mark.parametrize("name", ["command.txt", "env.json", "config.yaml"])
def test_a_run_that_can_be_resumed_has_all_its_first_files(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after any of them leaves a folder to start in again, or a complete one to resume."""
    replace = os.replace

    def replace_and_die(old: str, new: str) -> None:
        replace(old, new)
        if Path(new).name == name:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", replace_and_die)
        advae.train(
            tiny.tree(source), options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False
        )
    written = {path.name for path in (tmp_path / "run").iterdir()}
    if CONFIG_FILE in written:
        assert {"command.txt", "env.json"} <= written
        advae.resume(tmp_path / "run", quiet=True, report=False)
    else:
        advae.train(
            tiny.tree(source), options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False
        )
    assert (tmp_path / "run" / "command.txt").read_text() == "advae.train(…)\n"


@pytest.mark.parametrize("name", ["command.txt", "env.json", "config.yaml"])
def test_nothing_is_left_of_a_run_that_is_removed_while_its_first_files_are_written(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def remove_and_replace(old: str, new: str) -> None:
        content = Path(old).read_bytes()
        if Path(new).name == name:
            shutil.rmtree(Path(new).parent)
            Path(new).parent.mkdir()  # as a write that began before the removal
            Path(old).write_bytes(content)
        replace(old, new)

    monkeypatch.setattr(os, "replace", remove_and_replace)
    with pytest.raises(CheckpointError):
        advae.train(
            tiny.tree(source), options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False
        )
    assert not (tmp_path / "run").exists()


def test_run_killed_when_it_has_only_made_its_folder(source: str, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run", create=True):
        (tmp_path / "run" / ".config.yaml.new-01234567").write_text("data:")
    run = advae.train(
        tiny.tree(source), options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False
    )
    assert run.model().info["step"] == 2


@pytest.mark.parametrize(
    "names",
    [["config.yaml"], [LOCK_FILE, "config.yaml", "notes.txt"], [LOCK_FILE, "config.yaml", "checkpoints/step-000004"],
     [LOCK_FILE, "checkpoints/.last.old"], [LOCK_FILE, "metrics.jsonl"], [".last.new-01234567"]],
)  # fmt: skip
def test_folder_that_is_not_of_a_killed_start_is_not_touched(
    names: list[str], source: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == LOCK_FILE else '{"step": 1}\n')
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match=r"(?i)not empty"):
        advae.train(tiny.tree(source), out=tmp_path, quiet=True, report=False)
    assert files(tmp_path) == before


def test_lost_checkpoint_is_an_error(short: Run) -> None:
    shutil.rmtree(short.path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"(?i)missing"):
        resume_to_the_end(short)
    with pytest.raises(CheckpointError, match=r"(?i)not empty"):
        advae.train("vae-digits", out=short.path, quiet=True, report=False)


def test_kept_checkpoints_are_written_before_the_last(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two repeats the step instead of passing over it."""
    save, names = trainer_module.save_checkpoint, []

    def save_or_die(folder: Path, *args: Any) -> None:
        names.append(folder.name)
        if len(names) == 4:  # of last, best, step-000004, last
            raise Killed
        save(folder, *args)

    options = {"train.checkpoint_every": 4, "train.checkpoint_keep_every": 4, "train.patience": 0}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer_module, "save_checkpoint", save_or_die)
        advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True, report=False)
    advae.resume(tmp_path / "run", quiet=True, report=False)
    kept = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"last", "best", "step-000004", "step-000008", "step-000012"}


def test_partial_folders_of_a_kill_are_removed_on_resume(short: Run) -> None:
    checkpoints = short.path / "checkpoints"
    mine = [".backup.old", ".notes.new-01234567", "kept"]
    for name in (".best.new-01234567", ".step-000004.new-abcdefgh", ".last.old", *mine):
        (checkpoints / name).mkdir()
    (short.path / ".model.new-01234567").mkdir()
    (short.path / ".env.json.new-01234567").write_text("{")
    (checkpoints / "best").rename(checkpoints / ".best.old")  # killed between two renames
    resume_to_the_end(short)
    assert {p.name for p in checkpoints.iterdir()} == {"last", "best", *mine}
    assert not list(short.path.glob(".*.new-*"))


# --- two processes or threads -------------------------------------------------------------------------------


def test_second_training_in_the_same_folder_is_refused(
    source: str, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any time from the creation of the folder on; the first one is not disturbed."""
    out, recipe, refused = tmp_path / "run", tiny.tree(source), []
    inits = Trainer.__init__

    def start_second(self: Trainer, *args: Any, **options: Any) -> None:
        if not refused:
            refused.append(True)
            for start in (advae.train, train_or_resume):
                with pytest.raises(CheckpointError, match=r"(?i)another process"):
                    start(recipe, out=out, quiet=True)
        inits(self, *args, **options)

    monkeypatch.setattr(Trainer, "__init__", start_second)
    run = advae.train(recipe, out=out, quiet=True, report=False)
    assert refused and tiny.differing(tiny.state(run), tiny.state(uninterrupted)) == []
    with lock_folder(tmp_path / "new", create=True), pytest.raises(CheckpointError, match=r"(?i)another"):
        advae.train(recipe, out=tmp_path / "new", quiet=True, report=False)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [LOCK_FILE]


def test_trainings_in_threads_have_the_results_of_their_seeds(
    source: str, uninterrupted: Run, tmp_path: Path
) -> None:
    runs: dict[int, Run] = {}

    def train(number: int) -> None:
        runs[number] = advae.train(tiny.tree(source), out=tmp_path / str(number), quiet=True, report=False)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for run in runs.values():
        assert tiny.differing(tiny.state(run), tiny.state(uninterrupted)) == []
        assert rows(run) == rows(uninterrupted)


def test_model_that_is_replaced_while_it_is_read_is_read_again(
    short: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_weights, calls = model_module.load_weights, []

    def load_after_replacement(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            other = short.model()
            next(other.parameters()).data.add_(1.0)
            other.save_pretrained(short.path / "model")
        load_weights(*args)

    before = short.model()
    monkeypatch.setattr(model_module, "load_weights", load_after_replacement)
    assert advae.load(short.path).checksum not in (None, before.checksum)


# --- disks --------------------------------------------------------------------------------------------------


def full_disk(monkeypatch: pytest.MonkeyPatch, what: str, number: int) -> None:
    """Let writes of some files fail."""

    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    def fail_in_rust(*args: Any) -> None:
        text = f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
        raise serialization.SafetensorError(text)

    if what == "tensors":
        monkeypatch.setattr(serialization, "save_file", fail_in_rust)
    elif what == "files":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        original = Path.open
        monkeypatch.setattr(
            Path, "open",
            lambda self, mode="r", *args, **options: (fail if mode == "a" else original)(self, mode, *args, **options),
        )  # fmt: skip


@pytest.mark.parametrize("what", ["tensors", "files", "metrics"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_full_disk_is_one_error_and_the_last_checkpoint_stands(
    what: str, number: int, short: Run, uninterrupted: Run
) -> None:
    before = files(short.path / "checkpoints") | files(short.path / "model")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(WriteError) as error:
        at_step(patch, 5, lambda: full_disk(patch, what, number))
        resume_to_the_end(short)
    text = str(error.value)
    assert error.value.exit_code == 2
    assert str(short.path) in text and f"--resume {short.path}" in text and os.strerror(number) in text
    assert files(short.path / "checkpoints") | files(short.path / "model") == before
    assert not list(short.path.rglob(".*.new-*"))
    assert tiny.differing(tiny.state(resume_to_the_end(short)), tiny.state(uninterrupted)) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.integration
def test_really_full_disk(small_disk: Path, source: str, uninterrupted: Run) -> None:
    """Checkpoints fill the disk."""
    out = small_disk / "run"
    options = {"train.checkpoint_every": 1, "train.checkpoint_keep_every": 1}
    with pytest.raises(WriteError, match=r"--resume"):
        advae.train(tiny.tree(source), options=options, out=out, quiet=True, report=False)
    step = json.loads((out / "checkpoints" / "last" / "state.json").read_text())["step"]
    assert 0 < step < tiny.STEPS and Run.open(out).model().info["step"] in (step, step - 1)
    for path in (out / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    run = advae.resume(out, options={"train.checkpoint_keep_every": 0}, quiet=True, report=False)
    assert tiny.differing(tiny.state(run), tiny.state(uninterrupted)) == []


@pytest.mark.integration
def test_limit_of_file_sizes_is_an_error_of_the_command(short: Run) -> None:
    """The command ends with exit code 2 and one message."""
    code = (
        "import resource, sys; from advae.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["train", "--resume", str(short.path), "--train.steps", "12", "--no-report", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    before = files(short.path / "checkpoints")
    ended = subprocess.run(
        [sys.executable, "-c", code, *argv], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert f"--resume {short.path}" in ended.stderr
    assert files(short.path / "checkpoints") == before


# --- removed folders and links ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 5, 11])
def test_removed_run_directory_is_noticed_and_not_made_again(
    step: int, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    at_step(monkeypatch, step, lambda: shutil.rmtree(out))
    with pytest.raises(CheckpointError, match=str(out)):
        advae.train(tiny.tree(source), out=out, quiet=True, report=False)
    assert not out.exists()


@pytest.mark.parametrize("module", [checkpoint_module, model_module])
def test_run_removed_while_weights_are_written_is_not_made_again(
    module: Any, short: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = module.save_tensors

    def save_and_remove(path: Path, tensors: Any) -> str:
        checksum = save(path, tensors)
        shutil.rmtree(short.path)
        return str(checksum)

    monkeypatch.setattr(module, "save_tensors", save_and_remove)
    with pytest.raises(AdvaeError):
        resume_to_the_end(short)
    assert not short.path.exists()


@pytest.mark.parametrize("remains", ["env.json", "model/config.json", "checkpoints/last/state.json"])
def test_nothing_remains_of_a_run_that_is_removed_while_it_is_written(
    remains: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if ``rm -r`` had found all but what was being written."""
    out = tmp_path / "run"

    def remove() -> None:
        shutil.rmtree(out)
        (out / remains).parent.mkdir(parents=True)
        (out / remains).touch()

    at_step(monkeypatch, 3, remove)
    with pytest.raises(CheckpointError, match=str(out)):
        advae.train(tiny.tree(source), out=out, quiet=True, report=False)
    assert not out.exists()


def test_a_run_without_its_lock_file_is_not_removed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    at_step(monkeypatch, 3, (out / LOCK_FILE).unlink)
    with suppress(CheckpointError):
        advae.train(tiny.tree(source), out=out, quiet=True, report=False)
    assert (out / "config.yaml").exists() and (out / "checkpoints/last/state.json").exists()


def test_files_of_others_remain_in_a_run_that_is_removed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def remove() -> None:
        shutil.rmtree(out)
        (out / "checkpoints").mkdir(parents=True)
        (out / "checkpoints/thesis.txt").touch()

    at_step(monkeypatch, 3, remove)
    with pytest.raises(CheckpointError, match=str(out)):
        advae.train(tiny.tree(source), out=out, quiet=True, report=False)
    assert (out / "checkpoints/thesis.txt").exists()


def test_run_of_another_process_in_place_of_a_removed_one_is_not_touched(
    source: str, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def replace() -> None:
        shutil.rmtree(out)
        shutil.copytree(uninterrupted.path, out)

    at_step(monkeypatch, 3, replace)
    with pytest.raises(CheckpointError, match=str(out)):
        advae.train(tiny.tree(source), out=out, quiet=True, report=False)
    assert files(out) == files(uninterrupted.path)


@pytest.mark.parametrize("name", ["model", "checkpoints", "checkpoints/last", "samples", "metrics.jsonl"])
def test_links_out_of_a_run_are_refused_at_once(name: str, short: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = (short.path / name).rename(tmp_path / "elsewhere" / "target")
    (short.path / name).symlink_to(target)
    before = files(tmp_path / "elsewhere")
    for action in (resume_to_the_end, lambda run: advae.load(run.path)):
        with pytest.raises(CheckpointError, match=name):
            action(short)
    assert files(tmp_path / "elsewhere") == before
    (short.path / name).unlink()
    target.rename(short.path / name)
    assert resume_to_the_end(short).model().info["step"] == tiny.STEPS


def test_links_within_a_run_and_to_a_run_are_followed(short: Run, uninterrupted: Run, tmp_path: Path) -> None:
    (short.path / "checkpoints" / "last").rename(short.path / "checkpoints" / "step-000005")
    (short.path / "checkpoints" / "last").symlink_to("step-000005")
    before = files(short.path / "checkpoints" / "step-000005")
    (tmp_path / "link").symlink_to(short.path)
    run = resume_to_the_end(Run.open(tmp_path / "link"))
    assert tiny.differing(tiny.state(run), tiny.state(uninterrupted)) == []
    assert files(short.path / "checkpoints" / "step-000005") == before
    assert not (short.path / "checkpoints" / "last").is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/fifo"])
def test_pipe_in_a_run_is_refused(name: str, short: Run) -> None:
    (short.path / name).unlink(missing_ok=True)
    os.mkfifo(short.path / name)
    with pytest.raises(CheckpointError, match=name):
        resume_to_the_end(short)


# --- wrong types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", ["data", "model", "method", "train"])
@pytest.mark.parametrize("value", ["x", 3, None, []])
def test_section_of_the_wrong_type_is_refused(section: str, value: object, short: Run) -> None:
    short.write_config(short.config | {section: value})
    with pytest.raises(CheckpointError, match=section):
        _ = short.config
    before = files(short.path)
    for action in (resume_to_the_end, lambda run: train_or_resume("vae-digits", out=run.path)):
        with pytest.raises(AdvaeError, match=section):
            action(short)
    assert files(short.path) == before


@pytest.mark.parametrize("name", ["env.json", "metrics.jsonl", "model/config.json", "command.txt"])
@pytest.mark.parametrize("value", ["x", 3, None, [[1]], {"step": "x"}, {"data": "x", "step": [], "spec": 1}])
def test_wrong_types_in_files_of_a_run_are_one_error(name: str, value: object, short: Run) -> None:
    (short.path / name).write_bytes(json.dumps(value).encode() if name != "command.txt" else b"\xff\xfe")
    run = Run.open(short.path)
    is_invalid = (
        name in ("model/config.json", "command.txt") or not isinstance(value, dict) or "data" in value
    )
    with pytest.raises(AdvaeError) if is_invalid and name != "metrics.jsonl" else suppress(AdvaeError):
        run.model(), run.metrics(), run.env, run.command
    with suppress(AdvaeError):
        resume_to_the_end(run)


@pytest.mark.parametrize("value", ["x", 3, None, [], {}, {"name": 3}, 10**30, -1, "digits"])
def test_wrong_types_in_a_saved_model_are_one_error(value: object, short: Run) -> None:
    path = short.path / "model" / "config.json"
    config = json.loads(path.read_text())

    def replacements(tree: Any) -> Iterator[Any]:
        yield value
        for key, item in tree.items() if isinstance(tree, dict) else ():
            for replaced in replacements(item):
                yield tree | {key: replaced}

    for replaced in replacements(
        {key: config[key] for key in ("x_shape", "critics", "spec", "info", "sha256")}
    ):
        write_json(path, replaced | {"format": config["format"]} if isinstance(replaced, dict) else replaced)
        try:
            assert advae.load(path.parent).x_shape
        except AdvaeError:
            continue


def test_empty_name_of_a_run_directory_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        advae.train(tiny.tree(source), out="", quiet=True, report=False)
    assert list(tmp_path.iterdir()) == []
