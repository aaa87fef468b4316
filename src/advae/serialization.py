"""Safetensors and JSON, from disk or the hub; never pickles.

Loading runs no code from the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advae.errors import CheckpointError
from advae.io import file_sha256, write_errors

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".ckpt"})
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors as safetensors, readable by those who can read the folder, and return the file's SHA-256.

    Raises:
        WriteError: the file cannot be written.
    """
    with write_errors(path):
        try:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
        except SafetensorError as error:  # contains the system's error as text
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from None
        os.chmod(path, path.parent.stat().st_mode & 0o666)
    return file_sha256(path)


def load_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """Read safetensors that have this checksum.

    Raises:
        CheckpointError: the file is missing, truncated, edited or pickled.
    """
    check_no_pickle(path)
    try:
        checksum = file_sha256(path)
        if checksum != sha256:
            raise CheckpointError(
                "Weights are corrupted: checksum mismatch.",
                given=f"{path} ({checksum[:12]})",
                expected=str(sha256)[:12],
                fix="the file was truncated or edited; restore it, or use another checkpoint",
            )
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError("Weights are missing.", given=path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError("Weights cannot be read.", given=f"{path}: {error}") from None


def load_weights(module: nn.Module, path: Path, sha256: str | None) -> None:
    """Load safetensors that have this checksum into a module that they must fit exactly.

    Raises:
        CheckpointError: as :func:`load_tensors`; or the module has other tensors.
    """
    tensors = load_tensors(path, sha256)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError("Weights do not fit the model.", given=f"{path}: {error}") from None


def check_no_pickle(path: Path) -> None:
    """Refuse a file, or a folder of files, that only unpickling can read: it can run arbitrary code.

    Raises:
        CheckpointError: a file is pickled.
    """
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    for file in files:
        if file.suffix.lower() in PICKLE_SUFFIXES:
            raise CheckpointError(
                "Pickled files are never loaded: they can run arbitrary code.",
                given=file,
                expected="safetensors and JSON",
                fix="convert the file with the program that wrote it",
            )


def is_hub_id(text: str) -> bool:
    """Return whether ``text`` has the form ``OWNER/NAME``."""
    return _HUB_ID.fullmatch(text) is not None


def download_model(hub_id: str) -> Path:
    """Download the JSON and safetensors files of a model from the hub and return their folder.

    Raises:
        CheckpointError: the hub has no such model or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        is_missing = isinstance(error, RepositoryNotFoundError)
        why = "no such model on the hub" if is_missing else "the hub cannot be reached"
        raise CheckpointError(
            f"No such folder, and {why}.",
            given=hub_id,
            fix="check the path or id, and the network connection",
        ) from error
