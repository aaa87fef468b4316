"""Fixtures: the command in this process, and a small trained run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from advae.cli import main

SMALL = (
    *("--model.encoder.hidden", "[16]", "--model.decoder.hidden", "[16]", "--train.batch_size", "32"),
    *("--train.log_every", "5", "--train.validate_every", "10", "--train.samples_every", "10"),
)


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a call of the command."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> tuple[str, ...]:
    """Options that make a recipe on digits fast."""
    return SMALL


@pytest.fixture
def advae(capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command in this process: ``advae("train", …)``."""

    def call(*argv: object) -> Answer:
        capsys.readouterr()
        code = main([str(arg) for arg in argv])
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def trained(
    shared_folder: Callable[[str, Callable[[Path], object]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train for 20 steps, with evaluation and report; tests that change the run use a copy."""

    def train(folder: Path) -> None:
        options = ["--train.steps", "20", "--quiet", *SMALL]
        assert main(["train", "vae-digits", "--out", str(folder / "trained"), *options]) == 0

    return shutil.copytree(
        shared_folder("cli", train) / "trained", tmp_path_factory.mktemp("runs") / "trained"
    )
