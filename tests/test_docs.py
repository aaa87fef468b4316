"""Documentation: links resolve, Python runs, and commands exist."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from advae.cli import VERBS
from advae.evaluation.eval_config import AISConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md")])
EXECUTED = [ROOT / "README.md", *sorted(ROOT.glob("docs/tutorials/*.md"))]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    local = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in local if t and not (page.parent / t).exists()] == []


@pytest.mark.integration
@pytest.mark.parametrize("page", EXECUTED, ids=page_id)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are executed in order, in one namespace, as a reader pastes them."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    brief = AISConfig(chains=16, temperatures=10, leapfrog_steps=2)
    monkeypatch.setattr("advae.inference.posterior.DEFAULT_AIS", brief)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_exist(page: Path) -> None:
    """Every command line begins with a verb."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line
        for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if re.match(r"advae \w", line)
    ]
    unknown = [line for line in lines if shlex.split(line, comments=True)[1] not in {*VERBS, "VERB"}]
    assert unknown == []


def test_repository_paths_exist() -> None:
    """Paths of this repository in the source code and in tests are those of files."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.yaml"), *ROOT.glob("benchmarks/*.py")]
    missing = {
        f"{os.path.relpath(source, ROOT)}: {name}"
        for source in sources
        for name in re.findall(r"\b(docs/[\w/-]+\.md)\b", source.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == set()
