"""Bad input: one clear message that names the thing, exit code 2, and nothing written."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Case = Callable[[Path, Path], list[object]]
STATE = "checkpoints/last/state.safetensors"
CASES: dict[str, tuple[Case, tuple[str, ...]]] = {}


def case(*words: str) -> Callable[[Case], Case]:
    """Add a case; ``words`` must all be in the message."""

    def add(make: Case) -> Case:
        CASES[make.__name__.replace("_", " ")] = (make, words)
        return make

    return add


def train(*argv: object) -> list[object]:
    return ["train", "vae-digits", *argv]


def array(tmp: Path, values: Any, *argv: object, protocol: str = "dequantise") -> list[object]:
    """Training on an array."""
    np.save(tmp / "data.npy", values)
    return train("--data.source", tmp / "data.npy", "--data.protocol", protocol, *argv)


def own(tmp: Path, text: str, name: str = "own.yaml") -> list[object]:
    """Training of a recipe of one's own."""
    (tmp / name).write_text(text)
    return ["train", "--config", tmp / name]


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    """One bit is another, in the last byte: a weight."""
    return data[:-1] + bytes([data[-1] ^ 1])


# --- recipes and options ------------------------------------------------------------------------------------


@case("no recipe called 'vae-digit'", "did you mean 'vae-digits'")
def unknown_recipe(tmp: Path, run: Path) -> list[object]:
    return ["train", "vae-digit"]


@case("no option 'train.stpes'", "did you mean 'train.steps'")
def unknown_option(tmp: Path, run: Path) -> list[object]:
    return train("--train.stpes", 3)


@case("no option 'model.encoder.hiddn'", "did you mean 'model.encoder.hidden'")
def unknown_option_of_a_component(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hiddn", "[3]")


@case("no network called 'mlpp'", "did you mean 'mlp'")
def unknown_component(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder", "mlpp")


@case("'no_such_package.nets.Net' cannot be imported", "no_such_package")
def component_that_is_not_there(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder", "no_such_package.nets.Net")


@case("--allow someones_package")
def component_of_a_file_that_is_not_allowed(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("base: vae-digits\nmodel: {encoder: {name: someones_package.Net}}\n")
    return ["train", "--config", tmp / "mine.yaml"]


@case("train.steps", "many")
def wrong_type(tmp: Path, run: Path) -> list[object]:
    return train("--train.steps", "many")


@case("train.steps", "at least 1")
def impossible_value(tmp: Path, run: Path) -> list[object]:
    return train("--train.steps", -3)


@case("train.precision", "fp8")
def value_that_is_none_of_the_choices(tmp: Path, run: Path) -> list[object]:
    return train("--train.precision", "fp8")


@case("latent size", "given:    0")
def latent_size_0(tmp: Path, run: Path) -> list[object]:
    return train("--model.latent", 0)


@case("no such device", "gpu9")
def unknown_device(tmp: Path, run: Path) -> list[object]:
    return train("--device", "gpu9")


@case("CUDA devices", "cuda:99")
def device_that_is_not_there(tmp: Path, run: Path) -> list[object]:
    return train("--device", "cuda:99")


@case("not valid YAML", "mine.yaml")
def bad_yaml(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("data: {source: digits\ntrain: [")
    return ["train", "--config", tmp / "mine.yaml"]


@case("tree of options", "mine.yaml")
def yaml_that_is_no_tree(tmp: Path, run: Path) -> list[object]:
    (tmp / "mine.yaml").write_text("- digits\n- vae\n")
    return ["train", "--config", tmp / "mine.yaml"]


@case("recipe cannot be read", "nothing.yaml")
def missing_recipe_file(tmp: Path, run: Path) -> list[object]:
    return ["train", "--config", tmp / "nothing.yaml"]


# --- data ---------------------------------------------------------------------------------------------------


@case("no such file or folder", "nothing.npz")
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


@case("pickled code", "data.pt")
def data_that_are_pickled(tmp: Path, run: Path) -> list[object]:
    (tmp / "data.pt").write_bytes(b"\x80\x04N.")
    return train("--data.source", tmp / "data.pt")


@case("2 of 12 images cannot be read", "03.png", "07.png")
def unreadable_images(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(tmp / "images" / f"{i:02d}.png")
    for i in (3, 7):
        edit(tmp / "images" / f"{i:02d}.png", lambda data: data[:40])
    return train("--data.source", tmp / "images", "--train.batch", 2)


@case("different sizes", "data.image_size")
def images_of_several_sizes(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    for i in range(12):
        Image.new("L", (8 + i % 2, 8), 20 * i).save(tmp / "images" / f"{i:02d}.png")
    return train("--data.source", tmp / "images", "--train.batch", 2)


@case("no image in this folder", "images")
def folder_without_images(tmp: Path, run: Path) -> list[object]:
    (tmp / "images").mkdir()
    return train("--data.source", tmp / "images")


@case("data.npy")
def values_out_of_range(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.random.default_rng(0).normal(size=(200, 8, 8)).astype(np.float32))


@case("likelihood cannot score", "data.protocol standardise", "set data.protocol to")
def protocol_that_the_likelihood_cannot_score(tmp: Path, run: Path) -> list[object]:
    return train("--model.likelihood", "bernoulli", "--data.protocol", "standardise")


@case("likelihood cannot score", "set model.likelihood.squash to none")
def standardised_values_for_a_mean_between_0_and_1(tmp: Path, run: Path) -> list[object]:
    return train("--model.likelihood.squash", "sigmoid", "--data.protocol", "standardise")


@case("NaN", "data")
def values_that_are_nan(tmp: Path, run: Path) -> list[object]:
    values = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    values[7, 2] = np.nan
    return array(tmp, values, protocol="standardise")


@case("empty")
def no_examples(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.zeros((0, 8, 8), np.uint8))


@case("too few examples")
def two_examples(tmp: Path, run: Path) -> list[object]:
    return array(tmp, np.zeros((2, 8, 8), np.uint8))


@case("batch is larger than the data", "5000")
def batch_larger_than_the_data(tmp: Path, run: Path) -> list[object]:
    return train("--train.batch", 5000)


@case("another shape than the model's", "1 × 9 × 9", "1 × 8 × 8")
def input_of_another_shape(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "data.npy", np.zeros((5, 9, 9), np.uint8))
    return ["encode", run, "--input", tmp / "data.npy"]


# --- runs, models, checkpoints ------------------------------------------------------------------------------


@case("output folder is not empty", "--resume")
def output_folder_in_use(tmp: Path, run: Path) -> list[object]:
    return train("--out", run)


@case("no such run directory", "trianed", "did you mean 'trained'")
def mistyped_run(tmp: Path, run: Path) -> list[object]:
    return ["sample", run.with_name("trianed")]


@case("not a run directory", "config.yaml")
def folder_that_is_no_run(tmp: Path, run: Path) -> list[object]:
    return ["evaluate", tmp]


@case("neither a run directory nor a saved model")
def folder_that_is_no_model(tmp: Path, run: Path) -> list[object]:
    return ["sample", tmp]


@case("damaged", "state.safetensors", "cut short")
def checkpoint_cut_short(tmp: Path, run: Path) -> list[object]:
    edit(run / STATE, lambda data: data[: len(data) // 2])
    return ["train", "--resume", run]


@case("damaged", "state.safetensors", "edited")
def checkpoint_edited(tmp: Path, run: Path) -> list[object]:
    edit(run / STATE, flipped)
    return ["train", "--resume", run]


@case("state.json")
def checkpoint_state_cut_short(tmp: Path, run: Path) -> list[object]:
    edit(run / "checkpoints/last/state.json", lambda data: data[:30])
    return ["train", "--resume", run]


@case("no checkpoint")
def run_without_checkpoint(tmp: Path, run: Path) -> list[object]:
    shutil.rmtree(run / "checkpoints")
    return ["train", "--resume", run]


@case("pickled code", "state.pt")
def checkpoint_with_pickled_code(tmp: Path, run: Path) -> list[object]:
    (run / STATE).rename(run / "checkpoints/last/state.pt")
    return ["train", "--resume", run]


@case("pickled code", "model.bin")
def model_with_pickled_code(tmp: Path, run: Path) -> list[object]:
    shutil.rmtree(run / "checkpoints")
    (run / "model/model.safetensors").rename(run / "model/model.bin")
    return ["sample", run / "model"]


@case("pickled code", "model.pt")
def folder_of_pickled_code(tmp: Path, run: Path) -> list[object]:
    (tmp / "model.pt").write_bytes(b"\x80\x04N.")
    return ["sample", tmp]


@case("weights are damaged", "model.safetensors")
def model_cut_short(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/model.safetensors", lambda data: data[:1000])
    return ["sample", run]


@case("weights are damaged", "model.safetensors")
def model_edited(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/model.safetensors", lambda data: data[:-4] + b"\0\0\1\1")
    return ["sample", run]


@case("config.json")
def model_description_edited(tmp: Path, run: Path) -> list[object]:
    edit(run / "model/config.json", lambda data: data.replace(b'"spec"', b'"speck"'))
    return ["sample", run]


@case("goes on as it was configured", "--train.beta1")
def resume_with_another_option(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--train.beta1", 0.5]


@case("goes on as it was configured", "--seed")
def resume_with_another_seed(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--seed", 1]


@case("not the ones this run was trained on", "checksum")
def resume_with_other_data(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "data.npy", np.zeros((200, 8, 8), np.uint8))
    return ["train", "--resume", run, "--data.source", tmp / "data.npy"]


@case("config.yaml")
def run_with_a_broken_config(tmp: Path, run: Path) -> list[object]:
    (run / "config.yaml").write_text("train: [")
    return ["train", "--resume", run]


@case("gone further already", "10 after 20 steps")
def resume_with_fewer_steps(tmp: Path, run: Path) -> list[object]:
    return ["train", "--resume", run, "--train.steps", 10]


@case("at least 2 images", "1")
def one_test_example(tmp: Path, run: Path) -> list[object]:
    return train("--data.test", 1)


@case("--seed", "more than")
def seed_of_more_than_64_bits(tmp: Path, run: Path) -> list[object]:
    return train("--seed", 10**20)


@case("seed", "-3")
def negative_seed_in_a_file(tmp: Path, run: Path) -> list[object]:
    return own(tmp, "seed: -3")


@case("its own base", "one.yaml", "two.yaml")
def bases_in_a_circle(tmp: Path, run: Path) -> list[object]:
    (tmp / "two.yaml").write_text("base: one.yaml")
    return own(tmp, "base: two.yaml", "one.yaml")


@case("contains itself")
def anchor_within_itself(tmp: Path, run: Path) -> list[object]:
    return own(tmp, "train: &t {steps: *t}")


@case("recipe is a name", "../evil")
def recipe_that_leaves_its_folder(tmp: Path, run: Path) -> list[object]:
    return own(tmp, "recipe: ../evil")


@case("recipe is a name")
def recipe_of_two_lines(tmp: Path, run: Path) -> list[object]:
    return own(tmp, 'recipe: "a\\nb"')


@case("data.image_size must be 1 to")
def images_of_a_hundred_thousand_pixels(tmp: Path, run: Path) -> list[object]:
    Image.new("L", (8, 8)).save(tmp / "a.png")
    return train("--data.source", tmp, "--data.image_size", 100_000)


@case("cannot be held in memory", "or fewer")
def too_many_samples(tmp: Path, run: Path) -> list[object]:
    return ["sample", run, "-n", 10**12]


@case("a layer needs a width", "-3")
def layer_of_negative_width(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hidden", "[-3]")


@case("share of the units", "2")
def more_dropped_than_there_is(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.dropout", 2)


@case("'normal' cannot be made", "math domain error")
def scale_below_zero(tmp: Path, run: Path) -> list[object]:
    return train("--model.posterior.min_scale", -1)


@case("cannot be made", "mlp")
def layer_beyond_memory(tmp: Path, run: Path) -> list[object]:
    return train("--model.encoder.hidden", f"[{10**13}]")


@case("method.beta must be 0 or more")
def negative_beta(tmp: Path, run: Path) -> list[object]:
    return train("--method.beta", -1)


@case("method.kl_warmup must be 0 or more")
def negative_warm_up(tmp: Path, run: Path) -> list[object]:
    return train("--method.kl_warmup", -4)


@case("not between 0 and")
def a_speed_check_without_end(tmp: Path, run: Path) -> list[object]:
    return ["doctor", "--speed", "inf"]


@case("not a number of seconds", "soon")
def a_speed_check_of_no_number(tmp: Path, run: Path) -> list[object]:
    return ["doctor", "--speed", "soon"]


@case("holds something else", "env.json")
def env_that_is_a_list(tmp: Path, run: Path) -> list[object]:
    (run / "env.json").write_text("[]")
    return ["evaluate", run]


@case("holds no evaluation", "estimates.json")
def estimates_that_are_numbers(tmp: Path, run: Path) -> list[object]:
    (run / "eval/estimates.json").write_text('{"estimates": [3]}')
    return ["report", run]


@case("nothing can be written there", "is not a folder")
def dry_run_into_a_file(tmp: Path, run: Path) -> list[object]:
    return train("--dry-run", "--out", run / "config.yaml" / "new")


@case("nothing can be written there", "is not a folder")
def table_into_a_file(tmp: Path, run: Path) -> list[object]:
    return ["reproduce", "toy", "--dry-run", "--out", run / "config.yaml"]


@case("data.source is empty")
def a_source_of_nothing(tmp: Path, run: Path) -> list[object]:
    return train("--data.source", "")


@case("no test split", "train")
def a_part_that_the_input_lacks(tmp: Path, run: Path) -> list[object]:
    np.save(tmp / "a.npy", np.zeros((20, 8, 8), np.uint8))
    return ["encode", run, "--input", tmp / "a.npy", "--split", "test"]


@case("cannot be run", "SystemExit", "line 2")
def a_model_file_that_leaves(tmp: Path, run: Path) -> list[object]:
    (tmp / "m.py").write_text("import sys\nsys.exit(3)")
    return ["infer", tmp / "m.py"]


@case("fitted posterior", "draws.npz")
def samples_of_a_posterior(tmp: Path, run: Path) -> list[object]:
    (run / "config.yaml").write_text("inference: {family: implicit}")
    return ["sample", run]


# --- the table ----------------------------------------------------------------------------------------------


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


def test_an_error_goes_to_stderr_even_with_json(advae: Any, tmp_path: Path) -> None:
    answer = advae("evaluate", tmp_path, "--json")
    assert (answer.code, answer.out) == (2, "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.err)
