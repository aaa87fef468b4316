"""Atomic files and folders, JSON, and folder locks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from advae.errors import CheckpointError, WriteError
from advae.io import (
    LOCK_FILE,
    check_kinds,
    lock_folder,
    read_json,
    read_npz,
    read_replaceable,
    recovered_folder,
    remove_leftovers,
    replaced_folder,
    write_atomically,
    write_json,
    write_npz,
)
from advae.run import Run, check_unused
from advae.serialization import save_tensors


def pickle_bytes() -> bytes:
    """Return an .npz archive with a pickled array."""
    buffer = BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def test_a_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(WriteError, match=r"a\.txt"):
            patch.setattr(os, function, full)
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("old")
    with pytest.raises(RuntimeError), replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("new")
        raise RuntimeError
    assert (path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_one_error_and_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("old")
    for error in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        with pytest.raises(WriteError, match="model"), replaced_folder(path):
            raise OSError(error, os.strerror(error))
    assert (path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_umask_determines_who_may_read(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.txt", "")
        with replaced_folder(tmp_path / "model") as tmp_dir:
            save_tensors(tmp_dir / "x.safetensors", {"x": torch.eye(2)})
    finally:
        os.umask(previous)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.txt", "model", "model/x.safetensors")]
    assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


def test_a_link_is_replaced_and_its_target_is_not_touched(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "run" / "model"
    elsewhere.mkdir()
    (elsewhere / "x").write_text("old")
    path.parent.mkdir()
    for target in (elsewhere, tmp_path / "nowhere", elsewhere):
        shutil.rmtree(path, ignore_errors=True)
        path.symlink_to(target)
        for content in ("new", "newer"):
            with replaced_folder(path) as tmp_dir:
                (tmp_dir / "x").write_text(content)
        assert not path.is_symlink() and (path / "x").read_text() == "newer"
        assert (elsewhere / "x").read_text() == "old"
        assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_only_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    kept = ["last", ".lastly.new-01234567", ".last.new-mine", "last.new-01234567", ".last.newer", ".lock"]
    for name in (*kept, ".last.new-01234567", ".last.old"):
        (tmp_path / name).mkdir()
    (tmp_path / ".last.new-89abcdef").symlink_to(tmp_path / "last")
    remove_leftovers(tmp_path, "last|best")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    (tmp_path / "last").rename(tmp_path / ".last.old")
    remove_leftovers(tmp_path, "last|best")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_is_read_again_if_it_was_replaced_meanwhile(tmp_path: Path) -> None:
    path, contents = tmp_path / "model", iter(["new", "newer"])
    with replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("old")

    def read_while_replaced(folder: Path) -> str:
        before = (folder / "x").read_text()
        if content := next(contents, None):
            with replaced_folder(path) as tmp_dir:
                (tmp_dir / "x").write_text(content)
        if (folder / "x").read_text() != before:
            raise CheckpointError("Weights are corrupted.")
        return before

    assert read_replaceable(path, read_while_replaced) == "newer"
    calls = []

    def fail(folder: Path) -> None:
        calls.append(folder)
        raise CheckpointError("Weights are corrupted.")

    with pytest.raises(CheckpointError):
        read_replaceable(path, fail)
    assert calls == [path]  # nothing has changed: the folder is damaged


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_writer_killed_at_either_rename_leaves_a_complete_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """A kill runs no cleanup: later renames and the removal of leftovers do not happen."""
    path, calls, rename = tmp_path / "last", [], os.rename
    with replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("old")

    def rename_until_killed(a: Path, b: Path) -> None:
        calls.append(a)
        if len(calls) >= killed_at:
            raise KeyboardInterrupt
        rename(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_until_killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt), replaced_folder(path) as tmp_dir:
            (tmp_dir / "x").write_text("new")
    assert (recovered_folder(path) / "x").read_text() == "old"
    with replaced_folder(path) as tmp_dir:
        (tmp_dir / "x").write_text("newer")
    assert (recovered_folder(path) / "x").read_text() == "newer"
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_truncated_json_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json"):
        read_json(path)


def test_a_truncated_metrics_line_is_ignored(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.write_config({"recipe": "x"})
    row = {"step": 1, "split": "train", "train/kl": 0.5}
    for cut in (b'{"step": 2, "sp', b'{"step": "\xc3', b"3"):
        (run.path / "metrics.jsonl").write_bytes(json.dumps(row).encode() + b"\n" + cut)
        assert run.metrics() == [row]
    run.write_metrics_csv()
    assert (run.path / "metrics.csv").read_text() == "step,split,train/kl\n1,train,0.5\n"


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    Run(tmp_path / "run").write_config({})
    with pytest.raises(CheckpointError, match="--resume"):
        check_unused(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        Run.open(tmp_path)


def test_a_folder_is_locked_as_soon_as_it_exists(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with pytest.raises(CheckpointError), lock_folder(folder):
        pass
    assert not folder.exists()
    with lock_folder(folder, create=True) as check:
        assert [p.name for p in folder.iterdir()] == [LOCK_FILE]
        with pytest.raises(CheckpointError, match=r"(?i)another process"), lock_folder(folder, create=True):
            pass
        check()


@pytest.mark.parametrize("again", [False, True])
def test_a_removed_folder_is_noticed_even_if_it_was_made_again(tmp_path: Path, again: bool) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder, create=True) as check:
        shutil.rmtree(folder)
        if again:
            with lock_folder(folder, create=True), pytest.raises(CheckpointError):
                check()
        with pytest.raises(CheckpointError):
            check()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "target"
    run.mkdir()
    target.write_text("text")
    (run / LOCK_FILE).symlink_to(target)
    with pytest.raises(CheckpointError), lock_folder(run):
        pass
    assert target.read_text() == "text"


@pytest.mark.integration
def test_a_folder_is_locked_by_one_process_until_it_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from advae.io import lock_folder\n"
        "with lock_folder(sys.argv[1]): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"locked\n"
            with pytest.raises(CheckpointError), lock_folder(tmp_path):
                pass
        finally:
            os.kill(other.pid, signal.SIGKILL)
    with lock_folder(tmp_path), pytest.raises(CheckpointError), lock_folder(tmp_path):
        pass


def test_json_has_null_for_non_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": [1.5, float("nan")], "b": (float("inf"), path), "ratio": "μ ± σ"})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": [1.5, None],
        "b": [None, str(path)],
        "ratio": "μ ± σ",
    }


def test_arrays_are_read_as_written(tmp_path: Path) -> None:
    for compress in (False, True):
        write_npz(tmp_path / "a.npz", {"x": torch.eye(3), "seed": 4}, compress=compress)
        arrays = read_npz(tmp_path / "a.npz")
        assert (arrays["x"] == np.eye(3)).all() and arrays["seed"] == 4


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", pickle_bytes()])
def test_unreadable_arrays_are_reported(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")


def test_a_link_to_itself_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(CheckpointError):
        check_kinds(tmp_path)
