"""Help: fast, complete, and errors in arguments that name the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from advae.cli import VERBS
from advae.cli.parser import Count, OutputOptions, Parser, Range, RunPath
from advae.errors import ConfigError

SRC = Path(__file__).resolve().parents[2] / "src"
SLOW_MODULES = {
    "torch",
    "lightning_fabric",
    "jsonargparse",
    "datasets",
    "matplotlib",
    "numpy",
    "rich",
    "yaml",
}
PROGRAM = """
import contextlib, io, json, sys
from advae.cli import VERBS, main
texts = {}
for argv in ([], ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(argv)
    texts[" ".join(argv)] = [code, out.getvalue()]
print(json.dumps([texts, sorted(sys.modules)]))
"""


@dataclass(frozen=True, kw_only=True)
class InnerOptions:
    """Options in another dataclass."""

    rate: Annotated[float, Range(0, 1)] = 0.5
    """A rate."""
    init: Literal["small", "large"] = "small"
    """Initial size."""


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(OutputOptions):
    """An example."""

    run: RunPath
    """Run directory."""
    count: Count = 3
    """How many."""
    widths: tuple[int, ...] = ()
    """Layer widths."""
    limit: Count | None = None
    """At most N."""
    inner: InnerOptions
    """Further options."""


def parse(*argv: str) -> ExampleOptions:
    return Parser("example", ExampleOptions, "advae example RUN", flags={"init": "--inner-init"}).parse(argv)


def test_a_dataclass_is_its_parser() -> None:
    options = parse("a", "--rate", "0.25", "--widths", "3,4", "--inner-init=large", "--json")
    assert options == ExampleOptions(
        run="a",
        widths=(3, 4),
        inner=InnerOptions(rate=0.25, init="large"),
        json=True,
        given=frozenset({"run", "rate", "widths", "init", "json"}),
    )
    assert parse("a").count == 3 and parse("a").inner == InnerOptions() and parse("a").given == {"run"}


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("a", "b"),
        ("a", "--rate", "2"),
        ("a", "--rate", "x"),
        ("a", "--count", "0"),
        ("a", "--limit", "1.5"),
        ("a", "--widths", "3,x"),
        ("a", "--inner-init", "huge"),
        ("a", "--init", "small"),
        ("a", "--coun", "3"),
        ("a", "--count"),
    ],
    ids=" ".join,
)
def test_values_of_the_wrong_type_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        parse(*argv)


@pytest.fixture(scope="module")
def help_texts() -> tuple[dict[str, tuple[int, str]], set[str]]:
    """Return the output of every ``--help``, and the modules imported for all of them."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    program = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    texts, modules = json.loads(result.stdout)
    return texts, set(modules)


def test_help_imports_no_slow_module(help_texts: tuple[dict[str, tuple[int, str]], set[str]]) -> None:
    assert help_texts[1] & SLOW_MODULES == set()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(
    verb: str, help_texts: tuple[dict[str, tuple[int, str]], set[str]]
) -> None:
    code, text = help_texts[0][f"{verb} --help"]
    assert code == 0
    assert text.startswith(f"usage: advae {verb}")
    assert f"examples:\n  advae {verb}" in text
    assert verb in help_texts[0][""][1]


def test_help_with_a_recipe_lists_its_options(advae: Any) -> None:
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
        (["trian"], ["'trian'", "did you mean 'train'"]),
        (["--bogus"], ["'--bogus'"]),
        (["train"], ["RECIPE", "--data.source", "vae-digits"]),
        (["train", "vae-digits", "--resume", "x"], ["RECIPE and --resume"]),
        (["train", "vae-digits", "--steps", "5"], ["'--steps'", "did you mean '--train.steps'?"]),
        (["train", "vae-digits", "--epochs", "5"], ["did you mean '--train.steps'?"]),
        (["train", "vae-digits", "--lr", "5"], ["did you mean '--train.lr'?"]),
        (["train", "vae-digits", "--latent", "5"], ["did you mean '--model.latent_dim'?"]),
        (["train", "vae-digits", "--batch-size", "5"], ["did you mean '--train.batch_size'?"]),
        (["train", "vae-digits", "--batch_size=5"], ["did you mean '--train.batch_size'?"]),
        (["train", "vae-digits", "--gpu"], ["did you mean '--device'?"]),
        (["train", "vae-digits", "--data", "x"], ["did you mean '--data.source'?"]),
        (["train", "vae-digits", "--output", "x"], ["did you mean '--out'?"]),
        (["train", "--epochs", "5"], ["--train.steps", "epochs × examples / batch size"]),
        (["train", "vae-digits", "--z", "5"], ["'--model.latent_dim'"]),
        (["train", "vae-digits", "--input", "x"], ["'--data.source'"]),
        (["train", "vae-digits", "-o", "x"], ["'--out'"]),
        (["train", "vae-digits", "--num-workers", "3"], ["'--data.workers'"]),
        (["train", "vae-digits", "--stepz", "3"], ["'--train.steps'"]),
        (["train", "vae-digits", "--duration", "5m"], ["'--time'"]),
        (["train", "vae-digits", "--optimizer", "sgd"], ["Adam"]),
        (["train", "vae-digits", "--data.path", "x"], ["'data.source'"]),
        (["train", "vae-digits", "--model.likelihood", "gaussian"], ["'normal'"]),
        (["train", str(Path(__file__).parent)], ["--data.source"]),
        (["train", "vae-digits", "--time", "5"], ["10m"]),
        (["train", "vae-digits", "--time", "5m", "--train.steps", "5"], ["one of them"]),
        (["train", "vae-digits", "--zzz"], ["advae train RECIPE --help"]),
        (["sample", "x", "--num-samples", "5"], ["did you mean '-n'?"]),
        (["train", "vae-digits", "--train.steps"], ["--train.steps VALUE"]),
        (["train", "vae-digits", "--see", "1"], ["'--see'", "did you mean '--seed'"]),
        (["train", "vae-digits", "--seed", "one"], ["--seed", "'one'"]),
        (["train", "vae-digits", "extra"], ["'extra'"]),
        (["train", "--resume", "x", "--out", "y"], ["--out y"]),
        (["train", "--config", "recipe.txt"], [".yaml"]),
        (["evaluate"], ["RUN"]),
        (["evaluate", "x", "--jsn"], ["did you mean '--json'"]),
        (["evaluate", "x", "--split", "tst"], ["did you mean 'test'"]),
        (["sample", "x", "-n", "0"], ["-n", "less than 1"]),
        (["compare", "x"], ["two runs"]),
    ],
    ids=" ".join,
)
def test_wrong_arguments(argv: list[str], words: list[str], advae: Any) -> None:
    answer = advae(*argv)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("advae: ")
    for word in words:
        assert word in answer.err
    assert len(answer.err.splitlines()) <= 4
