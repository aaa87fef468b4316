"""Reports of runs whose files are damaged, hostile, or links out of the run directory, and of a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from advae.errors import AdvaeError, CheckpointError, WriteError
from advae.report import compare, write_report
from advae.report.comparison import per_example_arrays
from advae.report.figures.style import to_png
from advae.report.posterior_report import write_posterior_report
from advae.run import Run

HOSTILE = "<script>alert('x')</script> & $\\frac{ \"q\""
ESTIMATE = {
    "name": "elbo",
    "metric": "elbo",
    "variant": "",
    "value": -3.0,
    "stderr": 0.1,
    "interval": None,
    "kind": "lower bound",
    "unit": "nats",
    "n": 10,
    "section": "likelihood",
    "higher_is_better": True,
    "protocol": {"split": "test"},
}
REMARK = {"about": "elbo", "text": "It is so.", "warning": True, "section": "likelihood", "criteria": []}
LABELS = (HOSTILE, "b[0]", "b[1]")


@pytest.fixture
def model_run(tmp_path: Path) -> Path:
    """A run directory as training and evaluation write it, without a model."""
    files = {
        "config.yaml": yaml.safe_dump({"recipe": "vae-digits", "method": {"name": "vae"}, "seed": 0}),
        "env.json": json.dumps({"device": "cpu", "data": {"checksum": "1a2b"}}),
        "command.txt": "advae train vae-digits",
        "metrics.jsonl": json.dumps({"step": 1, "split": "train", "time": 0.1, "train/kl": 1.0}) + "\n",
        "eval/estimates.json": json.dumps({"estimates": [ESTIMATE], "remarks": [REMARK], "model": None}),
    }
    return write_files(tmp_path / "run", files)


@pytest.fixture
def posterior_run(tmp_path: Path) -> Path:
    """A run directory as advae infer writes it, with a hostile string wherever a user can write one."""
    options = {"fits": 2, "family": "implicit", "hidden": [8], "critic_blocks": 1, "critic_width": 8}
    options |= {"contrast": "adaptive", "known": HOSTILE, "steps": 10, "batch": 4}
    parameters = {HOSTILE: {"shape": [], "constraint": HOSTILE}, "b": {"shape": [2], "constraint": "Real()"}}
    source = {"name": HOSTILE, "file": HOSTILE, "text": HOSTILE}
    quantiles = {"mean": 0.0, "sd": 1.0, "5%": -1.6, "50%": 0.0, "95%": 1.6, "rhat": 1.0}
    summary = {
        "parameters": dict.fromkeys(LABELS, quantiles),
        "log_evidence": {"value": -3.0, "stderr": 0.1},
        "history": [[step, [-4.0, -4.0 + 1 / step]] for step in range(1, 9)],
        "seconds": 3.0,
        "verdict": HOSTILE,
    }
    files = {
        "config.yaml": yaml.safe_dump(
            {"source": source, "parameters": parameters, "inference": options, "seed": 0}
        ),
        "env.json": json.dumps({"device": HOSTILE}),
        "summary.json": json.dumps(summary),
        "eval/estimates.json": json.dumps(
            {"estimates": [ESTIMATE | {"name": HOSTILE}], "remarks": [REMARK | {"text": HOSTILE}]}
        ),
    }
    folder, rng = write_files(tmp_path / "posterior", files), np.random.default_rng(0)
    np.savez(folder / "draws.npz", **{HOSTILE: rng.normal(size=(2, 50)), "b": rng.normal(size=(2, 50, 2))})
    return folder


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def estimates_with(**fields: Any) -> str:
    return json.dumps({"estimates": [ESTIMATE | fields], "remarks": [REMARK]})


def remarks_with(**fields: Any) -> str:
    return json.dumps({"estimates": [ESTIMATE], "remarks": [REMARK | fields]})


DAMAGED_ESTIMATES = [
    *(estimates_with(**{name: value}) for name in ESTIMATE for value in (["x"], {"x": 1}, "x", 3.5, True)),
    *(remarks_with(**{name: value}) for name in REMARK for value in ([3], {"x": 1}, "x", 3.5)),
    *(
        "",
        "[]",
        "3",
        '{"estimates": 3}',
        '{"estimates": [3]}',
        '{"remarks": {"a": 1}}',
        '{"estimates": [{}]}',
    ),
]
DAMAGED_FILES = [
    *(("eval/estimates.json", text) for text in DAMAGED_ESTIMATES),
    *(("env.json", text) for text in ("", "[]", "3", '{"data": 3}', '{"data": [1]}', '{"device": [{}]}')),
    *(
        ("metrics.jsonl", text + "\n")
        for text in ("{}", "[]", '{"step": "x"}', '{"step": 1, "train/kl": {}}')
    ),
    *(("metrics.jsonl", text + "\n") for text in ('{"step": null}', '{"step": 2, "time": [3]}')),
    *(
        ("config.yaml", text)
        for text in ("[]", "method: 3", "method: [vae]", "train: x", "model: {encoder: 3}")
    ),
    *(("config.yaml", text) for text in ("recipe: [1]", "seed: {}", "model: x", "method: {name: [1]}")),
]


@pytest.mark.usefixtures("without_figures")
def test_damaged_files_of_a_run_are_reported_or_shown(fakes: ModuleType, model_run: Path) -> None:
    """The page is written, or the error is one for users and names the run."""
    data, model = fakes.make_vectors(2), fakes.FakeModel((2,), 2)
    write_report(Run(model_run), model, data)
    for name, text in DAMAGED_FILES:
        before = (model_run / name).read_text()
        (model_run / name).write_text(text)
        for read in (lambda run: write_report(run, model, data), lambda run: compare([run, run]).table()):
            try:
                read(Run(model_run))
            except AdvaeError as error:
                assert str(model_run) in str(error), (name, text)
        (model_run / name).write_text(before)


@pytest.mark.parametrize(
    "text", [estimates_with(value="1"), estimates_with(protocol=[]), remarks_with(criteria=[3])]
)
def test_fields_of_a_wrong_type_are_named(fakes: ModuleType, model_run: Path, text: str) -> None:
    (model_run / "eval" / "estimates.json").write_text(text)
    for call in (
        lambda: compare([Run(model_run)]),
        lambda: write_report(Run(model_run), fakes.FakeModel((2,), 2), fakes.make_vectors(2)),
    ):
        with pytest.raises(CheckpointError, match=r"estimates\.json"):
            call()


@pytest.mark.usefixtures("without_figures")
def test_damaged_files_of_a_posterior_are_reported_or_shown(posterior_run: Path) -> None:
    write_posterior_report(Run(posterior_run))
    for name in ("summary.json", "config.yaml"):
        content = yaml.safe_load((posterior_run / name).read_text())
        for key in content:
            for value in (None, 3, "x", [], {}, [[1]], {"x": "y"}):
                (posterior_run / name).write_text(json.dumps(content | {key: value}))
                try:
                    write_posterior_report(Run(posterior_run))
                except AdvaeError as error:
                    assert str(posterior_run) in str(error), (name, key, value)
        (posterior_run / name).write_text(json.dumps(content))
    (posterior_run / "draws.npz").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(CheckpointError):
        write_posterior_report(Run(posterior_run))


def test_all_texts_of_a_posterior_are_escaped(posterior_run: Path) -> None:
    page = write_posterior_report(Run(posterior_run)).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 9


@pytest.mark.usefixtures("without_figures")
def test_no_link_leads_a_report_out_of_its_run(fakes: ModuleType, model_run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    np.savez(outside / "elbo.npz", value=np.full(10, -3.0))
    (outside / "mine.html").write_text("mine")
    before = {path: path.read_bytes() for path in outside.iterdir()}
    run = Run(model_run)
    (model_run / "eval" / "elbo.npz").symlink_to(outside / "elbo.npz")
    assert per_example_arrays(run, ESTIMATE) == {}
    (model_run / "report.html").symlink_to(outside / "mine.html")
    write_report(run, fakes.FakeModel((2,), 2), fakes.make_vectors(2))
    assert not (model_run / "report.html").is_symlink()
    (model_run / "figures").rmdir() if (model_run / "figures").exists() else None
    (model_run / "figures").symlink_to(outside)
    with pytest.raises(CheckpointError):
        write_report(run, fakes.FakeModel((2,), 2), fakes.make_vectors(2))
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


@pytest.mark.parametrize("verb", ["report", "infer"])
def test_nothing_is_written_for_a_run_that_is_removed_meanwhile(
    verb: str,
    fakes: ModuleType,
    model_run: Path,
    posterior_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remove_run(*_: object, **__: object) -> bytes:
        shutil.rmtree(run, ignore_errors=True)
        return to_png(*_, **__)

    run = model_run if verb == "report" else posterior_run
    monkeypatch.setattr("advae.report.html.to_png", remove_run)
    with pytest.raises(CheckpointError):
        if verb == "report":
            write_report(Run(run), fakes.FakeModel((2,), 2), fakes.make_vectors(2))
        else:
            write_posterior_report(Run(run))
    assert not run.exists()


@pytest.mark.usefixtures("without_figures")
def test_on_a_full_disk_the_last_report_stands(
    fakes: ModuleType, model_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model, data = fakes.FakeModel((2,), 2), fakes.make_vectors(2)
    before = write_report(Run(model_run), model, data).read_text()
    monkeypatch.setattr("advae.io.os.fsync", fail)
    with pytest.raises(WriteError, match=r"report\.html"):
        write_report(Run(model_run), model, data)
    assert (model_run / "report.html").read_text() == before
    assert [path.name for path in model_run.iterdir() if path.name.startswith(".")] == []
