"""``advae evaluate`` as processes: several that share the work, and one that is killed and repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advae.evaluation.likelihood import ais

pytestmark = pytest.mark.integration
SRC = Path(__file__).resolve().parents[2] / "src"
HANG_TIMEOUT = 600.0  # seconds; only a process that hangs reaches it, however busy the machine is
OPTIONS = (
    *("--likelihood", "elbo,ais", "--chains", "4", "--temperatures", "3", "--leapfrog-steps", "1"),
    *("--limit", "30", "--diagnostics", "none", "--json", "--device", "cpu"),
)
CHAINS_PER_BATCH = {"cpu": 40}  # three batches of ten images
PROGRAM = f"""
import os, signal, sys
from pathlib import Path
from advae.cli import main
from advae.evaluation.likelihood import ais
from advae.evaluation.resumable import PartialResult

ais.CHAINS_PER_BATCH = {CHAINS_PER_BATCH}
die_after, save = int(sys.argv.pop(1)), PartialResult.save_result

def save_and_die(self, result):
    save(self, result)
    if len(list(Path(sys.argv[2]).glob("eval/unfinished/*/*.done"))) == die_after:
        os.kill(os.getpid(), signal.SIGKILL)

PartialResult.save_result = save_and_die if die_after else save
sys.exit(main(sys.argv[1:]))
"""


def command(run: Path, die_after: int = 0, **env: str) -> subprocess.Popen[str]:
    """Start ``advae evaluate RUN`` as a process; it kills itself after storing the given number of batches."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(die_after), "evaluate", str(run), *OPTIONS],
        env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_estimates(run: Path) -> list[dict[str, Any]]:
    estimates: list[dict[str, Any]] = json.loads((run / "eval" / "estimates.json").read_text())["estimates"]
    return estimates


@pytest.fixture
def uninterrupted(
    trained: Path, advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Return the estimates of one process that is not interrupted."""
    monkeypatch.setattr(ais, "CHAINS_PER_BATCH", CHAINS_PER_BATCH)
    run = shutil.copytree(trained, tmp_path / "uninterrupted")
    answer = advae("evaluate", run, *OPTIONS)
    assert answer.code == 0, answer.err
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
    trained: Path, uninterrupted: list[dict[str, Any]], advae: Any, tmp_path: Path
) -> None:
    """SIGKILL after two of three batches."""
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run / "eval")
    process = command(run, die_after=2)
    output = process.communicate(timeout=HANG_TIMEOUT)
    assert process.returncode == -signal.SIGKILL, output
    assert len(list(run.glob("eval/unfinished/*/*.done"))) == 2
    assert not (run / "eval" / "estimates.json").exists()
    answer = advae("evaluate", run, *OPTIONS)
    assert answer.code == 0, answer.err
    assert read_estimates(run) == uninterrupted
