"""Files that are whole or absent: written aside, then renamed; read with an error that says what is wrong. And folders
that one process works on at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advae.errors import CheckpointError


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: the file is missing, cut short or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise CheckpointError("a file is missing", given=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(
            "a JSON file cannot be read", given=f"{path}: {error}", remedy="it was edited or cut short"
        ) from None


def read_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read JSON that holds an object.

    Raises:
        CheckpointError: as :func:`read_json`; or it holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise CheckpointError(
            "a JSON file holds something else",
            given=f"{path}: a {type(found).__name__}",
            expected="an object",
        )
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a run's folder while working on it, so that no other process does; a process that dies lets go.

    Without effect where the system or the file system has no such locks.

    Raises:
        CheckpointError: another process holds it.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                "another process is working on this run",
                given=folder,
                remedy="wait until it has come to its end, or stop it: its work is not lost",
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def replaced_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a new folder beside ``path``, then put it in its place in one rename.

    Killed at any moment, ``path`` holds the old folder whole, the new one whole, or (for an instant
    between two renames) the old one under ``.NAME.old``, which :func:`recovered_folder` finds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    os.chmod(aside, 0o755)
    old = path.with_name(f".{path.name}.old")
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(aside, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for stale in path.parent.glob(f".{path.name}.new-*"):
        shutil.rmtree(stale, ignore_errors=True)


def recovered_folder(path: str | os.PathLike[str]) -> Path:
    """``path``, or the old folder left by a writer that was killed between its two renames."""
    path = Path(path)
    old = path.with_name(f".{path.name}.old")
    return old if not path.exists() and old.exists() else path
