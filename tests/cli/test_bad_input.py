"""Invalid input: an error that names the offending thing, exit code 2, and nothing written."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.integration

Case = Callable[[Path, Path], list[object]]
STATE = "checkpoints/last/state.safetensors"
CASES: dict[str, tuple[Case, tuple[str, ...]]] = {}


def case(*words: str) -> Callable[[Case], Case]:
    """Add a case; the message must contain all ``words``."""

    def add(make: Case) -> Case:
        CASES[make.__name__.replace("_", " ")] = (make, words)
        return make

    return add


def train(*argv: object) -> list[object]:
    return ["train", "vae-digits", *argv]


def array(tmp: Path, values: Any, *argv: object, preprocessing: str = "dequantize") -> list[object]:
    """Arguments that train on an array."""
    np.save(tmp / "data.npy", values)
    return train("--data.source", tmp / "data.npy", "--data.preprocessing", preprocessing, *argv)


def recipe_file(tmp: Path, text: str, name: str = "own.yaml") -> list[object]:
    """Arguments that train a recipe file."""
    (tmp / name).write_text(text)
    return ["train", "--config", tmp / name]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    """Return the data with one bit flipped in the last byte, which belongs to a weight."""
    return data[:-1] + bytes([data[-1] ^ 1])


# --- recipes and options ------------------------------------------------------------------------------------


@case("'vae-digit'", "did you mean 'vae-digits'")
def unknown_recipe(tmp: Path, run: Path) -> list[object]:
    return ["train", "vae-digit"]


@case("'train.stpes'", "did you mean 'train.steps'")
def unknown_option(tmp: Path, run: Path) -> list[object]:
    return train("--train.stpes", 3)


@case("'model.encoder.hiddn'", "did you mean 'model.encoder.hidden'")
def unknown_component_option(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hiddn", "[3]")


@case("'mlpp'", "did you mean 'mlp'")
def unknown_component(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder", "mlpp")


@case("no_such_package.nets.Net")
def component_that_cannot_be_imported(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder", "no_such_package.nets.Net")


@case("--allow someones_package")
def component_of_a_package_that_is_not_allowed(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("base: vae-digits\nmodel: {encoder: {name: someones_package.Net}}\n")
    return ["train", "--config", tmp / "mine.yaml"]


@case("'train.rate'", "did you mean 'train.lr'")
def former_option(tmp: Path, run: Path) -> list[object]:
    return train("--train.rate", 1e-3)


@case("'train.step'", "did you mean 'train.backend'")
def former_option_close_to_another(tmp: Path, run: Path) -> list[object]:
    return train("--train.step", "eager")


@case("data.preprocessing", "did you mean 'binarize-dynamic'")
def former_value(tmp: Path, run: Path) -> list[object]:
    return train("--data.preprocessing", "binarise-dynamic")


@case("train.backend", "did you mean 'cuda-graph'")
def former_value_of_another_name(tmp: Path, run: Path) -> list[object]:
    return train("--train.backend", "graph")


@case("'--importance'", "did you mean '--iwae-samples'")
def former_option_of_evaluation(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", run, "--importance", 5]


@case("elbo-certified", "did you mean 'elbo-certified'")
def options_of_an_unknown_estimator(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", run, "--elbo-certifed.chains", 8]


@case("ais.annealing")
def shared_option_of_an_estimator_as_a_number(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", run, "--likelihood", "ais", "--ais.annealing", 5]


@case("bdmc.bdmc_images", "int")
def option_of_an_estimator_of_another_type(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", run, "--likelihood", "bdmc", "--bdmc.bdmc_images", "many"]


@case("train.steps", "many", "integer")
def wrong_type(tmp: Path, run: Path) -> list[object]:
    return train("--train.steps", "many")


@case("train.steps", "-3")
def impossible_value(tmp: Path, run: Path) -> list[object]:
    return train("--train.steps", -3)


@case("train.precision", "fp8", "bf16")
def value_that_is_not_a_choice(tmp: Path, run: Path) -> list[object]:
    return train("--train.precision", "fp8")


@case("model.latent_dim")
def latent_dim_0(tmp: Path, run: Path) -> list[object]:
    return train("--model.latent_dim", 0)


@case("gpu9", "cuda:N")
def unknown_device(tmp: Path, run: Path) -> list[object]:
    return train("--device", "gpu9")


@case("cuda:99")
def missing_device(tmp: Path, run: Path) -> list[object]:
    return train("--device", "cuda:99")


@case("YAML", "mine.yaml")
def invalid_yaml(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("data: {source: digits\ntrain: [")
    return ["train", "--config", tmp / "mine.yaml"]


@case("mine.yaml", "list")
def yaml_that_is_a_list(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("- digits\n- vae\n")
    return ["train", "--config", tmp / "mine.yaml"]


@case("nothing.yaml")
def missing_recipe_file(tmp: Path, run: Path) -> list[object]:
    return ["train", "--config", tmp / "nothing.yaml"]


# --- data ---------------------------------------------------------------------------------------------------


@case("nothing.npz", "data.source")
def missing_file(tmp: Path, run: Path) -> list[object]:
    return train("--data.source", tmp / "nothing.npz")


@case("broken.parquet")
def corrupt_parquet(tmp: Path, run: Path) -> list[object]:
    (tmp / "broken.parquet").write_bytes(b"PAR1" + bytes(range(200)) + b"PAR1")
    return train("--data.source", tmp / "broken.parquet")


@case("broken.npz")
def corrupt_npz(tmp: Path, run: Path) -> list[object]:
    whole = io.BytesIO()
    np.savez(whole, x=np.zeros((50, 8, 8), np.uint8))
    (tmp / "broken.npz").write_bytes(whole.getvalue()[:900])
    return train("--data.source", tmp / "broken.npz")


@case("objects.npy")
def array_of_pickled_objects(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    return train("--data.source", tmp / "objects.npy")


@case("pickle", "data.pt")
def pickled_data(tmp: Path, run: Path) -> list[object]:
    (tmp / "data.pt").write_bytes(b"\x80\x04N.")
    return train("--data.source", tmp / "data.pt")


@case("2 of 12", "03.png", "07.png")
def unreadable_images(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp / "images" / f"{i:02d}.png")
    for i in (3, 7):
        edit(tmp / "images" / f"{i:02d}.png", lambda data: data[:40])
    return train("--data.source", tmp / "images", "--train.batch_size", 2)


@case("data.image_size")
def images_of_different_sizes(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    for i in range(12):
        Image.new("L", (8 + i % 2, 8), 20 * i).save(tmp / "images" / f"{i:02d}.png")
    return train("--data.source", tmp / "images", "--train.batch_size", 2)


@case("images")
def folder_without_images(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    return train("--data.source", tmp / "images")


@case("data.npy")
def values_out_of_range(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.random.default_rng(0).normal(size=(200, 8, 8)).astype(np.float32))


@case("likelihood", "data.preprocessing standardize", "set data.preprocessing to")
def preprocessing_that_the_likelihood_does_not_support(tmp: Path, run: Path) -> list[object]:
    return train("--model.likelihood", "bernoulli", "--data.preprocessing", "standardize")


@case("likelihood", "model.likelihood.squash")
def standardized_data_for_a_mean_in_0_1(tmp: Path, run: Path) -> list[object]:
    return train("--model.likelihood.squash", "sigmoid", "--data.preprocessing", "standardize")


@case("NaN")
def nan_values(tmp: Path, run: Path) -> list[object]:
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    values[7, 2] = np.nan
    return array(tmp, values, preprocessing="standardize")


@case("empty")
def no_examples(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.zeros((0, 8, 8), np.uint8))


@case("few")
def two_examples(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.zeros((2, 8, 8), np.uint8))


@case("5000")
def batch_larger_than_the_data(tmp: Path, run: Path) -> list[object]:
    return train("--train.batch_size", 5000)


@case("train.batch_size 1")
def batch_of_one_with_batch_norm(tmp: Path, run: Path) -> list[object]:
    return ["train", "gan-digits-dcgan", "--train.batch_size", 1]


@case("train.batch_size 4", "train.accumulation_steps 4")
def chunks_of_one_with_batch_norm(tmp: Path, run: Path) -> list[object]:
    return ["train", "gan-digits-dcgan", "--train.batch_size", 4, "--train.accumulation_steps", 4]


@case("1 × 9 × 9", "1 × 8 × 8")
def input_of_another_shape(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "data.npy", np.zeros((5, 9, 9), np.uint8))
    return ["encode", run, "--input", tmp / "data.npy"]


# --- runs, models, checkpoints ------------------------------------------------------------------------------


@case("--out", "--resume")
def output_folder_in_use(tmp: Path, run: Path) -> list[object]:
    return train("--out", run)


@case("trianed", "did you mean 'trained'")
def mistyped_run(tmp: Path, run: Path) -> list[object]:
    return ["sample", run.with_name("trianed")]


@case("config.yaml")
def folder_that_is_not_a_run(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", tmp]


@case("run directory", "saved model")
def folder_that_is_not_a_model(tmp: Path, run: Path) -> list[object]:
    return ["sample", tmp]


@case("checksum", "state.safetensors")
def truncated_checkpoint(tmp: Path, run: Path) -> list[object]:
    edit(run / STATE, lambda data: data[: len(data) // 2])
    return ["train", "--resume", run]


@case("checksum", "state.safetensors")
def edited_checkpoint(tmp: Path, run: Path) -> list[object]:
    edit(run / STATE, flipped)
    return ["train", "--resume", run]


@case("state.json")
def truncated_checkpoint_state(tmp: Path, run: Path) -> list[object]:
    edit(run / "checkpoints/last/state.json", lambda data: data[:30])
    return ["train", "--resume", run]


@case("checkpoint")
def run_without_checkpoint(tmp: Path, run: Path) -> list[object]:
    shutil.rmtree(run / "checkpoints")
    return ["train", "--resume", run]


@case("ickle", "state.pt")
def pickled_checkpoint(tmp: Path, run: Path) -> list[object]:
    (run / STATE).rename(run / "checkpoints/last/state.pt")
    return ["train", "--resume", run]


@case("ickle", "model.bin")
def pickled_model(tmp: Path, run: Path) -> list[object]:
    shutil.rmtree(run / "checkpoints")
    (run / "model/model.safetensors").rename(run / "model/model.bin")
    return ["sample", run / "model"]


@case("ickle", "model.pt")
def folder_of_pickled_files(tmp: Path, run: Path) -> list[object]:
    (tmp / "model.pt").write_bytes(b"\x80\x04N.")
    return ["sample", tmp]


@case("checksum", "model.safetensors")
def truncated_model(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/model.safetensors", lambda data: data[:1000])
    return ["sample", run]


@case("checksum", "model.safetensors")
def edited_model(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/model.safetensors", lambda data: data[:-4] + b"\0\0\1\1")
    return ["sample", run]


@case("config.json")
def edited_model_config(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/config.json", lambda data: data.replace(b'"spec"', b'"speck"'))
    return ["sample", run]


@case("--train.beta1")
def resume_with_another_option(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--train.beta1", 0.5]


@case("--seed")
def resume_with_another_seed(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--seed", 1]


@case("checksum")
def resume_with_other_data(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "data.npy", np.zeros((200, 8, 8), np.uint8))
    return ["train", "--resume", run, "--data.source", tmp / "data.npy"]


@case("config.yaml")
def run_with_a_broken_config(tmp: Path, run: Path) -> list[object]:
    (run / "config.yaml").write_text("train: [")
    return ["train", "--resume", run]


@case("train.steps = 10", "20")
def resume_with_fewer_steps(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--train.steps", 10]


@case("2", "1")
def one_test_example(tmp: Path, run: Path) -> list[object]:
    return train("--data.test", 1)


@case("--seed", "more than")
def seed_of_more_than_64_bits(tmp: Path, run: Path) -> list[object]:
    return train("--seed", 10**20)


@case("seed", "-3")
def negative_seed_in_a_file(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, "seed: -3")


@case("base", "one.yaml", "two.yaml")
def circular_bases(tmp: Path, run: Path) -> list[object]:
    (tmp / "two.yaml").write_text("base: one.yaml")
    return recipe_file(tmp, "base: two.yaml", "one.yaml")


@case("'train'", "lines 1 and 3")
def yaml_section_twice(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, "train: {steps: 3}\nseed: 1\ntrain: {lr: 1}")


@case("recipe has no value")
def null_recipe(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, "recipe: null")


@case("own.yaml", "regular file")
def recipe_that_is_a_pipe(tmp: Path, run: Path) -> list[object]:
    os.mkfifo(tmp / "own.yaml")
    return ["train", "--config", tmp / "own.yaml"]


@case("own.yaml", "regular file")
def recipe_that_is_an_endless_device(tmp: Path, run: Path) -> list[object]:
    (tmp / "own.yaml").symlink_to("/dev/zero")
    return ["train", "--config", tmp / "own.yaml"]


@case("--out", "empty")
def empty_output_folder(tmp: Path, run: Path) -> list[object]:
    return train("--out", "")


@case("--resume", "empty")
def empty_run(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", ""]


@case("itself")
def recursive_yaml_anchor(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, "train: &t {steps: *t}")


@case("recipe", "../evil")
def recipe_name_with_a_path(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, "recipe: ../evil")


@case("recipe", "line break")
def recipe_name_with_a_line_break(tmp: Path, run: Path) -> list[object]:
    return recipe_file(tmp, 'recipe: "a\\nb"')


@case("data.image_size")
def image_size_too_large(tmp: Path, run: Path) -> list[object]:
    Image.new("L", (8, 8)).save(tmp / "a.png")
    return train("--data.source", tmp, "--data.image_size", 100_000)


@case("-n", "or fewer")
def too_many_samples(tmp: Path, run: Path) -> list[object]:
    return ["sample", run, "-n", 10**12]


@case("-3")
def negative_layer_width(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hidden", "[-3]")


@case("dropout", "2")
def dropout_above_1(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.dropout", 2)


@case("'normal'")
def negative_scale(tmp: Path, run: Path) -> list[object]:
    return train("--model.posterior.min_scale", -1)


@case("mlp")
def layer_too_large_for_memory(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hidden", f"[{10**13}]")


@case("method.beta")
def negative_beta(tmp: Path, run: Path) -> list[object]:
    return train("--method.beta", -1)


@case("method.kl_warmup")
def negative_kl_warmup(tmp: Path, run: Path) -> list[object]:
    return train("--method.kl_warmup", -4)


@case("--speed", "more than 3600")
def infinite_speed_check(tmp: Path, run: Path) -> list[object]:
    return ["doctor", "--speed", "inf"]


@case("--speed", "soon")
def speed_check_that_is_not_a_number(tmp: Path, run: Path) -> list[object]:
    return ["doctor", "--speed", "soon"]


@case("env.json", "object")
def env_that_is_a_list(tmp: Path, run: Path) -> list[object]:
    (run / "env.json").write_text("[]")
    return ["evaluate", run]


@case("estimates.json")
def estimates_that_are_numbers(tmp: Path, run: Path) -> list[object]:
    (run / "eval/estimates.json").write_text('{"estimates": [3]}')
    return ["report", run]


@case("config.yaml", "not a folder")
def dry_run_into_a_file(tmp: Path, run: Path) -> list[object]:
    return train("--dry-run", "--out", run / "config.yaml" / "new")


@case("config.yaml", "not a folder")
def table_into_a_file(tmp: Path, run: Path) -> list[object]:
    return ["reproduce", "bavae", "--dry-run", "--out", run / "config.yaml"]


@case("data.source")
def empty_data_source(tmp: Path, run: Path) -> list[object]:
    return train("--data.source", "")


@case("test", "train")
def missing_split_of_the_input(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "a.npy", np.zeros((20, 8, 8), np.uint8))
    return ["encode", run, "--input", tmp / "a.npy", "--split", "test"]


@case("SystemExit", "line 2")
def model_file_that_exits(tmp: Path, run: Path) -> list[object]:
    (tmp / "m.py").write_text("import sys\nsys.exit(3)")
    return ["infer", tmp / "m.py"]


@case("posterior", "draws.npz")
def sampling_from_a_posterior_run(tmp: Path, run: Path) -> list[object]:
    (run / "config.yaml").write_text("inference: {family: implicit}")
    return ["sample", run]


# --- the test -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str, advae: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = CASES[name]
    tmp, run = tmp_path / "empty", shutil.copytree(trained, tmp_path / "trained")
    tmp.mkdir()
    argv = make(tmp, run)
    if argv[0] in ("train", "sample", "encode") and "--out" not in argv and "--resume" not in argv:
        argv = [*argv, "--out", tmp / ("out" if argv[0] == "train" else "out.npz")]
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    answer = advae(*argv)
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert answer.err.startswith("advae: ")
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
    assert contents(tmp_path) == before
    assert not (tmp / "out").exists()


def test_errors_are_printed_to_stderr_with_json_too(advae: Any, tmp_path: Path) -> None:
    answer = advae("evaluate", tmp_path, "--json")
    assert (answer.code, answer.out) == (2, "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.err)
