"""The four-point experiment runs from training to figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from four_points import grid, run


@pytest.mark.integration
def test_trains_measures_and_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SQUARE_BINS": 64, "NUM_SAMPLES": 2**16, "NUM_DECODED": 2**14, "SAMPLES_PER_BLOCK": 2**14}
    for name, value in sizes.items():
        monkeypatch.setattr(grid, name, value)
    arguments = [
        "--steps",
        "3",
        "--seeds",
        "2",
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    run.main(arguments)
    results = json.loads((tmp_path / "out" / "toy.json").read_text())["results"]
    assert set(results) == {"VAE", "AVB"}
    for (values,) in results.values():
        assert values["seed"] == 2 and values["elbo"] <= values["evidence"] + 0.01
    assert "Seed 2." in (tmp_path / "out" / "toy.md").read_text()
    assert (tmp_path / "out" / "toy.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(run, "measure", lambda model: pytest.fail("measured again"))
    run.main(arguments)
