"""Atomic files and folders, JSON, and folder locks."""

from __future__ import annotations

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

from advae.errors import CheckpointError
from advae.io import (
    lock_folder,
    read_json,
    read_npz,
    recovered_folder,
    replaced_folder,
    write_atomically,
    write_json,
    write_npz,
)
from advae.run import Run


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
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
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
    run = Run.create(tmp_path / "run", {"recipe": "x"})
    row = {"step": 1, "split": "train", "train/kl": 0.5}
    for cut in (b'{"step": 2, "sp', b'{"step": "\xc3', b"3"):
        (run.path / "metrics.jsonl").write_bytes(json.dumps(row).encode() + b"\n" + cut)
        assert run.metrics() == [row]
    run.write_metrics_csv()
    assert (run.path / "metrics.csv").read_text() == "step,split,train/kl\n1,train,0.5\n"


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {})
    with pytest.raises(CheckpointError, match="--resume"):
        Run.create(tmp_path / "run", {})
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        Run.open(tmp_path)


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
