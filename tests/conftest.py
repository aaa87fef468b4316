"""Fixtures and order of all tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

# pytest's "importlib" mode adds no folder of tests to the path; helper modules are imported as
# ``truth.linear_gaussian``.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run integration tests last, so that an error in a single function is reported early."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


SharedFolder = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedFolder:
    """Return a function ``(name, fill) -> folder``: ``fill(folder)`` is called once for all test processes.

    The folder exists and is empty before. Tests that change its content use a copy.
    """
    root = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a process of pytest-xdist: next to its own folder
        root = root.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, finished = root / "shared" / name, root / "shared" / f"{name}.finished"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return make


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures of pages out, for tests of other parts: they take most of a page's time."""
    from advae.report.html import HtmlFigure, HtmlFigures

    def add_nothing(
        figures: HtmlFigures, name: str, title: str, caption: str, *plot: object, **options: object
    ) -> None:
        figures[name] = HtmlFigure("data:,", "data:,", 1, title, caption)

    monkeypatch.setattr(HtmlFigures, "add", add_nothing)


@pytest.fixture
def double() -> Iterator[None]:
    """Set float64 as the default dtype, for comparison with closed forms."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed every test, whatever ran before it."""
    torch.manual_seed(0)
