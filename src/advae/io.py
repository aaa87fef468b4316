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
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.errors import AdvaeError, CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
LOCK_FILE = ".lock"
MAX_TEXT_BYTES = 2**26


def write_atomically(path: PathLike, content: str | bytes) -> None:
    """Write a file, whole or not at all; make its folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
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


def read_text(
    path: PathLike, error: type[AdvaeError] = CheckpointError, *, max_bytes: int = MAX_TEXT_BYTES
) -> str:
    """Return the content of a UTF-8 file, whatever the locale.

    A pipe, a device, or a link to one, is refused without waiting for it.

    Raises:
        AdvaeError: of type ``error``: the file is missing, unreadable, not a regular file, not UTF-8 or too large.
    """
    try:
        # Opening a pipe would otherwise wait for its writer.
        flags = getattr(os, "O_NONBLOCK", 0)
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error("File cannot be read.", given=path, expected="a regular file")
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise error("File is too large.", given=path, expected=f"at most {max_bytes:,} bytes")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise error("File is missing.", given=path) from None
    except (OSError, ValueError) as reason:  # ValueError: not UTF-8, or a zero byte in the path
        why = reason.strerror if isinstance(reason, OSError) else reason
        raise error("File cannot be read.", given=f"{path}: {why}") from None


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
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
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


def path_inside(root: PathLike, *parts: str) -> Path:
    """Return the path of a file below an existing folder, to read, write or delete it.

    Raises:
        CheckpointError: the folder is gone, or a link on the way leads out of it.
    """
    path = Path(root, *parts)
    if not Path(root).is_dir():
        raise CheckpointError("Folder does not exist any more: it was deleted or moved.", given=root)
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise CheckpointError("A link leads out of the folder.", given=path, fix="remove the link")
    return path


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
