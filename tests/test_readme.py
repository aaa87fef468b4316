"""The Python code of the README runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.integration
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert tuple(names["images"].shape) == (64, 1, 8, 8)  # type: ignore[attr-defined]
    assert (tmp_path / "first-model" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "first" / "metrics.csv").is_file()


def test_every_verb_in_the_readme_exists() -> None:
    from advae.cli import VERBS

    named = set(re.findall(r"^advae (\w+)", README.read_text(), re.MULTILINE))
    assert named and named <= set(VERBS)
