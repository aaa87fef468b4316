"""The command's last resort: no traceback leaves it, and standard streams may be closed, full or unread."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advae.errors import AdvaeError

SRC = Path(__file__).resolve().parents[2] / "src"

ERRORS: dict[str, tuple[BaseException, int]] = {
    "invalid": (AdvaeError("It is wrong."), 2),
    "disk full": (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), 2),
    "disk full, no path": (OSError(errno.ENOSPC, "No space left on device"), 2),
    "OSError without a number": (OSError("strange"), 1),
    "pipe of a worker": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2),
    "memory": (MemoryError(), 2),
    "memory of a device": (RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"), 2),
    "recursion": (RecursionError("maximum recursion depth exceeded"), 1),
    "decoding": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 1),
    "encoding": (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), 1),
    "unexpected": (ValueError("two\nlines"), 1),
    "interrupted": (KeyboardInterrupt(), 130),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_exception_becomes_a_message(name: str, advae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error, code = ERRORS[name]

    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr("advae.cli.dispatch", fail)
    answer = advae("train")
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("advae: ") and "Traceback" not in answer.err and "\ntwo" not in answer.err
    assert ("--debug" in answer.err) == (code == 1)
    assert "Traceback" in advae("train", "--debug").err


def run(command: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command, in which ``advae`` is the command."""
    script = f'advae() {{ "{sys.executable}" -m advae "$@"; }}\n{command}'
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PYTHONPATH": str(SRC), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("advae recipes > /dev/full", 2),
        ("advae recipes >&-", 2),
        ("advae --help > /dev/full", 2),
        ("advae train --help >&-", 2),
        ("advae recipes <&- >&- 2>&-", 2),
        ("advae nothing 2>&-", 2),
        ("advae nothing 2> /dev/full", 2),
        ("advae train --help 2>&- <&- > /dev/null", 0),
        ("advae recipes --json 2> /dev/full > /dev/null", 0),
        ("advae --help | true; exit ${PIPESTATUS[0]}", 141),
        ("advae nothing 2> >(true)", 2),
    ],
)
def test_streams_that_are_closed_full_or_unread(command: str, code: int, tmp_path: Path) -> None:
    if "| true" in command:
        command = command.replace("| true", "| { exec <&-; sleep 1; }")  # closed before the command writes
    result = run(command, tmp_path)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    assert "standard output" in result.stderr or code != 2 or "2>" in command


@pytest.mark.integration
@pytest.mark.parametrize("streams", ["2> /dev/full", "<&- >&- 2>&-"])
def test_training_does_not_end_with_its_streams(
    streams: str, small: tuple[str, ...], tmp_path: Path, advae: Any
) -> None:
    options = " ".join(f"'{option}'" for option in small)
    result = run(
        f"advae train vae-digits --out run --train.steps 4 --no-report {options} {streams}", tmp_path
    )
    assert result.returncode == (2 if ">&- 2" in streams else 0)  # the path of the run cannot be printed
    state = json.loads((tmp_path / "run" / "checkpoints" / "last" / "state.json").read_text())
    assert state["step"] == 4
    # No file got the number of a closed stream, and then text that was meant for the stream.
    assert advae("sample", tmp_path / "run", "-n", 2, "--out", tmp_path / "samples.npz").code == 0


@pytest.mark.integration
def test_text_is_utf8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: vae-digits\ndescription: σ² = ½", encoding="utf-8")
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = "advae train --config own.yaml --print-config > printed.yaml && advae --help"
    result = run(f"{command} && advae train --config printed.yaml --print-config", tmp_path, **ascii_locale)
    assert result.returncode == 0, result.stderr
    assert "description: σ² = ½" in (tmp_path / "printed.yaml").read_text(encoding="utf-8")
    assert "description: σ² = ½" in result.stdout


@pytest.mark.integration
def test_allow_imports_the_package_and_nothing_next_to_it(tmp_path: Path, small: tuple[str, ...]) -> None:
    """Neither a module of the standard library, nor an installed one, nor one that nobody has is taken from there."""
    poison = f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n"
    for name in ("numpy", "yaml", "tomllib", "triton", "no_such_module"):
        (tmp_path / f"{name}.py").write_text(poison)
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets" / "__init__.py").write_text("")
    (tmp_path / "own_nets" / "nets.py").write_text(
        "from advae.networks.mlp import MLP\nimport own_nets.other, tomllib\n"
        "try:\n    import no_such_module\nexcept ImportError:\n    pass\n\nclass Net(MLP):\n    pass\n"
    )
    (tmp_path / "own_nets" / "other.py").write_text("import numpy, yaml")
    (tmp_path / "own.yaml").write_text("base: vae-digits\nmodel: {encoder: {name: own_nets.nets.Net}}")
    result = run("advae train --config own.yaml --print-config --allow own_nets", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "own_nets.nets.Net" in result.stdout and not (tmp_path / "executed").exists()
    refused = run("advae train --config own.yaml --print-config", tmp_path)
    assert refused.returncode == 2 and "--allow own_nets" in refused.stderr
