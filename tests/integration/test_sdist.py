"""The source distribution has what is needed to test it and to read about it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("src", "tests", "docs", "benchmarks", "experiments")
FILES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
)


def test_sdist_has_tests_and_docs(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, source)
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=source, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {
        str(path.relative_to(source))
        for part in PARTS
        for path in (source / part).rglob("*")
        if path.is_file()
    }
    assert {name for name in files if ".egg-info" not in name} | set(FILES) <= names
