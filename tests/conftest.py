"""What all tests share: one thread, double precision on request, and helper modules that can be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# pytest's "importlib" mode puts no folder of tests on the path; helper modules are imported as
# ``truth.linear_gaussian``.
sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision by default, for what is compared with a closed form."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)
