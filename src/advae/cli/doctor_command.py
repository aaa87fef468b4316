"""``advae doctor``: checks of the installation, the devices and a small training run."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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


Result = tuple[bool | None, str]
"""Whether a check passed (None if something optional is missing), and a line on it."""


def parser() -> Parser[DoctorOptions]:
    return Parser("doctor", DoctorOptions, EXAMPLES, usage="[--speed SECONDS] [--json]")


def run(options: DoctorOptions) -> int:
    """Run all checks and print each result at once."""
    results = []
    for name, (passed, detail) in run_checks(options.speed):
        results.append({"name": name, "passed": passed, "detail": detail})
        if not options.json and not (options.quiet and passed is not False):
            print(f"{MARKS[passed]} {name:<16} {detail}", flush=True)
    if options.json:
        print_json(results)
    return 1 if any(result["passed"] is False for result in results) else 0


def run_checks(seconds: float) -> Iterator[tuple[str, Result]]:
    """Yield name and result of all checks, the most basic first."""
    from advae.devices import versions

    yield "python", (sys.version_info >= (3, 11), f"{sys.version.split()[0]}, {sys.executable}")
    for name, version in versions().items():
        if name == "advae" and version == "missing":  # run from its sources
            yield name, (True, f"{__version__}, not installed: from {Path(__file__).parents[1]}")
        elif name != "python":
            yield name, (version != "missing", version)
    checks: dict[str, Callable[[], Result]] = {
        "devices": _devices,
        "bf16": _bf16,
        "matmul": _matmul,
        "threads": _threads,
        "allocator": _allocator,
        "recipes": _recipes,
        "backend": _backend,
        "self-check": _training,
    }
    if seconds > 0:
        checks["speed"] = partial(_speed, seconds)
    for name, check in checks.items():
        try:
            yield name, check()
        except Exception as error:
            yield name, (False, first_line(error))
    for name, use in EXTRAS.items():
        is_installed = find_spec(name) is not None
        yield name, (is_installed or None, use if is_installed else f"not installed; for {use}")


def _devices() -> Result:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return True, f"cpu{''.join(f', cuda:{i} {name}' for i, name in enumerate(names))}"


def _bf16() -> Result:
    import torch

    from advae.devices import find_precision

    if torch.cuda.is_available():
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        return is_native or None, "native on the GPU" if is_native else "not native on this GPU: use fp32"
    is_native = find_precision("auto", torch.device("cpu")) == "bf16"
    detail = "native on the CPU, faster than fp32" if is_native else "emulated on this CPU: use fp32"
    return is_native or None, detail


def _matmul() -> Result:
    from advae.devices import matmul_library

    return True, f"compiled fp32 training steps on the CPU use {matmul_library()}"


def _threads() -> Result:
    import torch

    return True, f"{torch.get_num_threads()} of {os.cpu_count()} cores"


def _allocator() -> Result:
    """Return allocator settings that keep freed memory in the process (docs/reference/speed.md)."""
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "LD_PRELOAD")
    settings = " ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
    advice = "default; MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0 can make training on a CPU faster"
    return True, settings or advice


def _recipes() -> Result:
    from advae.config import recipes

    names = recipes()
    return bool(names), f"{len(names)}, such as {names[0]}" if names else "none"


def _backend() -> Result:
    import torch

    if torch.cuda.is_available():
        return True, f"auto: cuda-graph{'' if find_spec('triton') is not None else '; compile needs triton'}"
    from torch._inductor.cpp_builder import get_cpp_compiler

    from advae.training.backends.select import COMPILE_MIN_STEPS

    try:
        compiler = get_cpp_compiler()
    except Exception:  # the type depends on the version of torch
        return None, "auto: eager; there is no C++ compiler (g++) for compile"
    return True, f"auto: eager; compile ({compiler}) from {COMPILE_MIN_STEPS:,} steps"


def _training() -> Result:
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
    return passed, detail if passed else "samples are not finite"


def _speed(seconds: float) -> Result:
    """Measure the training speed of a recipe, relative to the matrix products that this machine can compute."""
    import torch

    from advae.devices import find_device
    from advae.training.benchmark import measure_throughput

    result = measure_throughput(SPEED_RECIPE, find_device("auto"), seconds)
    return True, (
        f"{result.images_per_second:,.0f} images/s with {SPEED_RECIPE} (fp32, {result.backend},"
        f" {torch.get_num_threads()} threads): {result.utilization:.0%} of the {result.peak_flops / 1e9:,.0f} GFLOP/s"
        " that matrix products reach"
    )
