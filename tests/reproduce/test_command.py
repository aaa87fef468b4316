"""The command: rows that fail, bad input, the list of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advae.cli import main
from advae.reproduce import runner
from advae.run import Run
from reproduce.small import BAD, page, record, reproduce, table

# --- rows that fail -----------------------------------------------------------------------------------------


@pytest.fixture
def with_bad() -> dict[str, Any]:
    rows = table()["rows"]
    return table(rows=[{"label": "bad | worse", "recipe": BAD}, rows[0]])


def test_failed_row_is_reported_and_others_are_completed(
    tmp_path: Path, with_bad: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path, definition=with_bad) == 1
    bad, good = record(tmp_path)["rows"]
    assert "error" in bad["runs"][0] and good["values"]["elbo"]["value"] < 0
    text = page(tmp_path)
    assert "## Failed\n\n- bad-small, seed 0: " in text
    assert "| failed |" in next(line for line in text.splitlines() if line.startswith("| **bad"))


def test_unexpected_error_affects_only_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_vae(job: Any, **more: Any) -> Run:
        if job.row.label == "VAE":
            raise RuntimeError("out of memory")
        return train(job, **more)

    train = runner.train_job
    monkeypatch.setattr(runner, "train_job", fail_vae)
    assert reproduce(tmp_path) == 1
    vae, avb = record(tmp_path)["rows"]
    assert vae["runs"][0]["error"] == "RuntimeError: out of memory" and avb["values"]["elbo"]


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "vae-smal"], ["vae-smal", "vae-small"]),
        (["--data.source", "digitz=x"], ["digitz", "digits"]),
        (["--data.source", "nowhere.npy"], ["nowhere.npy", "--data.source"]),
        (["--feature-extractor", "inception"], ["feature_extractor"]),
        (["--steps", "0"], ["--steps"]),
        (["--images", "0"], ["--images"]),
        (["--sedes", "1"], ["--seeds"]),
    ],
)
def test_invalid_input_raises_before_training(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(tmp_path, *options) == 2
    stderr = capsys.readouterr().err
    for word in words:
        assert word in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_unknown_table_is_reported_with_the_closest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "avb-3d"]) == 2
    stderr = capsys.readouterr().err
    assert "avb-3d" in stderr and "avb-3a" in stderr


def test_missing_data_of_a_table_are_reported_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "avb-3a", "--rows", "vae-mnist-fc32"]) == 2
    stderr = capsys.readouterr().err
    assert "avb-3a" in stderr and "given:    mnist" in stderr and "--data.source PATH" in stderr
    assert main(["reproduce", "bavae", "--data.source", "somewhere"]) == 2
    assert "--data.source mnist=PATH --data.source cifar10=PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_list_contains_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["table", "asvae-1", "asvae-2", "asvae-3", "avb-3a", "avb-3b", "avb-3c", "bavae"]
