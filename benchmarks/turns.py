"""What the speed benchmarks share: contenders that take turns, medians, and the record of where it was.

Every contender works for a moment in each round, in the same order, so that whatever else the machine does meets all
alike; rates are medians over the rounds, and the first round warms up.
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

from advae.devices import describe_device
from advae.training.products import fast_products

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Contender:
    """Work to be timed: ``work(n)`` does it n times; each time counts for ``count`` (images, FLOP)."""

    work: Callable[[int], object]
    count: float


def rates(
    contenders: Mapping[str, Contender], rounds: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Median rate of each, in counts a second; a turn takes about ``seconds``."""
    times, found = {}, {name: [] for name in contenders}  # type: ignore[var-annotated]
    for name, contender in contenders.items():
        timed(contender.work, 2, device)  # warms up
        times[name] = max(1, round(seconds / (timed(contender.work, 3, device) / 3)))
    for _ in range(rounds):
        for name, contender in contenders.items():
            n = times[name]
            found[name].append(contender.count * n / timed(contender.work, n, device))
    return {name: statistics.median(each) for name, each in found.items()}


def timed(work: Callable[[int], object], n: int, device: torch.device) -> float:
    """Seconds for ``work(n)``, to the end of what it has started."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work(n)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matrix_product(n: int, device: torch.device, dtype: torch.dtype) -> Contender:
    """A product of square matrices, by the faster of torch's libraries: the machine's peak, in FLOP."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))

    def work(times: int) -> None:
        with fast_products():
            for _ in range(times):
                torch.mm(a, b)

    return Contender(work, 2.0 * n**3)


def step_flop(networks: Sequence[torch.nn.Module], batch: int) -> float:
    """FLOP of forward and backward through linear layers: each weight is used three times, once a multiply-add."""
    linear = [m for net in networks for m in net.modules() if isinstance(m, torch.nn.Linear)]
    return 3 * 2.0 * batch * sum(m.in_features * m.out_features for m in linear)


def where(device: torch.device) -> dict[str, Any]:
    """What every record says of the machine, and of what else it was doing."""
    return {
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def parser(text: str | None, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Options of every benchmark."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu")
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--seconds", type=float, default=seconds, help="of a turn")
    made.add_argument("--threads", type=int, default=1)
    return made


def write(
    name: str, record: dict[str, Any], keys: Sequence[str], page: Callable[[list[dict[str, Any]]], str]
) -> None:
    """Put a record into results/speed-NAME.json in place of one with the same keys, and make the page anew."""
    path = RESULTS / f"speed-{name}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    records = [r for r in before if any(r.get(k) != record.get(k) for k in keys)] + [record]
    path.write_text(json.dumps(records, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(records))
    print(json.dumps(record, indent=1), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def opening(title: str, doc: str | None) -> list[str]:
    """A page's first lines: its title, and what its script says of itself below the commands."""
    return [f"# {title}", "", *(doc or "").split("\n\n", 2)[2].strip().splitlines(), ""]


def machine(record: Mapping[str, Any]) -> str:
    """A record's machine in a sentence."""
    load = (
        f"; load of the machine {record['load']} (1 would be this benchmark alone)"
        if record.get("load")
        else ""
    )
    return f"{record['device']}, torch {record['torch']}{load}."
