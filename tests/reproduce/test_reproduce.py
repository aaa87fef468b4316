"""A table carried out: trained, judged, written; interrupted and gone on with; runs that are there already."""

from __future__ import annotations

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
from reproduce.small import STEPS, counting, page, recipe, record, reproduced, table, timeless


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table carried out without an interruption; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("whole")
    assert reproduced(folder) == 0
    return folder


def copied(whole: Path, folder: Path) -> Path:
    """A copy whose records name the same runs, relative to it."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    return folder


def values_of(folder: Path) -> dict[str, Any]:
    return {row["recipe"]: row["values"] for row in record(folder)["rows"]}


# --- what is written ----------------------------------------------------------------------------------------


def test_published_values_are_next_to_ours(whole: Path) -> None:
    lines = page(whole).splitlines()
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
        assert text in page(whole), text
    for kind in ("samples", "reconstructions"):
        assert f"(small-{kind}.png)" in page(whole)
        assert (whole / "results" / f"small-{kind}.png").read_bytes().startswith(b"\x89PNG")


def test_the_record_has_all_that_made_a_figure(whole: Path) -> None:
    row = record(whole)["rows"][0]
    (run,) = row["runs"]
    estimates = {estimate["name"]: estimate for estimate in run["estimates"]}
    assert row["published"]["elbo"] == {"value": -20.5, "error": 0.2, "kind": ""}
    ours = row["values"]["elbo"]
    assert (ours["value"], ours["stderr"]) == (estimates["elbo"]["value"], estimates["elbo"]["stderr"])
    assert row["values"]["nll"]["value"] == -estimates["iwae-4"]["value"]
    assert (run["steps"], run["recipe_steps"], run["seed"]) == (STEPS, STEPS, 0)
    assert run["parameters"]["encoder"] > 0 and run["ms_per_step"] > 0 and run["device"]
    assert run["config"]["model"]["latent_dim"] == 2 and run["data"]["checksum"]


def test_rows_are_compared_with_the_reference_by_paired_differences(whole: Path, tmp_path: Path) -> None:
    """By annealing, and with the sign of the column; never an adversarial estimate against a bound. Whatever was
    evaluated since does not matter, and rows without the reference stand alone."""
    vae, avb = record(whole)["rows"]
    assert vae["differences"] is None and avb["differences"]["recipe"] == "vae-small"
    assert {name for name, found in avb["differences"]["columns"].items() if found} == {"ais"}
    each = [np.load(Path(row["runs"][0]["run"]) / "reproduced/ais.npz")["value"] for row in (avb, vae)]
    less = each[0].astype(np.float64) - each[1]
    found = avb["differences"]["columns"]["ais"]
    assert found["n"] == len(less) == 4 and found["seeds"] == 1
    assert found["value"] == pytest.approx(-less.mean(), rel=1e-6)
    assert found["stderr"] == pytest.approx(less.std(ddof=1) / 2, rel=1e-6)
    (line,) = (line for line in page(whole).splitlines() if line.startswith("| AVB − VAE |"))
    assert line.split("|")[2].strip()[0] == ("−" if less.mean() > 0 else "+")

    folder = copied(whole, tmp_path)
    for path in (folder / "runs").rglob("eval/ais.npz"):
        path.unlink()
    assert reproduced(folder) == 0
    assert record(folder)["rows"][1]["differences"] == avb["differences"]
    assert reproduced(folder, "--rows", "avb-small") == 0
    assert record(folder)["rows"][0]["differences"] is None and "Paired differences" not in page(folder)


def test_parts_of_an_evaluation_have_their_own_images(whole: Path) -> None:
    """The first part's reconstruction on all images stands, not that of the second on four."""
    for row in record(whole)["rows"]:
        n = {estimate["name"]: estimate["n"] for run in row["runs"] for estimate in run["estimates"]}
        assert (n["ais"], n["rmse"], n["reconstruction"]) == (4, 180, 180)
        assert len([e for run in row["runs"] for e in run["estimates"] if e["name"] == "rmse"]) == 1


def test_what_two_parts_say_is_said_once(whole: Path, tmp_path: Path) -> None:
    """Of an implicit decoder each part says that there is no likelihood."""
    bavae = recipe(
        "bavae-small",
        method={"name": "bavae"},
        data={"source": "digits"},
        model={part: {"name": "implicit", "noise_dim": 2} for part in ("posterior", "likelihood")},
    )
    definition = table(rows=[{"label": "BAVAE", "recipe": bavae}], references=[])
    assert reproduced(tmp_path, definition=definition) == 0
    (run,) = record(tmp_path)["rows"][0]["runs"]
    texts = [remark["text"] for remark in run["remarks"]]
    assert len(texts) == len(set(texts)) and any("likelihood" in text for text in texts)
    assert page(tmp_path).count("no likelihood") >= 2  # in both columns


def test_rows_of_two_data_sets_have_sheets_of_their_own(whole: Path, tmp_path: Path) -> None:
    """And sources by their names; what is found of the first is what it was among rows of its own data."""
    folder = copied(whole, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "grain-of-sand.npy", images)
    other = recipe("vae-sand", data={"source": "sand", "preprocessing": "binarize-dynamic"})
    definition = table(rows=[table()["rows"][0], {"label": "sand", "recipe": other}])
    source = f"sand={tmp_path / 'grain-of-sand.npy'}"
    assert reproduced(folder, "--data.source", source, definition=definition) == 0
    assert values_of(folder)["vae-small"] == values_of(whole)["vae-small"]
    for name in ("digits", "grain-of-sand"):
        for kind in ("samples", "reconstructions"):
            assert (folder / "results" / f"small-{name}-{kind}.png").exists()
            assert f"## {kind.capitalize()}, {name}\n\n![{kind}](small-{name}-{kind}.png)" in page(folder)
    assert "Data: digits (" in page(folder) and "; grain-of-sand (" in page(folder)


def test_the_same_command_again_does_nothing_anew(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (whole / "results").iterdir()}
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", counting(Trainer.fit, calls))
    monkeypatch.setattr(evaluate_job, "evaluate", counting(evaluate_job.evaluate, calls))
    assert reproduced(whole) == 0
    assert calls == []
    assert {path: path.read_bytes() for path in (whole / "results").iterdir()} == before


def test_another_protocol_is_evaluated_but_not_trained(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(whole, tmp_path)
    trained: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", counting(Trainer.fit, trained))
    assert reproduced(folder, "--images", 8, "--chains", 3, "--temperatures", 2) == 0
    assert trained == []
    run = record(folder)["rows"][0]["runs"][0]
    assert {estimate["n"] for estimate in run["estimates"]} == {8}
    (ais,) = (estimate for estimate in run["estimates"] if estimate["name"] == "ais")
    assert (ais["protocol"]["chains"], ais["protocol"]["temperatures"]) == (3, 2)
    assert "--images 8 --chains 3 --temperatures 2" in page(folder)


def test_what_a_hand_evaluated_since_does_not_change_the_table(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    before = values_of(folder)
    for path in (folder / "runs").rglob("estimates.json"):
        path.write_text('{"estimates": [], "remarks": []}')
    assert reproduced(folder) == 0
    assert values_of(folder) == before
    assert "| iwae-4 |" in page(folder)


def test_seeds_are_averaged_and_their_spread_is_shown(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    assert reproduced(folder, "--seeds", "0,1,2", "--rows", "vae-small") == 0
    (row,) = record(folder)["rows"]
    values = [e["value"] for run in row["runs"] for e in run["estimates"] if e["name"] == "elbo"]
    assert [run["seed"] for run in row["runs"]] == [0, 1, 2] and len(set(values)) == 3
    elbo = row["values"]["elbo"]
    assert elbo["value"] == pytest.approx(torch.tensor(values).mean().item(), rel=1e-6)
    assert elbo["seed_std"] == pytest.approx(torch.tensor(values).std().item(), rel=1e-4)
    assert "over 3 seeds" in page(folder)
    assert "Made by `advae reproduce small --rows vae-small --seeds 0,1,2`" in page(folder)


# --- interrupted --------------------------------------------------------------------------------------------


def test_killed_and_stopped_at_any_point_it_ends_with_the_same_figures(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two checkpoints, stopped by a signal, and killed within the evaluation."""
    step, evaluate = Trainer._run_step, evaluate_job.evaluate
    fall = {"kill": 6, "signal": 9}
    calls: list[int] = []

    def one(fit: Any, number: int, stream: Any) -> None:
        step(fit, number, stream)
        if fall.get("kill") == number:
            del fall["kill"]
            raise KeyboardInterrupt  # no checkpoint is saved: that of step 4 stands
        if fall.get("signal") == number and "kill" not in fall:
            del fall["signal"]
            os.kill(os.getpid(), signal.SIGINT)

    def cut(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 6):  # the second part of the first row, and of the second
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(Trainer, "_run_step", one)
    monkeypatch.setattr(evaluate_job, "evaluate", cut)
    codes, halfway = [reproduced(tmp_path)], False
    while codes[-1] and len(codes) < 9:
        written = tmp_path / "results" / "small.md"
        halfway = halfway or (written.exists() and "| not run yet |" in written.read_text())
        codes.append(reproduced(tmp_path))
    assert halfway  # what was done stood on a page already
    assert codes == [130, 130, 130, 130, 0] and fall == {}
    assert timeless(record(tmp_path), tmp_path) == timeless(record(whole), whole)


def test_killed_before_the_first_checkpoint_it_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(fit: Any, quiet: bool) -> None:
        raise KeyboardInterrupt

    tree, out = recipe("vae-small"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit", killed)
        train_or_resume(tree, out=out, quiet=True)
    assert (out / "config.yaml").exists() and not is_finished(Run(out))
    assert is_finished(train_or_resume(tree, out=out, quiet=True))


def test_killed_before_the_model_was_written_it_is_written(tmp_path: Path) -> None:
    """The last checkpoint stands, and beside it the model of an earlier one."""
    run = train_or_resume(recipe("vae-small"), out=tmp_path / "run", quiet=True)
    weights = run.model().state_dict()
    model = advae.build_model(run.model().spec, run.model().x_shape, info=run.model().info | {"step": 8})
    model.save_pretrained(run.path / "model")
    assert not is_finished(run)
    again = train_or_resume(recipe("vae-small"), out=run.path, quiet=True)
    assert is_finished(again) and again.model().info["step"] == STEPS
    assert all(torch.equal(weights[key], value) for key, value in again.model().state_dict().items())


def test_a_cached_result_is_of_one_evaluation_and_one_models_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_or_resume(recipe("vae-small"), out=tmp_path / "run", quiet=True)
    found = iter(range(9))

    monkeypatch.setattr(evaluate_job, "cache_key", lambda plan, job: {"key": plan})
    monkeypatch.setattr(evaluate_job, "evaluate_job", lambda plan, job, run, stage: {"value": next(found)})

    def cached(key: str) -> int:
        return int(evaluate_job.get_or_evaluate(key, None, run, None)["value"])  # type: ignore[arg-type]

    assert [cached("a"), cached("a"), cached("b"), cached("b")] == [0, 0, 1, 1]
    advae.build_model(run.model().spec, run.model().x_shape).save_pretrained(run.path / "model")
    assert [cached("b"), cached("b")] == [2, 2]


def test_the_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(advae.AdvaeError):
        train_or_resume(recipe("vae-small"), out=tmp_path, quiet=True)
    assert (tmp_path / "mine.txt").exists()


def test_a_run_that_stopped_early_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One validation without a better one ends it; it is not gone on with."""
    monkeypatch.setattr("advae.training.validation.Validation.__call__", lambda *args: {"error": 1.0})
    tree = recipe("vae-small", train={"patience": 1, "validate_every": 2})
    run = train_or_resume(tree, out=tmp_path / "run", quiet=True)
    assert is_finished(run) and run.metrics()[-1]["step"] < STEPS
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", counting(Trainer.fit, calls))
    train_or_resume(tree, out=tmp_path / "run", quiet=True)
    assert calls == []


# --- runs that are there ------------------------------------------------------------------------------------


def test_a_run_put_there_by_hand_is_the_rows(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and logging may differ; another learning rate makes another run."""
    folder = tmp_path / "runs" / "vae-small"
    named = recipe("mine", train={"log_every": 3, "checkpoint_every": 5, "validate_every": 4})
    other = recipe("vae-small", train={"lr": 0.5})
    advae.train(named, out=folder / "by-hand", quiet=True)
    advae.train(other, out=folder / f"{STEPS}-steps" / "s0", quiet=True)
    calls: list[Any] = []
    monkeypatch.setattr(Trainer, "fit", counting(Trainer.fit, calls))
    assert reproduced(tmp_path, "--rows", "vae-small") == 0
    assert calls == []
    assert record(tmp_path)["rows"][0]["runs"][0]["run"].endswith("by-hand")
    assert values_of(tmp_path)["vae-small"] == values_of(whole)["vae-small"]


def test_a_run_of_another_configuration_is_never_written_over(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "runs" / "vae-small" / f"{STEPS}-steps" / "s0"
    advae.train(recipe("vae-small", train={"lr": 0.5}), out=place, quiet=True)
    before = (place / "config.yaml").read_text()
    assert reproduced(tmp_path, "--rows", "vae-small") == 0
    assert (place / "config.yaml").read_text() == before
    assert record(tmp_path)["rows"][0]["runs"][0]["run"] == str(place.with_name("s0-2"))
    assert values_of(tmp_path)["vae-small"] == values_of(whole)["vae-small"]


def test_a_run_on_other_data_is_not_the_rows(whole: Path, tmp_path: Path) -> None:
    """The same configuration but for where the data are, and these are others: trained anew, beside it."""
    folder = copied(whole, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "noise.npy", images)
    assert reproduced(folder, "--rows", "vae-small", "--data.source", tmp_path / "noise.npy") == 0
    (run,) = record(folder)["rows"][0]["runs"]
    assert run["data"]["name"] == "noise" and run["run"].endswith("s0-2")
    assert reproduced(folder, "--rows", "vae-small") == 0
    assert values_of(folder)["vae-small"] == values_of(whole)["vae-small"]
