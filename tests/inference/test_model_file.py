"""Model files: imports next to them, and the caller's module search path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from advae.errors import ConfigError
from advae.inference.model_file import load_model_file


def test_modules_next_to_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "advae_test_helper.py").write_text("shape = (3,)\n")
    path = tmp_path / "model.py"
    path.write_text(
        "import torch\nfrom advae_test_helper import shape\nparameters = {'a': shape}\n"
        "data = {'x': torch.ones(2)}\ndef log_joint(a, x, scale): return -(a**2).sum(-1)\n"
    )
    before = list(sys.path)
    model = load_model_file(path)
    assert sys.path == before
    assert model.parameters == {"a": (3,)} and model.data is not None and model.log_likelihood is None
    assert model.source()["name"] == "model" and len(model.source()["sha256"]) == 64


def test_an_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("x = 1\nraise RuntimeError('no data')\n")
    before = list(sys.path)
    with pytest.raises(ConfigError, match="line 2: RuntimeError: no data"):
        load_model_file(path)
    assert sys.path == before
