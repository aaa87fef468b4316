"""Atomic files, JSON, NumPy archives, checksums and folder locks.

A file or folder is written under a temporary name and then renamed, so that a reader, or a crash at any moment, sees
the old content or the new, never a part of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from advae.errors import AdvaeError, CheckpointError, WriteError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PathLike = str | os.PathLike[str]
LOCK_FILE = ".lock"
MAX_TEXT_BYTES = 2**26
MAX_ATTEMPTS = 5  # to read a folder that is being replaced
NO_LOCKS_ERRNOS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
Result = TypeVar("Result")


@contextmanager
def write_errors(path: PathLike) -> Iterator[None]:
    """Turn the system's errors in the block into one that names the file or folder that is written.

    Raises:
        WriteError: the disk is full, broken or read-only, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space, or use another disk" if is_full else "check the disk and the permissions"
        raise WriteError(
            "File cannot be written.", given=f"{path}: {error.strerror or error}", fix=fix
        ) from error


def write_atomically(path: PathLike, content: str | bytes) -> None:
    """Write a file, whole or not at all; make its folder if needed.

    Raises:
        WriteError: the file cannot be written.
    """
    path = Path(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    tmp_path = _temporary_name(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tmp_path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(tmp_path, path)
        except BaseException:
            tmp_path.unlink(missing_ok=True)
            raise


def _temporary_name(path: Path) -> Path:
    """Return a name next to ``path`` that is free; :func:`remove_leftovers` knows it."""
    return path.with_name(f".{path.name}.new-{os.urandom(4).hex()}")


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
    try:
        is_inside = path.resolve().is_relative_to(Path(root).resolve())
    except (RuntimeError, OSError):  # a link to itself; RuntimeError before Python 3.13
        is_inside = False
    if not is_inside:
        raise CheckpointError(
            "A link leads out of the folder, or to itself.", given=path, fix="remove the link"
        )
    return path


def check_kinds(folder: PathLike) -> None:
    """Check that a folder contains nothing but files, folders, and links that stay inside it.

    Raises:
        CheckpointError: a link leads out of the folder, or there is a pipe, a socket or a device.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # a temporary file of another process
                continue
            if stat.S_ISLNK(mode):
                path_inside(folder, str(path.relative_to(folder)))
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise CheckpointError("Folder contains a pipe, a socket or a device.", given=path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_folder(
    folder: PathLike, *, create: bool = False, name: str = LOCK_FILE, timeout: float = 0.0
) -> Iterator[Callable[[], None]]:
    """Keep other processes out of a folder within the block. The lock of a process that dies is released.

    With ``create`` the folder is made if needed. A writer that checks within the block that the folder is empty, except
    for :data:`LOCK_FILE`, is the only one to find it so: no other can start there or remove what it writes.

    On file systems without locks, other processes are not kept out.

    Args:
        folder: the folder.
        create: make it.
        name: of the lock's file, for one of several locks of a folder.
        timeout: seconds to wait for another process.

    Yields:
        A function that checks that the folder still is the locked one. It raises CheckpointError if the folder was
        removed, moved, or made again by another process.

    Raises:
        CheckpointError: another process holds the lock, or the folder does not exist.
        WriteError: the folder cannot be made or written.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    with write_errors(folder):
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        path = path_inside(folder, name)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            raise CheckpointError(
                "Another process is working on this run.", given=folder, fix="wait for it, or stop it"
            ) from None
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS_ERRNOS:
                raise
    # The lock file stays open, so that no later file gets its inode.
    marker = path if lock.is_locked else folder
    device_and_inode = _identity(marker)[:2]

    def check() -> None:
        if _identity(marker)[:2] != device_and_inode:
            raise CheckpointError("Folder was removed or moved while it was in use.", given=folder)

    try:
        yield check
    finally:
        lock.release()


def _identity(path: Path) -> tuple[int, int, int]:
    """Return device, inode and time of change in nanoseconds of a file or folder; zeros if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextmanager
def replaced_folder(path: PathLike) -> Iterator[Path]:
    """Yield a temporary folder to fill, which replaces ``path`` at the end of the block.

    Killed at any moment, ``path`` holds the complete old folder, the complete new one, or (for an instant between two
    renames) the old one under ``.NAME.old``, which :func:`recovered_folder` finds. Of a link, the link is replaced, and
    the folder that it leads to is not touched.

    Raises:
        WriteError: the folder cannot be written.
    """
    path = Path(path)
    tmp_dir = _temporary_name(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            tmp_dir.mkdir()
            yield tmp_dir
            for file in tmp_dir.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            old = _old_folder(path)
            if os.path.lexists(path):
                _remove(old)
                os.rename(path, old)
            os.rename(tmp_dir, path)
        except BaseException:
            _remove(tmp_dir)
            raise
        remove_leftovers(path.parent, re.escape(path.name))


def remove_leftovers(folder: PathLike, names: str) -> None:
    """Remove the temporary files and folders of killed writers; no other process may be writing them.

    Args:
        folder: where they are.
        names: a regular expression of what was written.
    """
    for path in list(Path(folder).iterdir()):
        if match := re.fullmatch(_leftover_pattern(names), path.name):
            target = path.with_name(match[1])
            if match[2] == "old" and not os.path.lexists(target):
                os.rename(path, target)
            else:
                _remove(path)


def _leftover_pattern(names: str) -> str:
    """Return a regular expression of the temporary names of what is called ``names``; groups: name, kind."""
    return rf"\.({names})\.(old|new-\w{{8}})"


def leftover_of(name: str) -> str | None:
    """Return the name of the file or folder that a temporary file or folder was to become; None for other names."""
    match = re.fullmatch(r"\.(.+)\.new-\w{8}", name)
    return match[1] if match else None


def remove_remains(folder: PathLike, names: Mapping[str, str], first_files: Sequence[str]) -> None:
    """Remove what was written to a folder while it was being removed.

    Args:
        folder: the folder, which is removed too if nothing else is left in it.
        names: folders in it, the deepest last, and regular expressions of what was written to them.
        first_files: the files that were there from the beginning: if one of them is left, or there again, nothing is
            removed.
    """
    folder = Path(folder)
    if any((folder / name).exists() for name in first_files):
        return
    for name, pattern in reversed(list(names.items())):
        parent = folder / name
        with suppress(OSError):  # it does not exist, or something else is left in it
            for path in list(parent.iterdir()):
                if re.fullmatch(f"{pattern}|{_leftover_pattern(pattern)}", path.name):
                    _remove(path)
            parent.rmdir()


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _old_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def recovered_folder(path: PathLike) -> Path:
    """Return ``path``, or the old folder of a writer that was killed between its two renames."""
    path = Path(path)
    old = _old_folder(path)
    return old if not path.exists() and old.exists() else path


def read_replaceable(path: PathLike, read: Callable[[Path], Result]) -> Result:
    """Return ``read(folder)`` for a folder that another process may replace meanwhile; then read it again.

    Raises:
        CheckpointError: as ``read``, of a folder that has not changed since.
    """
    for _ in range(MAX_ATTEMPTS):
        folder = recovered_folder(path)
        before = folder, _identity(folder)
        try:
            return read(folder)
        except (CheckpointError, OSError):
            folder = recovered_folder(path)
            if before == (folder, _identity(folder)):
                raise
    return read(recovered_folder(path))
