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

from advae.data import DataOptions, load_data
from advae.errors import AdvaeError
from advae.evaluation.estimate import Estimate, EvaluationResult
from advae.evaluation.evaluate import write_result
from advae.model import LatentModel, build_model
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


# --- scores, tables and single images ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a label, and columns of very different scales."""
    import pandas as pd

    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3)) * [1, 1000, 0.1] + [0, 5000, 3]
    frame = pd.DataFrame(x, columns=["length", "mass in g", "ratio"]).assign(
        species=rng.choice(["a", "b"], 60)
    )
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def table_model(table: Path) -> Path:
    """A model from a loop of one's own, saved with the preprocessing of its data."""
    data = load_data(DataOptions(source=str(table), preprocessing="standardize"))
    mlp = {"name": "mlp", "hidden": [8]}
    spec = {
        "latent_dim": 2,
        "encoder": mlp,
        "decoder": mlp,
        "critic": mlp,
        "posterior": {"name": "normal"},
        "likelihood": {"name": "normal"},
    }
    model = build_model(spec, data.x_shape)
    model.save_pretrained(table.parent / "model", data=data)
    return table.parent / "model"


def test_a_table_goes_in_and_out_as_csv(table_model: Path, table: Path, advae: Any, tmp_path: Path) -> None:
    """Rows keep their order, columns their names and units; a model from one's own loop is enough."""
    import pandas as pd

    out = tmp_path / "z.csv"
    assert advae("encode", table_model, "--out", out, table).code == 0  # options may come first
    latents = pd.read_csv(out)
    assert list(latents) == ["z1", "z2", "label"] and len(latents) == 60

    rows, back = pd.read_csv(table), tmp_path / "back.csv"
    assert advae("reconstruct", table_model, table, "--out", back).code == 0
    names = ["length", "mass in g", "ratio"]
    assert list(pd.read_csv(back)) == names and len(pd.read_csv(back)) == 60
    shuffled, again = tmp_path / "shuffled.csv", tmp_path / "again.csv"
    rows[[*reversed(list(rows))]].assign(other=1).to_csv(shuffled, index=False)
    assert advae("reconstruct", table_model, shuffled, "--out", again).code == 0
    assert again.read_text() == back.read_text()  # columns are matched by name

    generated = tmp_path / "samples.csv"
    assert advae("sample", table_model, "-n", 7, "--out", generated).code == 0
    samples = pd.read_csv(generated)
    assert list(samples) == names and len(samples) == 7
    assert 2000 < samples["mass in g"].mean() < 8000  # in grams: the model was never trained
    points = tmp_path / "paths.csv"
    assert advae("interpolate", table_model, table, "--pairs", 2, "--steps", 3, "--out", points).code == 0
    assert pd.read_csv(points)[["pair", "step"]].to_numpy().tolist() == [
        [p, s] for p in (0, 1) for s in range(3)
    ]


def test_scores_of_a_table(table_model: Path, table: Path, advae: Any, tmp_path: Path) -> None:
    import pandas as pd

    rows = pd.read_csv(table)
    rows.loc[5, "ratio"] = 100.0
    rows.to_csv(tmp_path / "new.csv", index=False)
    answer = advae("score", table_model, tmp_path / "new.csv", "--out", tmp_path / "s.csv", "--json")
    summary, scores = json.loads(answer.out), pd.read_csv(tmp_path / "s.csv")
    assert list(scores) == ["index", "label", "log_prob", "stderr", "rmse", "percentile"]
    assert scores["log_prob"].idxmin() == scores["rmse"].idxmax() == 5
    assert scores["percentile"].isna().all() and summary["reference"] is None and summary["remark"]
    assert (summary["n"], len(summary["most_unusual"]), summary["most_unusual"][0]["index"]) == (60, 10, 5)
    assert summary["quantiles"]["log_prob"]["0.5"] == pytest.approx(scores["log_prob"].median(), rel=1e-5)
    printed = advae(
        "score", table_model, tmp_path / "new.csv", "--out", tmp_path / "s.npz", "--top", 1, "--samples", 1
    )
    assert printed.code == 0 and printed.out.splitlines()[-1].split()[0] == "5"


def test_scores_are_ranked_by_the_runs_test_data(trained: Path, advae: Any, tmp_path: Path) -> None:
    """They are computed once, are not those of other weights or settings, and leave the evaluation alone."""
    run = shutil.copytree(trained, tmp_path / "run")
    estimates = (run / "eval" / "estimates.json").read_bytes()
    assert advae("score", run, "--samples", 4, "--quiet").code == 0
    lines = (run / "scores.csv").read_text().splitlines()
    assert len(lines) == 181 and lines[0] == "index,label,log_prob,stderr,bits_per_dim,rmse,percentile"
    rows = np.array([line.split(",") for line in lines[1:]], float)
    shares = 100 * (rows[:, 2] < rows[:, 2:3]).mean(1)
    assert np.allclose(rows[:, -1], shares, atol=1e-4)
    with np.load(run / "eval" / "scores.npz", allow_pickle=False) as arrays:
        stored = dict(arrays)
    np.savez(run / "eval" / "scores.npz", **stored | {"log_prob": stored["log_prob"] + 1e6})
    noise = tmp_path / "noise.npy"
    np.save(noise, np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    percentiles = []
    for samples in (4, 3):  # of the file, and of others
        answer = advae("score", run, noise, "--samples", samples, "--out", tmp_path / "s.csv", "--json")
        percentiles.append([row["percentile"] for row in json.loads(answer.out)["most_unusual"]])
    assert percentiles[0] == [0, 0, 0] and max(percentiles[1]) < 100
    with np.load(run / "eval" / "scores.npz", allow_pickle=False) as arrays:
        assert arrays["log_prob"].max() < 0  # replaced
    assert (run / "eval" / "estimates.json").read_bytes() == estimates


@pytest.mark.parametrize("damage", [b"not an archive", None])
def test_damaged_scores_are_computed_again(
    damage: bytes | None, trained: Path, advae: Any, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    arguments = ("score", run, "--samples", 2, "--limit", 3, "--json")
    first = advae(*arguments).out
    stored = run / "eval" / "scores.npz"
    if damage is None:
        with np.load(stored, allow_pickle=False) as arrays:
            np.savez(stored, key=arrays["key"], unit=arrays["unit"], nonsense=arrays["rmse"])
    else:
        stored.write_bytes(damage)
    assert advae(*arguments).out == first


def test_scores_without_the_runs_data(trained: Path, advae: Any, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["source"] = str(tmp_path / "gone.npy")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    Image.new("L", (8, 8), 90).save(tmp_path / "one.png")
    answer = advae("score", run, tmp_path / "one.png", "--json")
    assert answer.code == 0 and json.loads(answer.out)["remark"]
    assert (
        json.loads(answer.out)["most_unusual"][0] | {"percentile": None}
        == json.loads(answer.out)["most_unusual"][0]
    )
    assert (run / "scores-one-png.csv").read_text().splitlines()[1].startswith("one.png,")
    assert advae("score", run).code == 2


def test_a_single_image(trained: Path, advae: Any, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "one.png")
    assert advae("encode", trained, tmp_path / "one.png", "--out", tmp_path / "z.csv").code == 0
    header, row = (tmp_path / "z.csv").read_text().splitlines()
    assert header.split(",") == [f"z{i + 1}" for i in range(8)] and row.count(",") == 7
    assert advae("reconstruct", trained, tmp_path / "one.png", "--out", tmp_path / "pair.png").code == 0


def test_separate_images(trained: Path, advae: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    assert advae("sample", trained, "-n", 3, "--separate", "--out", folder).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(folder / "0001.png").size == (8, 8)
    assert advae("sample", trained, "-n", 3, "--format", "npz", "--out", tmp_path).code == 0
    grays = np.load(tmp_path / "samples.npz")["values"]
    assert np.abs(np.asarray(Image.open(folder / "0001.png")) - grays[1, 0].clip(0, 255)).max() <= 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode", "one.png", "--input", "two.png"),
        ("encode", "--out", "z.png"),
        ("sample", "--format", "csv"),
        ("sample", "--format", "npz", "--separate"),
        ("sample", "--format", "npz", "--out", "x.png"),
        ("score", "--out", "scores.json"),
        ("score", "--samples", "0"),
        ("score", "missing.csv"),
    ],
    ids=" ".join,
)
def test_outputs_that_do_not_suit_are_refused(arguments: tuple[str, ...], trained: Path, advae: Any) -> None:
    verb, *options = arguments
    answer = advae(verb, trained, *options)
    assert answer.code == 2 and answer.out == "" and "Traceback" not in answer.err


def test_a_model_without_preprocessing_says_what_is_missing(
    advae: Any, table_model: Path, tmp_path: Path
) -> None:
    model = LatentModel.from_pretrained(table_model)
    del model.info["data"]
    model.save_pretrained(tmp_path / "m")
    for verb in (("sample",), ("encode", "rows.csv"), ("score", "rows.csv")):
        answer = advae(verb[0], tmp_path / "m", *(table_model.parent / name for name in verb[1:]))
        assert answer.code == 2 and "save_pretrained" in answer.err


# --- other verbs --------------------------------------------------------------------------------------------


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
