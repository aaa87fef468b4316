"""Safetensors with checksums; pickled files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from advae.errors import CheckpointError
from advae.serialization import (
    check_no_pickle,
    download_model,
    is_hub_id,
    load_tensors,
    load_weights,
    save_tensors,
)


def test_tensors_are_read_as_written(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(3)}
    checksum = save_tensors(tmp_path / "t.safetensors", tensors)
    again = load_tensors(tmp_path / "t.safetensors", checksum)
    assert again.keys() == tensors.keys() and all(torch.equal(again[k], tensors[k]) for k in tensors)


def test_a_flipped_bit_a_truncated_file_and_a_missing_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    checksum = save_tensors(path, {"a": torch.zeros(4)})
    data = path.read_bytes()
    for damaged in (data[:-1] + b"\1", data[:20]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="checksum"):
            load_tensors(path, checksum)
    path.unlink()
    with pytest.raises(CheckpointError):
        load_tensors(path, checksum)


@pytest.mark.parametrize("other", [nn.Linear(2, 4), nn.Linear(2, 3, bias=False), nn.Bilinear(2, 2, 3)])
def test_weights_must_fit_the_module(tmp_path: Path, other: nn.Module) -> None:
    layer = nn.Linear(2, 3)
    checksum = save_tensors(tmp_path / "w.safetensors", layer.state_dict())
    again = nn.Linear(2, 3)
    load_weights(again, tmp_path / "w.safetensors", checksum)
    assert torch.equal(again.weight, layer.weight)
    with pytest.raises(CheckpointError):
        load_weights(other, tmp_path / "w.safetensors", checksum)


@pytest.mark.parametrize("name", ["m.pt", "m.PTH", "m.bin", "m.pkl", "m.pickle", "m.ckpt", "m.joblib"])
def test_pickled_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=name):
            check_no_pickle(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", True),
        ("a/b.c-d", True),
        ("name", False),
        ("a/b/c", False),
        ("./runs", False),
        ("/a", False),
    ],
)
def test_hub_ids(text: str, expected: bool) -> None:
    assert is_hub_id(text) is expected


def test_an_unreachable_hub_is_reported_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import LocalEntryNotFoundError

    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("an error happened")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        download_model("someone/model")
    assert "someone/model" in str(caught.value) and "LocalEntry" not in str(caught.value)
