"""``advae doctor``: checks of the installation, the devices and a small training run."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from advae import __version__
from advae.cli.console import print_json
from advae.cli.parser import OutputOptions, Parser, Range
from advae.errors import first_line

SUMMARY = "check the installation, the devices, and that training works"
EXAMPLES = """
advae doctor
advae doctor --json
"""
EXTRAS = {"tensorboard": "curves in TensorBoard", "huggingface_hub": "data and models from the hub"}
SPEED_RECIPE = "vae-mnist-fc32"  # fully connected, so that matrix products are all of its work
MARKS = {True: "✓", False: "✗", None: "–"}
SELF_CHECK_RECIPE: dict[str, Any] = {
    "recipe": "doctor",
    "data": {"source": "digits", "preprocessing": "dequantize", "limit": 64},
    "model": {
        "latent_dim": 2,
        "encoder": {"name": "mlp", "hidden": [16]},
        "decoder": {"name": "mlp", "hidden": [16]},
        "likelihood": {"name": "normal"},
    },
    "method": {"name": "vae"},
    "train": {"steps": 3, "batch_size": 16},
}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(OutputOptions):
    """Check versions, devices and extras, and train a tiny model. The exit code is 1 if a check fails. --json prints a
    list of {name, passed, detail}."""

    speed: Annotated[float, Range(0, 3600), "SECONDS"] = 10.0
    """Duration of the speed check; 0 skips it."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check.

    Attributes:
        name: of the check.
        passed: None if something optional is missing.
        detail: one line.
    """

    name: str
    passed: bool | None
    detail: str


def parser() -> Parser[DoctorOptions]:
    return Parser("doctor", DoctorOptions, EXAMPLES, usage="[--speed SECONDS] [--json]")


def run(options: DoctorOptions) -> int:
    """Run all checks and print each result at once."""
    results = []
    for result in run_checks(options.speed):
        results.append(result)
        if not options.json and not (options.quiet and result.passed is not False):
            print(f"{MARKS[result.passed]} {result.name:<16} {result.detail}", flush=True)
    if options.json:
        print_json([asdict(result) for result in results])
    return 1 if any(result.passed is False for result in results) else 0


def run_checks(seconds: float) -> Iterator[CheckResult]:
    """Yield the results of all checks, the most basic first."""
    yield CheckResult("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]}, {sys.executable}")
    yield from _check_packages()
    for check in (
        _check_devices,
        _check_bf16,
        _check_matmul,
        _check_threads,
        _check_allocator,
        _check_recipes,
        _check_compiler,
    ):
        yield _catch(check)
    yield _catch(_check_training)
    if seconds > 0:
        yield _catch(lambda: _check_speed(seconds), "speed")
    for name, use in EXTRAS.items():
        is_installed = find_spec(name) is not None
        yield CheckResult(name, is_installed or None, use if is_installed else f"not installed; for {use}")


def _catch(check: Callable[[], CheckResult], name: str = "") -> CheckResult:
    """Return the result of a check; an exception of any type is a failure."""
    try:
        return check()
    except Exception as error:
        return CheckResult(name or check.__name__.removeprefix("_check_"), False, first_line(error))


def _check_packages() -> Iterator[CheckResult]:
    from advae.devices import versions

    for name, version in versions().items():
        if name == "advae" and version == "missing":  # run from its sources
            source = Path(__file__).parents[1]
            yield CheckResult(name, True, f"{__version__}, not installed: from {source}")
        elif name != "python":
            yield CheckResult(name, version != "missing", version)


def _check_devices() -> CheckResult:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return CheckResult("devices", True, f"cpu{''.join(f', cuda:{i} {name}' for i, name in enumerate(names))}")


def _check_bf16() -> CheckResult:
    import torch

    if torch.cuda.is_available():
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        detail = "native on the GPU" if is_native else "not native on this GPU: use fp32"
        return CheckResult("bf16", is_native or None, detail)
    from advae.devices import find_precision

    is_native = find_precision("auto", torch.device("cpu")) == "bf16"
    detail = "native on the CPU, faster than fp32" if is_native else "emulated on this CPU: use fp32"
    return CheckResult("bf16", is_native or None, detail)


def _check_matmul() -> CheckResult:
    from advae.devices import matmul_library

    return CheckResult("matmul", True, f"compiled fp32 training steps on the CPU use {matmul_library()}")


def _check_allocator() -> CheckResult:
    """Check for allocator settings that keep freed memory in the process (docs/reference/speed.md)."""
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "LD_PRELOAD")
    settings = " ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
    advice = "default; MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0 can make training on a CPU faster"
    return CheckResult("allocator", True, settings or advice)


def _check_threads() -> CheckResult:
    import torch

    return CheckResult("threads", True, f"{torch.get_num_threads()} of {os.cpu_count()} cores")


def _check_recipes() -> CheckResult:
    from advae.config import recipes

    names = recipes()
    return CheckResult("recipes", bool(names), f"{len(names)}, such as {names[0]}" if names else "none")


def _check_compiler() -> CheckResult:
    """Check for the compiler of the compiled backend."""
    import torch

    if torch.cuda.is_available():
        note = "" if find_spec("triton") is not None else "; compile needs triton"
        return CheckResult("backend", True, f"auto: cuda-graph{note}")
    from torch._inductor.cpp_builder import get_cpp_compiler

    from advae.training.backends.select import COMPILE_MIN_STEPS

    try:
        compiler = get_cpp_compiler()
    except Exception:  # the type depends on the version of torch
        return CheckResult("backend", None, "auto: eager; there is no C++ compiler (g++) for compile")
    detail = f"auto: eager; compile ({compiler}) from {COMPILE_MIN_STEPS:,} steps"
    return CheckResult("backend", True, detail)


def _check_training() -> CheckResult:
    """Check data, training, checkpoint, loading, evaluation and sampling with a tiny model."""
    from advae.data import DataOptions, load_data
    from advae.evaluation.evaluate import evaluate
    from advae.training.train import train

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = train(SELF_CHECK_RECIPE, out=Path(folder) / "run", quiet=True).model()
        data = load_data(DataOptions(**SELF_CHECK_RECIPE["data"]))
        estimates = evaluate(model, data, iwae_samples=2, elbo_samples=2, limit=16)
        passed = bool(model.sample(4, seed=0).isfinite().all()) and len(estimates) > 0
    seconds = time.perf_counter() - start
    detail = f"data, training, checkpoint, samples and evaluation work ({seconds:.1f} s)"
    return CheckResult("self-check", passed, detail if passed else "samples are not finite")


def _check_speed(seconds: float) -> CheckResult:
    """Measure the training speed of a recipe, relative to the matrix products that this machine can compute."""
    import torch

    from advae.devices import find_device
    from advae.training.benchmark import measure_throughput

    result = measure_throughput(SPEED_RECIPE, find_device("auto"), seconds)
    detail = (
        f"{result.images_per_second:,.0f} images/s with {SPEED_RECIPE} (fp32, {result.backend},"
        f" {torch.get_num_threads()} threads): {result.utilization:.0%} of the {result.peak_flops / 1e9:,.0f} GFLOP/s"
        " that matrix products reach"
    )
    return CheckResult("speed", True, detail)
