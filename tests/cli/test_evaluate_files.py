"""Files of ``advae evaluate``: what it deletes, links, deleted runs, full disks, and other data than the run's."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advae.data import DataOptions, load_data
from advae.errors import CheckpointError
from advae.evaluation.evaluate import evaluate_run
from advae.evaluation.resumable import Runner
from advae.run import Run

FAST = ("--likelihood", "elbo", "--elbo-samples", 2, "--diagnostics", "none", "--limit", 20)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside the run, with a file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.npz").write_bytes(b"mine")
    return tmp_path / "outside"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def small_images(path: Path, n: int, seed: int = 0) -> Path:
    np.save(path, np.random.default_rng(seed).integers(0, 256, (n, 8, 8), dtype=np.uint8))
    return path


def test_only_files_that_the_last_evaluation_lists_are_deleted(run: Path, advae: Any) -> None:
    (run / "eval" / "mine.npz").write_bytes(b"mine")
    (run / "eval" / ".elbo.npz.new-01234567").write_bytes(b"of a writer that was killed")
    (run / "eval" / "unfinished").mkdir()
    (run / "eval" / "unfinished" / "notes.txt").write_text("mine")
    assert advae("evaluate", run, *FAST).code == 0
    assert (run / "eval" / "elbo.npz").exists() and not (run / "eval" / "iwae-64.npz").exists()
    assert advae("evaluate", run, *FAST, "--likelihood", "none").code == 0
    assert not (run / "eval" / "elbo.npz").exists()
    assert (run / "eval" / "mine.npz").read_bytes() == b"mine"
    assert not (run / "eval" / ".elbo.npz.new-01234567").exists()
    assert (run / "eval" / "unfinished" / "notes.txt").read_text() == "mine"


def test_a_list_of_files_cannot_name_files_elsewhere(run: Path, outside: Path, advae: Any) -> None:
    estimates = run / "eval" / "estimates.json"
    names = ["../model/model.safetensors", "../../outside/mine.npz", str(outside / "mine.npz"), 3, None, []]
    for files in (names, "mine.npz", 3):
        estimates.write_text(json.dumps(json.loads(estimates.read_text()) | {"files": files}))
        assert advae("evaluate", run, *FAST).code == 0
    assert (run / "model" / "model.safetensors").exists() and (outside / "mine.npz").exists()


@pytest.mark.parametrize("folder", ["eval", "eval/unfinished"])
def test_a_folder_that_is_a_link_out_of_the_run_is_refused(
    folder: str, run: Path, outside: Path, advae: Any
) -> None:
    shutil.rmtree(run / folder, ignore_errors=True)
    (run / folder).symlink_to(outside, target_is_directory=True)
    answer = advae("evaluate", run, *FAST, "--likelihood", "elbo,ais", "--chains", 2, "--temperatures", 3)
    assert answer.code == 2 and str(folder) in answer.err and "Traceback" not in answer.err
    assert contents(outside) == {"mine.npz": b"mine"}


def test_links_to_files_are_never_followed(run: Path, outside: Path) -> None:
    """Also if they are made while an evaluation is running."""
    run_dir, data = Run.open(run), load_data(DataOptions())
    model = run_dir.model()

    def make_links() -> None:
        for name in ("elbo.npz", "iwae-64.npz", "estimates.json"):  # the first and the last are written again
            (run / "eval" / name).unlink(missing_ok=True)
            (run / "eval" / name).symlink_to(outside / "mine.npz")

    with suppress(CheckpointError):
        stage = stage_that_calls(make_links, "iwae-3")
        evaluate_run(run_dir, model, data, likelihood=("elbo", "iwae"), iwae_samples=3, limit=20, stage=stage)
    assert contents(outside) == {"mine.npz": b"mine"}


def test_partial_results_are_not_read_through_a_link(run: Path, outside: Path) -> None:
    partial = Runner(run).partial_result({}, 0)
    folder = run.joinpath(*partial.parts[:-1])
    folder.parent.mkdir()
    folder.symlink_to(outside, target_is_directory=True)
    for access in (partial.load_result, partial.load_state, lambda: partial.save_result({})):
        with pytest.raises(CheckpointError):
            access()
    Runner(run).delete_partial_results()
    assert contents(outside) == {"mine.npz": b"mine"}


Stage = Callable[[str, int], Any]


def stage_that_calls(action: Callable[[], None], label: str) -> Stage:
    """Return a stage that calls a function when the stage with this label has made its first step."""

    @contextmanager
    def stage(name: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda n: action() if name == label else None

    return stage


@pytest.mark.parametrize("label", ["reconstruction", "elbo", "latents"])
def test_a_run_that_is_deleted_meanwhile_ends_with_an_error_and_stays_deleted(label: str, run: Path) -> None:
    """``reconstruction`` stores no partial results, so that the deletion is noticed at a later stage or at the end."""
    run_dir, data = Run.open(run), load_data(DataOptions())
    model = run_dir.model()
    stage = stage_that_calls(lambda: shutil.rmtree(run, ignore_errors=True), label)
    with pytest.raises(CheckpointError):
        evaluate_run(run_dir, model, data, likelihood="elbo", limit=20, stage=stage)
    assert not run.exists()


@pytest.mark.parametrize("fails_at", ["partial results", "estimates"])
def test_a_full_disk_is_one_message_and_the_evaluation_continues_later(
    fails_at: str, run: Path, advae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fsync, calls = (run / "eval" / "estimates.json").read_bytes(), os.fsync, []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        if fails_at == "partial results" or len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    answer = advae("evaluate", run, *FAST)
    assert calls and answer.code == 2 and "Traceback" not in answer.err
    assert str(run) in answer.err and "fix:" in answer.err
    assert (run / "eval" / "estimates.json").read_bytes() == before
    monkeypatch.setattr(os, "fsync", fsync)
    assert advae("evaluate", run, *FAST).code == 0
    assert not (run / "eval" / "unfinished").exists()


def test_other_data_are_evaluated_as_a_whole_under_their_own_name(
    run: Path, advae: Any, tmp_path: Path
) -> None:
    """The evaluation of the run's own data is kept, and so is that of another source with the same name."""
    before = contents(run / "eval")
    folders = []
    for name, n, seed in (("a/Ünew images.npy", 30, 0), ("b/Ünew images.npy", 31, 1)):
        (tmp_path / name).parent.mkdir()
        source = small_images(tmp_path / name, n, seed)
        options = ("--likelihood", "elbo", "--diagnostics", "none", "--data.source", source)
        answer = json.loads(advae("evaluate", run, *options, "--json").out)
        path = Path(answer["path"])
        assert path.parent.parent == run and path.parent.name.startswith("eval-")
        assert json.loads(path.read_text())["estimates"] == answer["estimates"]
        assert all(e["n"] == n for e in answer["estimates"])
        assert (path.parent / "elbo.npz").exists()
        assert str(path.parent) in advae("evaluate", run, *options).err
        baseline = next(e for e in answer["estimates"] if e["kind"] == "baseline")
        assert baseline["protocol"]["fitted"].startswith("1455 training images")  # those of the run
        folders.append(path.parent)
    assert len(set(folders)) == 2
    assert contents(run / "eval") == before
    assert not (run / "eval" / "unfinished").exists()


def test_other_data_with_a_test_split_are_evaluated_on_it(run: Path, advae: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    parts = {"train": 40, "test": 7}
    arrays = {name: random.integers(0, 256, (n, 8, 8), dtype=np.uint8) for name, n in parts.items()}
    np.savez(tmp_path / "split.npz", **arrays)
    for split, n in ((None, 7), ("train", 40)):
        options = ("--data.source", tmp_path / "split.npz", *(("--split", split) if split else ()))
        estimates = json.loads(advae("evaluate", run, "--likelihood", "elbo", *options, "--json").out)[
            "estimates"
        ]
        assert {e["n"] for e in estimates if e["section"] == "likelihood"} == {n}


def test_the_run_s_own_data_elsewhere_are_its_own(run: Path, advae: Any, tmp_path: Path) -> None:
    own = small_images(tmp_path / "own.npy", 90)
    out = tmp_path / "trained here"
    shape = ("--model.encoder.hidden", "[8]", "--model.decoder.hidden", "[8]", "--train.batch_size", 16)
    options = ("--out", out, "--train.steps", 2, "--quiet", "--no-report", *shape)
    assert advae("train", "vae-digits", "--data.source", own, *options).code == 0
    moved = own.rename(tmp_path / "moved.npy")
    answer = json.loads(advae("evaluate", out, *FAST, "--data.source", moved, "--json").out)
    assert Path(answer["path"]) == out / "eval" / "estimates.json"
    other = small_images(tmp_path / "other.npy", 60, seed=1)  # the run's training data are not found any more
    answer = json.loads(advae("evaluate", out, *FAST, "--data.source", other, "--json").out)
    assert Path(answer["path"]).parent.name.startswith("eval-other-")
    assert {e["n"] for e in answer["estimates"]} == {6}


def test_samples_and_critics_of_other_data_are_compared_with_the_training_data(
    run: Path, advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVAE_CACHE", str(tmp_path / "cache"))
    options = (
        "--likelihood",
        "none",
        "--samples",
        "fid",
        "--data.source",
        small_images(tmp_path / "new.npy", 40),
    )
    estimates = json.loads(advae("evaluate", run, *options, "--json").out)["estimates"]
    by_name = {e["name"]: e for e in estimates}
    samples, baseline = by_name["FID[digits-classifier]"], by_name["FID[digits-classifier] of new data"]
    assert samples["n"] == baseline["n"] == 40
    assert samples["protocol"]["reference"] == baseline["protocol"]["reference"] == "1455 training images"
    assert by_name["accuracy[digits-classifier]"]["value"] > 0.9  # of the run's own labels


def test_other_data_of_another_shape_are_refused(run: Path, advae: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.zeros((50, 7), np.float32))
    answer = advae("evaluate", run, "--data.source", tmp_path / "vectors.npy")
    assert answer.code == 2 and "Traceback" not in answer.err
