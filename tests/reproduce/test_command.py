"""The command: rows that fail, bad input, the list of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advae.cli import main
from advae.reproduce import runner as work
from advae.run import Run
from reproduce.small import BAD, page, record, reproduced, table

# --- rows that fail -----------------------------------------------------------------------------------------


@pytest.fixture
def with_bad() -> dict[str, Any]:
    rows = table()["rows"]
    return table(rows=[{"label": "bad | worse", "recipe": BAD}, rows[0]])


def test_a_row_that_fails_is_reported_and_stops_no_other(
    tmp_path: Path, with_bad: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(tmp_path, definition=with_bad) == 1
    bad, good = record(tmp_path)["rows"]
    assert "error" in bad["runs"][0] and good["figures"]["elbo"]["value"] < 0
    text = page(tmp_path)
    assert "## Failed\n\n- bad-small, seed 0: " in text
    assert "| failed |" in next(line for line in text.splitlines() if line.startswith("| **bad"))


def test_an_error_of_any_kind_is_of_its_row_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(job: Any, **more: Any) -> Run:
        if job.row.label == "VAE":
            raise RuntimeError("out of memory")
        return train(job, **more)

    train = work.trained
    monkeypatch.setattr(work, "trained", broken)
    assert reproduced(tmp_path) == 1
    vae, avb = record(tmp_path)["rows"]
    assert vae["runs"][0]["error"] == "RuntimeError: out of memory" and avb["figures"]["elbo"]


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rows", "vae-smal"], ["no row 'vae-smal'", "did you mean 'vae-small'"]),
        (["--data.source", "digitz=x"], ["no data set 'digitz'", "did you mean 'digits'"]),
        (["--data.source", "nowhere.npy"], ["cannot be read", "nowhere.npy", "--data.source"]),
        (["--features", "inception"], ["asks nothing that features is a setting of"]),
        (["--budget", "ten"], ["--budget", "no time span"]),
        (["--images", "0"], ["0 is less than 1"]),
        (["--sedes", "1"], ["did you mean '--seeds'"]),
    ],
)
def test_bad_input_is_refused_before_any_training(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduced(tmp_path, *options) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_an_unknown_table_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "avb-3d"]) == 2
    assert "there is no table 'avb-3d'" in (said := capsys.readouterr().err) and "did you mean 'avb-3" in said


def test_the_data_of_a_shipped_table_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "avb-3a", "--rows", "vae-mnist-fc32"]) == 2
    said = capsys.readouterr().err
    assert "table avb-3a needs data" in said and "given:    mnist" in said and "--data.source PATH" in said
    assert main(["reproduce", "bavae", "--data.source", "somewhere"]) == 2
    assert "--data.source mnist=PATH --data.source cifar10=PATH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_list_has_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert first == ["table", "asvae-1", "asvae-2", "asvae-3", "avb-3a", "avb-3b", "avb-3c", "bavae", "toy"]
