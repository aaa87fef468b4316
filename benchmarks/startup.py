"""Start-up times: the command's help, the import, and a training's first step, each in a process of its own.

    python benchmarks/startup.py

Medians of several starts, the first left out (it fills the file cache and compiles Python), are written to
results/speed-startup.json and results/speed-startup.md.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from turns import machine, parser, table, where, write

TRAIN = ["train", "vae-digits", "--train.steps", "1", "--no-report", "--quiet", "--out"]
STARTS = {
    "python, nothing else": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import advae": ["-c", "import advae"],
    "advae --help": ["-m", "advae", "--help"],
    "advae train --help": ["-m", "advae", "train", "--help"],
    "advae recipes": ["-m", "advae", "recipes"],
    "advae train, one step": ["-m", "advae", *TRAIN],
}


def seconds(arguments: list[str]) -> float:
    """Of one start, to its end."""
    with tempfile.TemporaryDirectory() as folder:
        more = [f"{folder}/run"] if arguments[-1] == "--out" else []
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments, *more], check=True, capture_output=True)
        return time.perf_counter() - began


def measure(args: Any) -> dict[str, Any]:
    """Medians, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range(args.rounds + 1):
        for name, arguments in STARTS.items():
            took = seconds(arguments)
            if turn:
                found[name].append(took)
    return {"seconds": {k: statistics.median(v) for k, v in found.items()}} | where(torch.device("cpu"))


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["# Start-up times", "", *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(), ""]
    for r in records:
        rows = [[name, f"{value:.2f}"] for name, value in r["seconds"].items()]
        lines += [machine(r), "", *table(("start", "seconds"), rows), ""]
    return "\n".join(lines)


def main() -> None:
    args = parser(__doc__, rounds=5, seconds=0).parse_args()
    torch.set_num_threads(args.threads)
    write("startup", measure(args), ("device", "threads"), page)


if __name__ == "__main__":
    main()
