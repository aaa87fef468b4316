"""A small part of the robustness benchmark: kills, full disk, malformed recipes, data and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUM_KILLS, NUM_INPUTS = 3, 20
TIMEOUT_SECONDS = 600  # of a busy machine


@pytest.mark.slow
@pytest.mark.integration
def test_no_case_fails(tmp_path: Path) -> None:
    sizes = [
        "--kills",
        str(NUM_KILLS),
        "--cases",
        str(NUM_INPUTS),
        "--processes",
        "0",
        "--verbs",
        "train vae",
    ]
    command = [
        sys.executable,
        "benchmarks/robustness.py",
        *sizes,
        "--out",
        str(tmp_path),
        "--work",
        str(tmp_path),
    ]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads((tmp_path / "robustness.json").read_text())
    assert record["failures"] == []
    assert sum(sum(by_signal.values()) for by_signal in record["kills"].values()) >= NUM_KILLS
    assert sum(sum(outcomes.values()) for outcomes in record["inputs"].values()) == NUM_INPUTS
