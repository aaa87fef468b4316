"""Help is quick because it loads nothing heavy; and it says what a person needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advae.cli import VERBS

SRC = Path(__file__).resolve().parents[2] / "src"
HEAVY = {"torch", "lightning_fabric", "jsonargparse", "datasets", "matplotlib", "numpy", "rich"}
PROGRAM = """
import contextlib, io, json, sys
from advae.cli import VERBS, main
shown = {}
for argv in ([], ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(argv)
    shown[" ".join(argv)] = [code, out.getvalue()]
print(json.dumps([shown, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def helped() -> tuple[dict[str, tuple[int, str]], set[str]]:
    """What every ``--help`` prints, and the modules that were loaded for all of them."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    shown, modules = json.loads(done.stdout)
    return shown, set(modules)


def test_help_loads_nothing_heavy(helped: tuple[dict[str, tuple[int, str]], set[str]]) -> None:
    assert helped[1] & HEAVY == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(
    verb: str, helped: tuple[dict[str, tuple[int, str]], set[str]]
) -> None:
    code, text = helped[0][f"{verb} --help"]
    assert code == 0
    assert text.startswith(f"usage: advae {verb}")
    assert f"examples:\n  advae {verb}" in text
    assert verb in helped[0][""][1]


def test_help_of_a_recipe_lists_its_options(advae: Any) -> None:
    answer = advae("train", "vae-digits", "--train.steps", "77", "--help")
    assert answer.code == 0
    for text in (
        "--train.steps STEPS",
        "default: 77",
        "--method.free_bits",
        "--model.encoder.hidden",
        "Nats of KL",
    ):
        assert text in " ".join(answer.out.split())
    assert "--train CONFIG" not in answer.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["no verb 'trian'", "did you mean 'train'"]),
        (["--bogus"], ["'--bogus'"]),
        (["train"], ["what is to be trained?", "vae-digits"]),
        (["train", "vae-digits", "--resume", "x"], ["one of", "RECIPE and --resume"]),
        (["train", "vae-digits", "--steps", "5"], ["no option '--steps'", "did you mean --train.steps?"]),
        (["train", "vae-digits", "--train.steps"], ["--train.steps needs a value"]),
        (["train", "vae-digits", "--see", "1"], ["'--see'", "did you mean '--seed'"]),
        (["train", "vae-digits", "--seed", "one"], ["--seed", "'one' is not a whole number"]),
        (["train", "vae-digits", "extra"], ["no place for 'extra'"]),
        (["train", "--resume", "x", "--out", "y"], ["goes on in its own folder"]),
        (["train", "--config", "recipe.txt"], ["ending in .yaml"]),
        (["evaluate"], ["RUN is missing"]),
        (["evaluate", "x", "--jsn"], ["did you mean '--json'"]),
        (["evaluate", "x", "--split", "tst"], ["did you mean 'test'"]),
        (["sample", "x", "-n", "0"], ["-n", "0 is less than 1"]),
        (["compare", "x"], ["one run cannot be compared"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments(argv: list[str], words: list[str], advae: Any) -> None:
    answer = advae(*argv)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("advae: ")
    for word in words:
        assert word in answer.err
