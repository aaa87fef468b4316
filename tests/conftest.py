"""Fixtures and order of all tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# pytest's "importlib" mode adds no folder of tests to the path; helper modules are imported as
# ``truth.linear_gaussian``.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run integration tests last, so that an error in a single function is reported early."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


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
