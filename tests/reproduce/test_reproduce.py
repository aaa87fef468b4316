"""Reproduction of a table: training, evaluation, results, interruptions, and existing runs."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advae
from advae.reproduce import evaluate_job
from advae.run import Run
from advae.training.train import is_finished, train_or_resume
from advae.training.trainer import Trainer
from reproduce.small import STEPS, page, recipe, record, record_calls, reproduce, table, without_times


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reproduce the table without interruption; tests that change it use a copy."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert reproduce(folder) == 0
    return folder


def copy_results(uninterrupted: Path, folder: Path) -> Path:
    """Copy results and runs to ``folder`` and return it."""
    shutil.copytree(uninterrupted, folder, dirs_exist_ok=True)
    return folder


def values_of(folder: Path) -> dict[str, Any]:
    return {row["recipe"]: row["values"] for row in record(folder)["rows"]}


# --- results ------------------------------------------------------------------------------------------------


def test_page_has_published_values_next_to_ours(uninterrupted: Path) -> None:
    lines = page(uninterrupted).splitlines()
    head = next(line for line in lines if "published" in line and line.startswith("|"))
    assert head == "|  | ELBO, nats: published | ours | NLL, nats | RMSE | NLL by AIS |"
    vae, avb = (next(line for line in lines if line.startswith(f"| **{name}**")) for name in ("VAE", "AVB"))
    assert vae.split(" | ")[1] == "−20.5 ± 0.2" and avb.split(" | ")[1] == "≈ −19.25"
    assert "<sub>elbo, lower bound</sub>" in vae
    assert "<sub>elbo [critic], adversarial estimate: not a bound</sub>" in avb
    assert "upper bound" in vae.split(" | ")[3]  # of −log p(x), from a lower bound on log p(x)
    for text in (
        "# Two small rows",
        "Smith (2017), table 0",
        "12 of 12",
        "- This table was never published.",
        "rmse (PCA-2)",
    ):
        assert text in page(uninterrupted), text
    for kind in ("samples", "reconstructions"):
        assert f"(small-{kind}.png)" in page(uninterrupted)
        assert (uninterrupted / "results" / f"small-{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_record_has_configuration_data_and_estimates_of_each_value(uninterrupted: Path) -> None:
    row = record(uninterrupted)["rows"][0]
    (run,) = row["runs"]
    estimates = {estimate["name"]: estimate for estimate in run["estimates"]}
    assert row["published"]["elbo"] == {"value": -20.5, "error": 0.2, "kind": ""}
    ours = row["values"]["elbo"]
    assert (ours["value"], ours["stderr"]) == (estimates["elbo"]["value"], estimates["elbo"]["stderr"])
    assert row["values"]["nll"]["value"] == -estimates["iwae-4"]["value"]
    assert (run["steps"], run["recipe_steps"], run["seed"]) == (STEPS, STEPS, 0)
    assert run["parameters"]["encoder"] > 0 and run["ms_per_step"] > 0 and run["device"]
    assert run["config"]["model"]["latent_dim"] == 2 and run["data"]["checksum"]


def test_rows_are_compared_with_the_reference_by_paired_differences(
    uninterrupted: Path, tmp_path: Path
) -> None:
    """By AIS, with the sign of the column; never an adversarial estimate against a bound. Later evaluations have no
    effect, and rows without the reference have no differences."""
    vae, avb = record(uninterrupted)["rows"]
    assert vae["differences"] is None and avb["differences"]["recipe"] == "vae-small"
    assert {name for name, column in avb["differences"]["columns"].items() if column} == {"ais"}
    log_probs = [np.load(Path(row["runs"][0]["run"]) / "reproduced/ais.npz")["value"] for row in (avb, vae)]
    differences = log_probs[0].astype(np.float64) - log_probs[1]
    difference = avb["differences"]["columns"]["ais"]
    assert difference["n"] == len(differences) == 4 and difference["seeds"] == 1
    assert difference["value"] == pytest.approx(-differences.mean(), rel=1e-6)
    assert difference["stderr"] == pytest.approx(differences.std(ddof=1) / 2, rel=1e-6)
    (line,) = (line for line in page(uninterrupted).splitlines() if line.startswith("| AVB − VAE |"))
    assert line.split("|")[2].strip()[0] == ("−" if differences.mean() > 0 else "+")

    folder = copy_results(uninterrupted, tmp_path)
    for path in (folder / "runs").rglob("eval/ais.npz"):
        path.unlink()
    assert reproduce(folder) == 0
    assert record(folder)["rows"][1]["differences"] == avb["differences"]
    assert reproduce(folder, "--rows", "avb-small") == 0
    assert record(folder)["rows"][0]["differences"] is None and "Paired differences" not in page(folder)


def test_first_part_of_an_evaluation_determines_shared_estimates(uninterrupted: Path) -> None:
    """Reconstruction is that of the first part, on all images, not that of the second on four."""
    for row in record(uninterrupted)["rows"]:
        n = {estimate["name"]: estimate["n"] for run in row["runs"] for estimate in run["estimates"]}
        assert (n["ais"], n["rmse"], n["reconstruction"]) == (4, 180, 180)
        assert len([e for run in row["runs"] for e in run["estimates"] if e["name"] == "rmse"]) == 1


def test_remarks_of_two_parts_are_not_repeated(uninterrupted: Path, tmp_path: Path) -> None:
    """Both parts have the remark that an implicit decoder has no likelihood."""
    bavae = recipe(
        "bavae-small",
        method={"name": "bavae"},
        data={"source": "digits"},
        model={part: {"name": "implicit", "noise_dim": 2} for part in ("posterior", "likelihood")},
    )
    definition = table(rows=[{"label": "BAVAE", "recipe": bavae}], references=[])
    assert reproduce(tmp_path, definition=definition) == 0
    (run,) = record(tmp_path)["rows"][0]["runs"]
    texts = [remark["text"] for remark in run["remarks"]]
    assert len(texts) == len(set(texts)) and any("likelihood" in text for text in texts)
    assert page(tmp_path).count("no likelihood") >= 2  # in both columns


def test_rows_of_two_data_sets_have_separate_image_grids(uninterrupted: Path, tmp_path: Path) -> None:
    """Data sources are selected by name; values of the first row do not depend on the second."""
    folder = copy_results(uninterrupted, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "grain-of-sand.npy", images)
    other = recipe("vae-sand", data={"source": "sand", "preprocessing": "binarize-dynamic"})
    definition = table(rows=[table()["rows"][0], {"label": "sand", "recipe": other}])
    source = f"sand={tmp_path / 'grain-of-sand.npy'}"
    assert reproduce(folder, "--data.source", source, definition=definition) == 0
    assert values_of(folder)["vae-small"] == values_of(uninterrupted)["vae-small"]
    for name in ("digits", "grain-of-sand"):
        for kind in ("samples", "reconstructions"):
            assert (folder / "results" / f"small-{name}-{kind}.png").exists()
            assert f"## {kind.capitalize()}, {name}\n\n![{kind}](small-{name}-{kind}.png)" in page(folder)
    assert "Data: digits (" in page(folder) and "; grain-of-sand (" in page(folder)


def test_repeated_command_neither_trains_nor_evaluates(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (uninterrupted / "results").iterdir()}
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", record_calls(Trainer.fit, calls))
    monkeypatch.setattr(evaluate_job, "evaluate", record_calls(evaluate_job.evaluate, calls))
    assert reproduce(uninterrupted) == 0
    assert calls == []
    assert {path: path.read_bytes() for path in (uninterrupted / "results").iterdir()} == before


def test_other_evaluation_options_do_not_train_again(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_results(uninterrupted, tmp_path)
    trained: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", record_calls(Trainer.fit, trained))
    assert reproduce(folder, "--images", 8, "--chains", 3, "--temperatures", 2) == 0
    assert trained == []
    run = record(folder)["rows"][0]["runs"][0]
    assert {estimate["n"] for estimate in run["estimates"]} == {8}
    (ais,) = (estimate for estimate in run["estimates"] if estimate["name"] == "ais")
    assert (ais["protocol"]["chains"], ais["protocol"]["temperatures"]) == (3, 2)
    assert "--images 8 --chains 3 --temperatures 2" in page(folder)


def test_later_evaluations_of_a_run_do_not_change_the_table(uninterrupted: Path, tmp_path: Path) -> None:
    folder = copy_results(uninterrupted, tmp_path)
    before = values_of(folder)
    for path in (folder / "runs").rglob("estimates.json"):
        path.write_text('{"estimates": [], "remarks": []}')
    assert reproduce(folder) == 0
    assert values_of(folder) == before
    assert "| iwae-4 |" in page(folder)


def test_seeds_are_averaged_with_their_standard_deviation(uninterrupted: Path, tmp_path: Path) -> None:
    folder = copy_results(uninterrupted, tmp_path)
    assert reproduce(folder, "--seeds", "0,1,2", "--rows", "vae-small") == 0
    (row,) = record(folder)["rows"]
    values = [e["value"] for run in row["runs"] for e in run["estimates"] if e["name"] == "elbo"]
    assert [run["seed"] for run in row["runs"]] == [0, 1, 2] and len(set(values)) == 3
    elbo = row["values"]["elbo"]
    assert elbo["value"] == pytest.approx(torch.tensor(values).mean().item(), rel=1e-6)
    assert elbo["seed_std"] == pytest.approx(torch.tensor(values).std().item(), rel=1e-4)
    assert "over 3 seeds" in page(folder)
    assert "Made by `advae reproduce small --rows vae-small --seeds 0,1,2`" in page(folder)


# --- interruptions ------------------------------------------------------------------------------------------


def test_interrupted_reproduction_gives_the_same_results(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interruptions: a kill between two checkpoints, a signal, and kills during evaluation."""
    step, evaluate = Trainer._run_step, evaluate_job.evaluate
    pending = {"kill": 6, "signal": 9}
    calls: list[int] = []

    def run_step(fit: Any, number: int, stream: Any) -> None:
        step(fit, number, stream)
        if pending.get("kill") == number:
            del pending["kill"]
            raise KeyboardInterrupt  # no checkpoint is saved after that of step 4
        if pending.get("signal") == number and "kill" not in pending:
            del pending["signal"]
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted_evaluate(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 6):  # the second part of the first row, and of the second
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(Trainer, "_run_step", run_step)
    monkeypatch.setattr(evaluate_job, "evaluate", interrupted_evaluate)
    exit_codes, halfway = [reproduce(tmp_path)], False
    while exit_codes[-1] and len(exit_codes) < 9:
        page_path = tmp_path / "results" / "small.md"
        halfway = halfway or (page_path.exists() and "| not run yet |" in page_path.read_text())
        exit_codes.append(reproduce(tmp_path))
    assert halfway  # a page with the results so far exists
    assert exit_codes == [130, 130, 130, 130, 0] and pending == {}
    assert without_times(record(tmp_path), tmp_path) == without_times(record(uninterrupted), uninterrupted)


def test_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(fit: Any, quiet: bool) -> None:
        raise KeyboardInterrupt

    tree, out = recipe("vae-small"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit", kill)
        train_or_resume(tree, out=out, quiet=True)
    assert (out / "config.yaml").exists() and not is_finished(Run(out))
    assert is_finished(train_or_resume(tree, out=out, quiet=True))


def test_run_killed_before_its_model_was_written_writes_it(tmp_path: Path) -> None:
    """The run has its last checkpoint and the model of an earlier one."""
    run = train_or_resume(recipe("vae-small"), out=tmp_path / "run", quiet=True)
    weights = run.model().state_dict()
    model = advae.build_model(run.model().spec, run.model().x_shape, info=run.model().info | {"step": 8})
    model.save_pretrained(run.path / "model")
    assert not is_finished(run)
    again = train_or_resume(recipe("vae-small"), out=run.path, quiet=True)
    assert is_finished(again) and again.model().info["step"] == STEPS
    assert all(torch.equal(weights[key], value) for key, value in again.model().state_dict().items())


def test_cached_results_depend_on_evaluation_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_or_resume(recipe("vae-small"), out=tmp_path / "run", quiet=True)
    values = iter(range(9))

    monkeypatch.setattr(evaluate_job, "cache_key", lambda plan, job: {"key": plan})
    monkeypatch.setattr(evaluate_job, "evaluate_job", lambda plan, job, run, stage: {"value": next(values)})

    def cached(key: str) -> int:
        return int(evaluate_job.get_or_evaluate(key, None, run, None)["value"])  # type: ignore[arg-type]

    assert [cached("a"), cached("a"), cached("b"), cached("b")] == [0, 0, 1, 1]
    advae.build_model(run.model().spec, run.model().x_shape).save_pretrained(run.path / "model")
    assert [cached("b"), cached("b")] == [2, 2]


def test_folder_that_is_not_a_run_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(advae.AdvaeError):
        train_or_resume(recipe("vae-small"), out=tmp_path, quiet=True)
    assert (tmp_path / "mine.txt").exists()


def test_run_after_early_stopping_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops after one validation without improvement, and is not resumed."""
    monkeypatch.setattr("advae.training.validation.Validation.__call__", lambda *args: {"error": 1.0})
    tree = recipe("vae-small", train={"patience": 1, "validate_every": 2})
    run = train_or_resume(tree, out=tmp_path / "run", quiet=True)
    assert is_finished(run) and run.metrics()[-1]["step"] < STEPS
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", record_calls(Trainer.fit, calls))
    train_or_resume(tree, out=tmp_path / "run", quiet=True)
    assert calls == []


# --- several processes, full disks --------------------------------------------------------------------------


def test_second_process_in_the_same_folder_stops_and_removes_nothing(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes at the worst moment: when the first file of the run has been written."""
    write_config, exit_codes = Run.write_config, list[int]()

    def write_after_another_process(run: Run, config: dict[str, Any]) -> None:
        write_config(run, config)
        if not exit_codes:
            exit_codes.append(reproduce(tmp_path, "--rows", "vae-small"))

    monkeypatch.setattr(Run, "write_config", write_after_another_process)
    exit_codes.append(reproduce(tmp_path, "--rows", "vae-small"))
    assert exit_codes == [2, 0]
    assert values_of(tmp_path)["vae-small"] == values_of(uninterrupted)["vae-small"]


@pytest.mark.parametrize("name", ["config.yaml", "images.npz", "small.json", "small.md"])
def test_full_disk_stops_with_one_message_and_the_same_command_continues(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("advae.io.os.replace", fail)
        assert reproduce(tmp_path, "--rows", "vae-small") == 2
    stderr = capsys.readouterr().err
    assert name in stderr and "continues" in stderr and "Traceback" not in stderr
    assert reproduce(tmp_path, "--rows", "vae-small") == 0
    assert values_of(tmp_path)["vae-small"] == values_of(uninterrupted)["vae-small"]


@pytest.mark.parametrize("text", ["", "[]", '{"key": 3}'])
def test_damaged_cached_result_is_computed_again(uninterrupted: Path, tmp_path: Path, text: str) -> None:
    folder = copy_results(uninterrupted, tmp_path)
    (path,) = (folder / "runs" / "vae-small").rglob("reproduced/estimates.json")
    path.write_text(text)
    leftovers = [
        path.with_name(f".{name}.new-01234567") for name in ("elbo.npz", "images.npz", "estimates.json")
    ]
    for leftover in leftovers:
        leftover.write_text("part")  # of a killed process
    assert reproduce(folder, "--rows", "vae-small") == 0
    assert values_of(folder)["vae-small"] == values_of(uninterrupted)["vae-small"]
    assert not any(leftover.exists() for leftover in leftovers)


# --- existing runs ------------------------------------------------------------------------------------------


def test_existing_run_of_the_same_configuration_is_used(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and logging may differ, the learning rate may not."""
    folder = tmp_path / "runs" / "vae-small"
    named = recipe("mine", train={"log_every": 3, "checkpoint_every": 5, "validate_every": 4})
    other = recipe("vae-small", train={"lr": 0.5})
    advae.train(named, out=folder / "by-hand", quiet=True, report=False)
    advae.train(other, out=folder / f"{STEPS}-steps" / "s0", quiet=True, report=False)
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", record_calls(Trainer.fit, calls))
    assert reproduce(tmp_path, "--rows", "vae-small") == 0
    assert calls == []
    assert record(tmp_path)["rows"][0]["runs"][0]["run"].endswith("by-hand")
    assert values_of(tmp_path)["vae-small"] == values_of(uninterrupted)["vae-small"]


def test_existing_run_of_another_configuration_is_not_overwritten(
    uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "runs" / "vae-small" / f"{STEPS}-steps" / "s0"
    advae.train(recipe("vae-small", train={"lr": 0.5}), out=path, quiet=True, report=False)
    before = (path / "config.yaml").read_text()
    assert reproduce(tmp_path, "--rows", "vae-small") == 0
    assert (path / "config.yaml").read_text() == before
    assert record(tmp_path)["rows"][0]["runs"][0]["run"] == str(path.with_name("s0-2"))
    assert values_of(tmp_path)["vae-small"] == values_of(uninterrupted)["vae-small"]


def test_existing_run_on_other_data_is_not_used(uninterrupted: Path, tmp_path: Path) -> None:
    """The configuration is the same except for the path of the data: a second run is trained next to the first."""
    folder = copy_results(uninterrupted, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "noise.npy", images)
    assert reproduce(folder, "--rows", "vae-small", "--data.source", tmp_path / "noise.npy") == 0
    (run,) = record(folder)["rows"][0]["runs"]
    assert run["data"]["name"] == "noise" and run["run"].endswith("s0-2")
    assert reproduce(folder, "--rows", "vae-small") == 0
    assert values_of(folder)["vae-small"] == values_of(uninterrupted)["vae-small"]
