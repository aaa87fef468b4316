"""Start-up times: help, imports, and the first step of training, each in a new process.

    python benchmarks/startup_time.py

Medians of several starts are written to results/speed-startup.json and results/speed-startup.md. The first start, which
fills the file cache and compiles Python files, is left out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch
from timing import (
    Record,
    describe_machine,
    machine_record,
    make_parser,
    markdown_table,
    page_head,
    time_work,
    write_results,
)

CPU = torch.device("cpu")
COMMANDS = {
    "python, nothing else": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import advae": ["-c", "import advae"],
    "advae --help": ["-m", "advae", "--help"],
    "advae train --help": ["-m", "advae", "train", "--help"],
    "advae recipes": ["-m", "advae", "recipes"],
    "advae train, one step": [
        *("-m", "advae", "train", "vae-digits", "--train.steps", "1", "--no-report", "--quiet", "--out"),
    ],
}


def start_time(arguments: list[str]) -> float:
    """Return the seconds from the start to the end of a process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *arguments, *([f"{folder}/run"] if arguments[-1] == "--out" else [])]
        return time_work(lambda n: subprocess.run(command, check=True, capture_output=True), 1, CPU)


def measure(args: Any) -> Record:
    """Return medians over rounds in which all commands take turns."""
    rounds = [
        {name: start_time(command) for name, command in COMMANDS.items()} for _ in range(args.rounds + 1)
    ]
    medians = {name: statistics.median(times[name] for times in rounds[1:]) for name in COMMANDS}
    return {"seconds": medians} | machine_record(CPU)


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Start-up times", __doc__)
    for r in records:
        rows = [[name, f"{value:.2f}"] for name, value in r["seconds"].items()]
        lines += [describe_machine(r), "", *markdown_table(("command", "seconds"), rows), ""]
    return "\n".join(lines)


def main() -> None:
    args = make_parser(__doc__, rounds=5, seconds=0).parse_args()
    torch.set_num_threads(args.threads)
    write_results("startup", [measure(args)], ("device", "threads"), page)


if __name__ == "__main__":
    main()
