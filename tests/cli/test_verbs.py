"""Verbs: from a recipe to the run, and everything that is made from a run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from advae.errors import AdvaeError
from advae.evaluation.estimate import Estimate, EvaluationResult
from advae.evaluation.evaluate import write_result
from advae.run import Run

pytestmark = pytest.mark.integration

KINDS = {
    *("lower bound", "upper bound", "unbiased", "exact", "adversarial estimate"),
    *("error", "score", "baseline", "diagnostic"),
}
SRC = Path(__file__).resolve().parents[2] / "src"


def test_recipes(advae: Any) -> None:
    listed = json.loads(advae("recipes", "--json").out)
    assert {"name": "vae-digits", "method": "vae", "data": "digits", "published": ""} in listed
    assert all(list(row) == ["name", "method", "data", "published"] for row in listed)
    table = advae("recipes").out
    assert all(row["name"] in table for row in listed)
    assert "\x1b" not in table
    for text in (table, advae("recipes", "--verbose").out):
        assert max(map(len, text.splitlines())) <= 100
    groups = [lines.splitlines()[0] for lines in table.split("\n\n")]
    assert "digits" in groups[0] and "own data" in groups[1] and "Others" in groups[-2]
    assert table.index("vae-digits") < table.index("vae-images") < table.index("avb-ac-mnist-fc32")


def test_recipes_are_filtered(advae: Any) -> None:
    listed = json.loads(advae("recipes", "--method", "avb", "--data", "mnist", "--json").out)
    assert listed and {(row["method"], row["data"]) for row in listed} == {("avb", "mnist")}
    by_words = advae("recipes", "flow", "posterior").out
    assert "vae-iaf-digits" in by_words and "avb-digits" not in by_words
    assert "published:" not in advae("recipes", "--data", "mnist").out
    assert "published:" in advae("recipes", "vae-mnist-conv8").out
    answer = advae("recipes", "--method", "abv")
    assert answer.code == 2 and "'avb'" in answer.err


def test_a_run_has_all_its_files(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files >= {
        *("config.yaml", "command.txt", "env.json", "metrics.jsonl", "metrics.csv", "report.html"),
        *("checkpoints/last/state.safetensors", "model/model.safetensors", "eval/estimates.json"),
        *("samples/step-000010.png", "samples/step-000020.png", "figures/samples.png"),
    }
    command = (trained / "command.txt").read_text()
    assert command.startswith("advae train vae-digits --out ")
    assert "--train.steps 20" in command
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["split"]) == (20, "validation")


def test_training_the_config_of_a_run_gives_the_same_weights(
    trained: Path, advae: Any, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    answer = advae("train", "--config", trained / "config.yaml", "--out", out, "--no-report", "--json")
    assert answer.code == 0
    result = json.loads(answer.out)
    assert result == {
        "run": str(out),
        "model": str(out / "model"),
        "report": None,
        "estimates": [],
        "remarks": [],
    }
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (trained / weights).read_bytes()


def test_print_config(advae: Any, small: tuple[str, ...]) -> None:
    text = advae("train", "vae-digits", "--seed", 5, "--train.lr=1e-4", *small, "--print-config").out
    tree = yaml.safe_load(text)
    assert (tree["seed"], tree["train"]["lr"]) == (5, 1e-4)
    assert tree["model"]["encoder"]["hidden"] == [16]
    assert tree["recipe"] == "vae-digits"


def test_a_component_given_as_yaml(advae: Any) -> None:
    spec = "{name: mlp, hidden: [7]}"
    tree = yaml.safe_load(advae("train", "vae-digits", "--model.encoder", spec, "--print-config").out)
    assert tree["model"]["encoder"]["hidden"] == [7]


def test_dry_run_writes_nothing(advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = json.loads(advae("train", "asvae-digits", "--dry-run", "--json").out)
    assert facts["method"] == "asvae"
    assert facts["parameters"]["encoder"] > 0
    assert facts["data"]["sizes"]["test"] == 180
    assert facts["out"].startswith("runs/asvae-digits/")
    answer = advae("train", "asvae-digits", "--dry-run")
    assert "model updates encoder, decoder" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_evaluate(trained: Path, advae: Any) -> None:
    answer = advae("evaluate", trained, "--json", "--iwae-samples", 4, "--elbo-samples", 2, "--limit", 50)
    estimates = json.loads(answer.out)["estimates"]
    assert {"rmse", "reconstruction", "elbo", "iwae-4"} <= {e["name"] for e in estimates}
    for estimate in estimates:
        assert set(estimate) == {field.name for field in fields(Estimate)} - {"per_example"}
        assert estimate["kind"] in KINDS
        assert estimate["n"] == 50
    assert json.loads((trained / "eval" / "estimates.json").read_text())["estimates"] == estimates
    table = advae("evaluate", trained, "--iwae-samples", 4, "--elbo-samples", 2).out
    assert "lower bound" in table
    assert "split test" in table


def test_annealing(trained: Path, advae: Any, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    options = ("--likelihood", "ais", "--chains", 2, "--temperatures", 3, "--limit", 5)
    estimates = json.loads(advae("evaluate", run, "--json", *options).out)["estimates"]
    ais = next(e for e in estimates if e["name"] == "ais")
    assert ais["protocol"]["chains"] == 2 and ais["protocol"]["temperatures"] == 3
    with np.load(run / "eval" / "ais.npz", allow_pickle=False) as arrays:
        assert arrays["value"].shape == arrays["ess"].shape == arrays["acceptance"].shape == (5,)
        assert ais["value"] == pytest.approx(arrays["value"].mean())
    assert not (run / "eval" / "unfinished").exists()
    advae("evaluate", run, "--limit", 5)
    assert not (run / "eval" / "ais.npz").exists()  # belongs to an estimate that was replaced


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--likelihood", "ais,elbow"), "did you mean 'elbo'"),
        (("--samples", "fid,idd"), "'idd'"),
        (("--diagnostics", "critic"), "did you mean 'critics'"),
        (("--ais-init", "priro", "--likelihood", "ais"), "did you mean 'prior'"),
        (("--schedule", "sigmoidal"), "did you mean 'sigmoid'"),
        (("--proposal", "ful"), "did you mean 'full'"),
        (("--samples", "fid", "--limit", 5), "5"),
        (("--samples", "fid", "--feature-extractor", "inceptoin"), "did you mean 'inception'"),
        (("--samples", "fid", "--feature-extractor", "weights.pth"), "weights.pth"),
        (("--limit", 1), "2"),
    ],
)
def test_invalid_options_are_reported_before_any_work(
    options: tuple[object, ...], word: str, trained: Path, advae: Any
) -> None:
    before = (trained / "eval" / "estimates.json").read_bytes()
    answer = advae("evaluate", trained, *options)
    assert answer.code == 2 and word in answer.err and "Traceback" not in answer.err
    assert answer.out == ""
    assert (trained / "eval" / "estimates.json").read_bytes() == before
    assert not (trained / "eval" / "unfinished").exists()


def test_sample_metrics(trained: Path, advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier is trained on demand, cached, and part of every name; test data are a baseline."""
    monkeypatch.setenv("ADVAE_CACHE", str(tmp_path / "cache"))
    run = shutil.copytree(trained, tmp_path / "run")
    options = ("--samples", "all", "--likelihood", "none", "--diagnostics", "none", "--json")
    by_name = {e["name"]: e for e in json.loads(advae("evaluate", run, *options).out)["estimates"]}
    for metric in ("FID", "KID", "IS", "precision", "recall", "density", "coverage"):
        name = f"{metric}[digits-classifier]"
        assert by_name[name]["section"] == "samples" and by_name[name]["interval"] is not None
        assert by_name[f"{name} of test data"]["kind"] == "baseline"
    assert by_name["accuracy[digits-classifier]"]["value"] > 0.9
    assert list((tmp_path / "cache" / "classifiers").rglob("*.safetensors"))
    with np.load(run / "eval" / "memorization-digits-classifier.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == arrays["nearest"].shape == (16, 1, 8, 8)


def test_other_data_cause_a_warning(trained: Path, advae: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    run = shutil.copytree(trained, tmp_path / "run")
    answer = advae("evaluate", run, "--data.source", other, "--likelihood", "elbo", "--json")
    assert answer.code == 0
    assert answer.err.startswith("advae: ")
    assert json.loads(answer.out)["estimates"][0]["n"] == 60  # all of them


def test_remarks_on_data_are_printed_unless_quiet(trained: Path, advae: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "other.npz", x=images, left_over=np.zeros(3))
    command = ("encode", trained, "--input", tmp_path / "other.npz", "--out", tmp_path / "z.npz")
    assert "left_over" in advae(*command).err
    assert advae(*command, "--quiet").err == ""


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("sample", "samples.png"),
        ("reconstruct", "reconstructions.png"),
        ("interpolate", "interpolations.png"),
        ("encode", "latents.npz"),
    ],
)
def test_default_files(verb: str, name: str, trained: Path, advae: Any) -> None:
    answer = advae(verb, trained)
    assert answer.code == 0
    assert answer.out.strip() == str(trained / name)
    if name.endswith(".png"):
        assert (
            min(Image.open(trained / name).size) >= 2 * 2 * 64
        )  # two bands of x and its reconstruction, 64 pixels a tile


def test_samples_as_arrays(trained: Path, advae: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        result = json.loads(advae("sample", trained, "-n", 10, "--seed", seed, "--out", file, "--json").out)
        assert result == {"path": str(file), "n": 10, "shape": [10, 1, 8, 8]}
    first, same, other = (np.load(file)["x"] for file in files)
    assert (first == same).all()
    assert (first != other).any()
    assert np.allclose(np.load(files[0])["values"], 256 * first - 0.5, atol=1e-3)  # dequantize's way back


def test_reconstructions_as_arrays(trained: Path, advae: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "r.npz"
    advae("reconstruct", trained, "-n", 5, "--split", "train", "--out", out)
    arrays = np.load(out)
    assert arrays["x"].shape == arrays["reconstruction"].shape == (5, 1, 8, 8)
    assert arrays["labels"].shape == arrays["index"].shape == (5,)


def test_paths_join_different_digits(trained: Path, advae: Any, tmp_path: Path) -> None:
    out = tmp_path / "paths.npz"
    advae("interpolate", trained, "--pairs", 3, "--steps", 4, "--out", out)
    arrays = np.load(out)
    assert arrays["paths"].shape == (3, 4, 1, 8, 8)
    assert arrays["ends"].shape == (3, 2, 1, 8, 8)
    latents_path = tmp_path / "latents.npz"
    advae("encode", trained, "--out", latents_path)
    labels = np.load(latents_path)["labels"][arrays["index"]]
    assert (labels[:, 0] != labels[:, 1]).all()


def test_latents_of_an_input_are_in_its_order(trained: Path, advae: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8), dtype=np.uint8)
    for name, rows in (("a", images), ("b", images[::-1])):
        np.savez(tmp_path / f"{name}.npz", x=rows, y=np.arange(7))
        answer = advae(
            "encode", trained, "--input", tmp_path / f"{name}.npz", "--out", tmp_path / f"{name}-z.npz"
        )
        assert answer.code == 0, answer.err
    a, b = (np.load(tmp_path / f"{name}-z.npz") for name in "ab")
    assert a["z"].shape == a["z_sample"].shape == (7, 8)
    assert (a["labels"] == np.arange(7)).all()
    # The same images under other dequantization noise of half a gray level: nearly the same latents.
    assert np.abs(a["z"] - b["z"][::-1]).max() < 0.2 * a["z"].std(0).max()


def test_images_are_fitted_to_the_model(trained: Path, advae: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (20 + i, 16), (80 * i, 0, 0)).save(folder / f"{i}.png")
    answer = advae("reconstruct", trained, "--input", folder, "--out", tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(tmp_path / "reconstructions.png")


def test_a_saved_model_is_enough(trained: Path, advae: Any, tmp_path: Path) -> None:
    assert advae("sample", trained / "model", "--out", tmp_path / "s.png").code == 0
    assert advae("encode", trained / "model", "--input", "digits", "--out", tmp_path / "z.npz").code == 0
    answer = advae("encode", trained / "model", "--out", tmp_path / "y.npz")
    assert answer.code == 2
    assert "--input" in answer.err


@pytest.mark.usefixtures("without_figures")
def test_report_and_compare(
    trained: Path, advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / "other")
    (run / "report.html").unlink()
    assert advae("report", run).out.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()
    answer = advae("compare", trained, run, "--out", tmp_path / "page")
    assert answer.code == 0
    assert "elbo" in answer.out
    assert (tmp_path / "page" / "compare.html").is_file()
    monkeypatch.setattr("advae.report.write_comparison", lambda runs, out, comparison: out / "compare.html")
    result = json.loads(advae("compare", trained, run, "--out", tmp_path / "page", "--json").out)
    assert result["runs"] == ["trained", "other"]


def test_a_users_class(
    advae: Any, small: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_package_of_the_test").mkdir()
    (tmp_path / "own_package_of_the_test" / "nets.py").write_text(
        "from advae.networks.mlp import MLP\n\n\nclass Mine(MLP):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    monkeypatch.setattr("advae.registry._allowed_packages", {"advae"})
    path = "own_package_of_the_test.nets.Mine"
    out = tmp_path / "run"
    argv = ("train", "vae-digits", *small, "--model.encoder", path, "--model.encoder.hidden", "[4]")
    assert advae(*argv, "--train.steps", 2, "--out", out, "--no-report", "--quiet").code == 0
    spec = json.loads((out / "model" / "config.json").read_text())["spec"]
    assert spec["encoder"]["name"] == path
    monkeypatch.setattr("advae.registry._allowed_packages", {"advae"})
    for module in [name for name in sys.modules if name.startswith("own_package_of_the_test")]:
        monkeypatch.delitem(sys.modules, module)
    refused = advae("sample", out)
    assert refused.code == 2
    assert "--allow own_package_of_the_test" in refused.err
    assert advae("sample", out, "--allow", "own_package_of_the_test").code == 0


@pytest.mark.usefixtures("without_figures")
def test_estimates_of_earlier_weights_are_not_shown(advae: Any, trained: Path, tmp_path: Path) -> None:
    """A run that was trained further has other weights than those that were evaluated."""
    run = shutil.copytree(trained, tmp_path / "trained on")
    assert Run.open(run).estimates() and not any(r["about"] == "evaluation" for r in Run.open(run).remarks())
    assert advae("train", "--resume", run, "--train.steps", 30, "--no-report").code == 0
    assert Run.open(run).estimates() == []
    assert [r["about"] for r in Run.open(run).remarks() if r["warning"]] == ["evaluation"]
    compared = json.loads(advae("compare", trained, run, "--json", "--out", tmp_path / "page").out)
    assert all(row["estimates"][0] and not row["estimates"][1] for row in compared["rows"])
    assert advae("report", run).code == 0
    assert "advae evaluate" in (run / "report.html").read_text()
    assert advae("evaluate", run, "--limit", 20).code == 0
    assert Run.open(run).estimates()
    loaded = Run.open(run).model()  # an evaluation that started before further training
    assert advae("train", "--resume", run, "--train.steps", 40, "--no-report").code == 0
    write_result(
        Run.open(run), loaded, EvaluationResult([Estimate("elbo", -1.0, 0.1, "lower bound", "nats", 2, {})])
    )
    assert Run.open(run).estimates() == []


def test_suggested_commands_can_be_pasted(advae: Any, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "of a name with spaces")
    refused = advae("train", "vae-digits", "--out", run)
    line = next(line for line in refused.err.splitlines() if "--resume" in line)
    assert shlex.split(line)[-2:] == ["--resume", str(run)]


def test_help_of_a_recipe_lists_valid_options(advae: Any) -> None:
    listed = re.findall(r"--[\w.]+[+\w]", advae("train", "vae-digits", "--help").out)
    assert "--model.encoder.hidden" in listed
    assert not [name for name in listed if name.endswith("+")]


def test_doctor(advae: Any) -> None:
    findings = {row["name"]: row for row in json.loads(advae("doctor", "--json", "--speed", "0.5").out)}
    assert findings["self-check"]["passed"], findings["self-check"]["detail"]
    assert findings["torch"]["passed"] and findings["speed"]["passed"], findings["speed"]["detail"]


def test_errors_have_their_exit_code(advae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(AdvaeError):
        exit_code = 1

    def fail(argv: list[str]) -> int:
        raise Other("it stopped", fix="start it")

    monkeypatch.setattr("advae.cli.dispatch", fail)
    answer = advae("anything")
    assert (answer.code, answer.err) == (1, "advae: it stopped\n  fix:      start it\n")
