"""``advae infer``: from a model file to a run directory, and errors without a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advae.evaluation.eval_config import AISConfig
from advae.inference import fit, posterior, variational_inference

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "eight_schools.py"
TINY = ["--steps", "20", "--fits", "2", "--samples-per-step", "16", "--critic-width", "8"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(posterior, "DEFAULT_AIS", AISConfig(chains=32, temperatures=10, leapfrog_steps=2))
    monkeypatch.setattr(variational_inference, "NUM_BASELINE_STEPS", 10)


def test_the_example_of_the_docs(
    advae: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(fit, "LOCATE_STEPS", 50)
    result = advae("infer", str(EXAMPLE), "--out", "run", *TINY)
    assert result.code == 0, result.err
    for words in ("eta[7]", "log evidence (ais)", "R-hat between", "run/report.html", "Pareto k-hat"):
        assert words in result.out
    files = {path.name for path in Path("run").iterdir()}
    assert files >= {"draws.npz", "summary.json", "report.html", "figures"}
    assert "HalfCauchy" in Path("run/report.html").read_text()
    request.getfixturevalue("without_figures")
    report = advae("report", "run")
    assert (report.code, report.out.strip()) == (0, "run/report.html")
    finished = advae("infer", str(EXAMPLE), "--resume", "run", "--json")
    assert finished.code == 0, finished.err
    summary = json.loads(finished.out)
    assert set(summary["parameters"]) >= {"mu", "tau", "eta[0]"} and summary["verdict"]
    used = advae("infer", str(EXAMPLE), "--out", "run", *TINY)
    assert used.code == 2 and "not empty" in used.err
    changed = advae("infer", str(EXAMPLE), "--resume", "run", "--steps", "9")
    assert changed.code == 2 and "--steps" in changed.err


FILES = {
    "no_parameters.py": ("def log_joint(a): return -a**2", "parameters"),
    "no_density.py": ("parameters = {'a': ()}", "log_joint"),
    "syntax.py": ("def log_joint(a) return", "SyntaxError"),
    "raises.py": ("x = 1\nraise RuntimeError('no data')", "line 2: RuntimeError: no data"),
    "constant.py": ("parameters = {'a': ()}\ndef log_joint(a): return 0 * a", "constant"),
    "scalar.py": ("parameters = {'a': ()}\ndef log_joint(a): return -(a**2).sum()", "shape"),
    "nan.py": ("parameters = {'a': ()}\ndef log_joint(a): return (-a**2).log()", "nan"),
    "constraint.py": (
        "from torch.distributions import constraints\nparameters = {'a': constraints.boolean}\nlog_joint = print",
        "bijection",
    ),
    "data.py": ("parameters = {'a': ()}\ndata = [1]\ndef log_joint(a): return -a**2", "tensors"),
    "improper.py": ("parameters = {'a': (), 'b': ()}\ndef log_joint(a, b): return -(a - b)**2", "improper"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_invalid_model_file(name: str, advae: Any) -> None:
    text, key_word = FILES[name]
    Path(name).write_text(text)
    result = advae("infer", name, "--family", "full-rank", "--steps", "20", "--quiet")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("advae: ") and key_word in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("argv", "key_word"),
    [
        ([], "advae infer FILE"),
        (["nothing.py"], "nothing.py"),
        (["x.py", "--resume", "run"], "run"),
        (["x.py", "--family", "implict"], "implicit"),
        (["x.py", "--reference", "nuts"], "nuts"),
        (["--resume", "nowhere"], "nowhere"),
        (["x.py", "--stpes", "3"], "--steps"),
    ],
    ids=" ".join,
)
def test_invalid_arguments(argv: list[str], key_word: str, advae: Any) -> None:
    result = advae("infer", *argv)
    assert (result.code, result.out) == (2, "")
    assert key_word in result.err
