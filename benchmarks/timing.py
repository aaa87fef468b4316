"""Shared helpers of the speed benchmarks: interleaved timing, records and result pages.

Contenders run for a moment in each round, in the same order, so that other load of the machine affects all alike. Rates
are medians over the rounds; the first calls warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advae import resolve
from advae.devices import allow_tf32, describe_device
from advae.training.benchmark import DATA_SHAPES, StepBenchmark

RESULTS = Path(__file__).parents[1] / "results"
Record = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """Work to be timed: ``work(n)`` does it n times, and each time counts as ``count`` (images, FLOP)."""

    work: Callable[[int], object]
    count: float


def measure_rates(
    contenders: Mapping[str, Contender], rounds: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Return the median rate of each contender per second; a turn takes about ``seconds``."""
    repeats: dict[str, int] = {}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        time_work(contender.work, 2, device)
        repeats[name] = max(1, round(seconds / (time_work(contender.work, 3, device) / 3)))
    for _ in range(rounds):
        for name, contender in contenders.items():
            n = repeats[name]
            rates[name].append(contender.count * n / time_work(contender.work, n, device))
    return {name: statistics.median(values) for name, values in rates.items()}


def time_work(work: Callable[[int], object], n: int, device: torch.device) -> float:
    """Return the seconds that ``work(n)`` takes, including queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work(n)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def recipe_benchmark(
    recipe: str, backend: str, precision: str, device: torch.device, batch_size: int | None = None
) -> StepBenchmark:
    """Return a recipe's steps on noise of its data's shape.

    Raises:
        CompilationError: the step cannot be compiled.
    """
    overrides: dict[str, Any] = {"train.precision": precision}
    if batch_size is not None:
        overrides["train.batch_size"] = batch_size
    config = resolve(recipe, overrides)
    return StepBenchmark.on_noise(config, DATA_SHAPES[config.data.source], device, backend)


def backends_of(device: torch.device) -> tuple[str, ...]:
    """Return the backends that run on a device."""
    return ("eager", "compile", "cuda-graph") if device.type == "cuda" else ("eager", "compile")


def matrix_product(n: int, device: torch.device, dtype: torch.dtype) -> Contender:
    """Return products of square matrices, the machine's peak in FLOP/s."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    def work(times: int) -> None:
        with allow_tf32():
            for _ in range(times):
                torch.mm(a, b)

    return Contender(work, 2.0 * n**3)


def machine_record(device: torch.device) -> Record:
    """Return device, threads, PyTorch version and load, as stored in every record."""
    return {
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def describe_machine(record: Mapping[str, Any]) -> str:
    """Return a record's machine as a sentence."""
    load = f"; load average {record['load']} (1 is this benchmark alone)" if record.get("load") else ""
    return f"{record['device']}, torch {record['torch']}{load}."


def make_parser(text: str | None, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds, help="per turn")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def write_results(
    name: str, records: Sequence[Record], keys: Sequence[str], page: Callable[[list[Record]], str]
) -> None:
    """Merge records into results/speed-NAME.json, replacing those with equal keys, and rewrite the page."""
    path = RESULTS / f"speed-{name}.json"
    stored = json.loads(path.read_text()) if path.exists() else []
    new_keys = {tuple(record.get(key) for key in keys) for record in records}
    merged = [r for r in stored if tuple(r.get(key) for key in keys) not in new_keys] + [*records]
    path.write_text(json.dumps(merged, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(merged))
    print(json.dumps(records, indent=1), flush=True)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def page_head(title: str, doc: str | None) -> list[str]:
    """Return a page's first lines: its title and its script's docstring from the third paragraph on."""
    return [f"# {title}", "", *(doc or "").split("\n\n", 2)[2].strip().splitlines(), ""]
