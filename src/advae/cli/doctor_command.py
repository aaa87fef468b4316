"""``advae doctor``: what is installed, what device there is, and whether it all works."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from advae import __version__
from advae.cli.console import print_json
from advae.cli.parser import Parser, add_output

EXAMPLES = """\
  advae doctor
  advae doctor --json"""

EXTRAS = {"tensorboard": "curves in TensorBoard", "huggingface_hub": "data and models from the hub"}
LONGEST = 3600.0  # seconds of the speed check
SPEED_RECIPE, SECONDS = "vae-mnist-fc32", 10.0  # fully connected, so that its FLOP are those of its products
MARKS = {True: "✓", False: "✗", None: "–"}
TINY = {
    "recipe": "doctor",
    "data": {"source": "digits", "protocol": "dequantise", "limit": 64},
    "model": {
        "latent": 2,
        "encoder": {"name": "mlp", "hidden": [16]},
        "decoder": {"name": "mlp", "hidden": [16]},
        "likelihood": {"name": "normal"},
    },
    "method": {"name": "vae"},
    "train": {"steps": 3, "batch": 16},
}


@dataclass(frozen=True)
class Finding:
    """One check: passed, failed, or (None) nothing that is needed."""

    name: str
    passed: bool | None
    detail: str


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "doctor",
        "Check versions, devices and extras; train a tiny model end to end. Exit code 1 if a check fails.",
        EXAMPLES,
        usage="[--speed SECONDS] [--json]",
    )
    text = f"seconds of the speed check, 0 for none ({SECONDS:.0f})"
    made.add_argument("--speed", metavar="SECONDS", type=_seconds, default=SECONDS, help=text)
    add_output(made, "a list of {name, passed, detail}")
    return made


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {LONGEST:.0f}")
    return value


def run(args: argparse.Namespace) -> int:
    """Check everything, print as it goes."""
    found = []
    for finding in findings(args.speed):
        found.append(finding)
        if not args.json and not (args.quiet and finding.passed is not False):
            print(f"{MARKS[finding.passed]} {finding.name:<16} {finding.detail}", flush=True)
    if args.json:
        print_json([asdict(finding) for finding in found])
    return 1 if any(finding.passed is False for finding in found) else 0


def findings(seconds: float = SECONDS) -> Iterator[Finding]:
    """The checks, in the order in which one would look for a fault."""
    yield Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]}, {sys.executable}")
    yield from _packages()
    for check in (_devices, _bf16, _products, _threads, _recipes, _compiler, _self_check):
        yield _tried(check)
    if seconds > 0:
        yield _tried(lambda: _speed(seconds), "speed")
    for name, use in EXTRAS.items():
        there = find_spec(name) is not None
        yield Finding(name, True if there else None, use if there else f"not installed; it gives {use}")


def _tried(check: Callable[[], Finding], name: str = "") -> Finding:
    """A check's finding; that it fails in whatever way is one too."""
    try:
        return check()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        name = name or check.__name__.strip("_").replace("_", "-")
        return Finding(name, False, f"{type(error).__name__}: {first}")


def _packages() -> Iterator[Finding]:
    from advae.training.environment import versions

    for name, version in versions().items():
        if name == "advae" and version == "missing":  # run from its sources, not installed
            yield Finding(name, True, f"{__version__}, not installed: from {Path(__file__).parents[1]}")
        elif name != "python":
            yield Finding(name, version != "missing", version)


def _devices() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("devices", True, f"cpu{''.join(f', cuda:{i} {name}' for i, name in enumerate(names))}")


def _bf16() -> Finding:
    import torch

    if torch.cuda.is_available():
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        detail = "on the GPU" if there else "not on this GPU: use fp32"
        return Finding("bf16", True if there else None, detail)
    from advae.training.environment import find_precision

    there = find_precision("auto", torch.device("cpu")) == "bf16"
    detail = "on the CPU, faster than fp32" if there else "emulated on this CPU: use fp32"
    return Finding("bf16", True if there else None, detail)


def _products() -> Finding:
    """Whose float32 products training and evaluation on the CPU take."""
    from advae.networks.products import onednn_gain, onednn_is_faster

    gain = f"{onednn_gain():.1f} times as fast here"
    detail = (
        f"by oneDNN, {gain} as torch's choice"
        if onednn_is_faster()
        else f"as torch has them; oneDNN is {gain}"
    )
    return Finding("products", True, f"of fp32 on the CPU {detail}")


def _threads() -> Finding:
    import torch

    return Finding("threads", True, f"{torch.get_num_threads()} of {os.cpu_count()} cores")


def _recipes() -> Finding:
    from advae.config import recipes

    names = recipes()
    return Finding("recipes", bool(names), f"{len(names)}, as {names[0]}" if names else "none was found")


def _compiler() -> Finding:
    """What a compiled step needs; nothing else does."""
    import torch

    if torch.cuda.is_available():
        there = find_spec("triton") is not None
        return Finding("step", True, f"auto: graph on the GPU{'' if there else '; compile needs triton'}")
    from torch._inductor.cpp_builder import get_cpp_compiler

    from advae.training.backends.select import PAYS_AFTER

    try:
        found = get_cpp_compiler()
    except Exception:  # of several kinds in several versions of torch
        return Finding(
            "step", None, "auto: eager; there is no C++ compiler (g++), without which none is compiled"
        )
    return Finding("step", True, f"auto: eager, and compiled by {found} from {PAYS_AFTER:,} steps on")


def _speed(seconds: float) -> Finding:
    """Steps of a recipe for some seconds, beside the matrix products that this machine makes in the same time."""
    import torch

    from advae.training.environment import find_device
    from advae.training.speed import check

    found = check(SPEED_RECIPE, find_device("auto"), seconds)
    detail = (
        f"{found.images:,.0f} images a second of {SPEED_RECIPE} (fp32, {found.way}, {torch.get_num_threads()} threads):"
        f" {found.share:.0%} of the {found.peak / 1e9:,.0f} GFLOP/s that matrix products reach here"
    )
    return Finding("speed", True, detail)


def _self_check() -> Finding:
    """Data, networks, three steps, a checkpoint, the model read back, samples, figures."""
    from advae.data import DataOptions, load_data
    from advae.evaluation import evaluate
    from advae.training.train import train

    tiny: dict[str, Any] = TINY
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = train(tiny, out=Path(folder) / "run", quiet=True)
        model = done.model()
        estimates = evaluate(model, load_data(DataOptions(**tiny["data"])), importance=2, draws=2, limit=16)
        finite = bool(model.sample(4, seed=0).isfinite().all()) and len(estimates) > 0
    seconds = time.perf_counter() - began
    detail = f"data, training, checkpoint, samples and evaluation work ({seconds:.1f} s)"
    return Finding("self-check", finite, detail if finite else "the samples are not finite")
