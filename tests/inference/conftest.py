"""What tests of inference share."""

from __future__ import annotations

from functools import partial

import pytest

from advae.inference import posterior as fitted
from advae.inference.evidence import Annealed


@pytest.fixture
def quick_annealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs of annealing unless others are asked for: where the subject is not their precision."""
    monkeypatch.setattr(fitted, "Annealed", partial(Annealed, 64, 30, 3))
