"""Atomic files, JSON, NumPy archives, checksums and folder locks.

A file or folder is written under a temporary name and then renamed, so that a reader, or a crash at any moment, sees
the old content or the new, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
LOCK_FILE = ".lock"


def write_atomically(path: PathLike, content: str | bytes) -> None:
    """Write a file, whole or not at all; make its folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, tmp_path = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(tmp_path, 0o644)
        os.replace(tmp_path, path)
    except BaseException:
        Path(tmp_path).unlink(missing_ok=True)
        raise


def to_json_value(value: Any) -> Any:
    """Return a value with what JSON cannot hold replaced: non-finite numbers by None, tuples by lists."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> str:
    """Return indented JSON; other objects, such as paths, become strings."""
    return json.dumps(to_json_value(value), indent=2, default=str, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: PathLike, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_atomically(path, to_json(value))


def read_json(path: PathLike) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: the file is missing, truncated or not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise CheckpointError("File is missing.", given=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(
            "JSON file cannot be read.",
            given=f"{path}: {error}",
            fix="it was edited or truncated: restore it",
        ) from None


def read_json_object(path: PathLike) -> dict[str, Any]:
    """Read JSON that holds an object.

    Raises:
        CheckpointError: as :func:`read_json`; or the file holds another type.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(
            "JSON file holds the wrong type.", given=f"{path}: a {type(value).__name__}", expected="an object"
        )
    return value


def write_npz(path: PathLike, arrays: Mapping[str, Any], *, compress: bool = False) -> None:
    """Write arrays and CPU tensors by name as one .npz file, atomically."""
    import numpy as np

    buffer = BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(buffer, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_npz(path: PathLike) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of a .npz file.

    Raises:
        CheckpointError: the file is missing, truncated, pickled or not a .npz file.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise CheckpointError("File is missing.", given=path) from None
    except (
        Exception
    ) as error:  # truncated archives raise many types: BadZipFile, EOFError, ValueError, zlib.error
        raise CheckpointError("Arrays cannot be read.", given=f"{path}: {error}") from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_folder(folder: PathLike) -> Iterator[None]:
    """Keep other processes out of a folder within the block. The lock of a process that dies is released.

    Without effect on file systems that have no locks.

    Raises:
        CheckpointError: another process holds the lock.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(Path(folder) / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise CheckpointError(
            "Another process is working on this run.", given=folder, fix="wait for it, or stop it"
        ) from None
    except (NotImplementedError, OSError):  # no locks here
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replaced_folder(path: PathLike) -> Iterator[Path]:
    """Yield a temporary folder to fill, which replaces ``path`` at the end of the block.

    Killed at any moment, ``path`` holds the complete old folder, the complete new one, or (for an instant between two
    renames) the old one under ``.NAME.old``, which :func:`recovered_folder` finds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_dir = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    os.chmod(tmp_dir, 0o755)
    old = path.with_name(f".{path.name}.old")
    try:
        yield tmp_dir
        for file in tmp_dir.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(tmp_dir, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(tmp_dir, ignore_errors=True)
        raise
    for stale in path.parent.glob(f".{path.name}.new-*"):
        shutil.rmtree(stale, ignore_errors=True)


def recovered_folder(path: PathLike) -> Path:
    """Return ``path``, or the old folder of a writer that was killed between its two renames."""
    path = Path(path)
    old = path.with_name(f".{path.name}.old")
    return old if not path.exists() and old.exists() else path
