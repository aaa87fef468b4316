"""``advae infer`` as a user types it: from a file to a run directory, and mistakes answered without a traceback."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from advae.inference import posterior as fitted
from advae.inference.evidence import Annealed

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "eight_schools.py"
TINY = ["--steps", "30", "--fits", "2", "--batch", "16", "--critic-width", "8"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitted, "Annealed", partial(Annealed, 32, 10, 2))
    monkeypatch.setattr("advae.inference.variational_inference.BASELINE_STEPS", 10)


def test_the_example_of_the_docs(advae: Any, tmp_path: Path) -> None:
    answer = advae("infer", str(EXAMPLE), "--out", "run", *TINY)
    assert answer.code == 0, answer.err
    for words in ("eta[7]", "log evidence (ais)", "R-hat between", "run/report.html", "Pareto k-hat"):
        assert words in answer.out
    assert {path.name for path in Path("run").iterdir()} >= {
        "draws.npz",
        "summary.json",
        "report.html",
        "figures",
    }
    assert "HalfCauchy" in Path("run/report.html").read_text()
    again = advae("report", "run")
    assert (again.code, again.out.strip()) == (0, "run/report.html")
    finished = advae("infer", "--resume", "run", "--json")
    assert finished.code == 0, finished.err
    found = json.loads(finished.out)
    assert set(found["parameters"]) >= {"mu", "tau", "eta[0]"} and found["verdict"]
    used = advae("infer", str(EXAMPLE), "--out", "run", *TINY)
    assert used.code == 2 and "not empty" in used.err


FILES = {
    "no_parameters.py": ("def log_joint(a): return -a**2", "does not define parameters"),
    "no_density.py": ("parameters = {'a': ()}", "does not define log_joint"),
    "syntax.py": ("def log_joint(a) return", "SyntaxError"),
    "raises.py": ("x = 1\nraise RuntimeError('no data')", "line 2: RuntimeError: no data"),
    "constant.py": ("parameters = {'a': ()}\ndef log_joint(a): return 0 * a", "is constant"),
    "scalar.py": ("parameters = {'a': ()}\ndef log_joint(a): return -(a**2).sum()", "wrong shape"),
    "nan.py": ("parameters = {'a': ()}\ndef log_joint(a): return (-a**2).log()", "is nan"),
    "constraint.py": (
        "from torch.distributions import constraints\nparameters = {'a': constraints.boolean}\nlog_joint = print",
        "without a bijection",
    ),
    "data.py": ("parameters = {'a': ()}\ndata = [1]\ndef log_joint(a): return -a**2", "tensors by name"),
    "improper.py": ("parameters = {'a': (), 'b': ()}\ndef log_joint(a, b): return -(a - b)**2", "improper"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong(name: str, advae: Any) -> None:
    text, words = FILES[name]
    Path(name).write_text(text)
    answer = advae("infer", name, "--family", "full-rank", "--steps", "20", "--quiet")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("advae: ") and words in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "what is to be inferred?"),
        (["nothing.py"], "no such file"),
        (["x.py", "--resume", "run"], "what is to be inferred?"),
        (["x.py", "--family", "implict"], "did you mean 'implicit'"),
        (["x.py", "--reference", "nuts"], "there is no 'nuts'"),
        (["--resume", "nowhere"], "no such run directory"),
        (["x.py", "--stpes", "3"], "did you mean '--steps'"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(argv: list[str], words: str, advae: Any) -> None:
    answer = advae("infer", *argv)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
