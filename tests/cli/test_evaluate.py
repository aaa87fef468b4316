"""``advae evaluate`` as processes: several that share the work, and one that is killed and repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
SRC = Path(__file__).resolve().parents[2] / "src"
HANG_TIMEOUT = 600.0  # seconds; only a process that hangs reaches it, however busy the machine is
OPTIONS = (
    "--likelihood",
    "elbo,ais",
    "--chains",
    "24",
    "--temperatures",
    "10",
    "--diagnostics",
    "none",
    "--json",
)


def command(run: Path, **env: str) -> subprocess.Popen[str]:
    """Start ``advae evaluate RUN`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "advae", "evaluate", str(run), *OPTIONS, "--device", "cpu"],
        env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_estimates(run: Path) -> list[dict[str, Any]]:
    estimates: list[dict[str, Any]] = json.loads((run / "eval" / "estimates.json").read_text())["estimates"]
    return estimates


@pytest.fixture(scope="module")
def uninterrupted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the estimates of one process that is not interrupted."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("one") / "run")
    process = command(run)
    assert process.wait(HANG_TIMEOUT) == 0, process.stderr
    return read_estimates(run)


def test_two_processes_give_the_same_estimates_as_one(
    trained: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path
) -> None:
    """As torchrun starts them. The equality is exact: means over examples are summed in the same order."""
    run = shutil.copytree(trained, tmp_path / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [command(run, **shared, RANK=str(r), LOCAL_RANK=str(r)) for r in range(2)]
    outputs = [process.communicate(timeout=HANG_TIMEOUT) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert json.loads(outputs[0][0])["estimates"] == uninterrupted and outputs[1][0] == ""
    assert read_estimates(run) == uninterrupted
    assert not (run / "eval" / "unfinished").exists()


def test_killed_and_repeated_it_gives_the_same_estimates(
    trained: Path, uninterrupted: list[dict[str, Any]], tmp_path: Path
) -> None:
    """SIGKILL as soon as the first part of the work is done."""
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "eval")
    process = command(run)
    deadline = time.monotonic() + HANG_TIMEOUT
    while not list(run.glob("eval/unfinished/*/*.done")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not (run / "eval" / "estimates.json").exists()
    again = command(run)
    output = again.communicate(timeout=HANG_TIMEOUT)
    assert again.returncode == 0, output
    assert read_estimates(run) == uninterrupted
