"""Runs on data that are passed from Python: they are recorded, resumed with the same data, and evaluated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from advae.data import as_observations, from_arrays
from advae.errors import CheckpointError, ConfigError, DataError
from advae.evaluation.evaluate import evaluate
from advae.run import Run
from advae.training.train import resume, train

RECIPE: dict[str, Any] = {
    "data": {"preprocessing": "auto"},
    "model": {
        "latent_dim": 2,
        "encoder": {"name": "mlp", "hidden": [8]},
        "decoder": {"name": "mlp", "hidden": [8]},
        "likelihood": {"name": "normal", "squash": "none"},
    },
    "train": {"steps": 4, "batch_size": 8, "samples_every": 0},
}
FRAME = pd.DataFrame(
    np.random.default_rng(0).normal((1, 50, 2000), (1, 5, 300), (60, 3)), columns=["a", "b", "c"]
)
TABLE = FRAME.assign(species=["u", "v", "w"] * 20)
QUICK: dict[str, Any] = {"likelihood": ("elbo",), "elbo_samples": 2, "diagnostics": ()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(RECIPE, data=TABLE, out=tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_data_are_recorded(run: Run) -> None:
    assert run.env["data"]["columns"] == ["a", "b", "c"] and run.env["data"]["classes"] == 3
    assert run.config["data"]["preprocessing"] == "standardize"  # what "auto" was
    assert run.model().info["data"]["checksum"] == from_arrays(TABLE).checksum


def test_resuming_needs_the_same_data(run: Run) -> None:
    more: dict[str, Any] = {"options": {"train.steps": 6}, "quiet": True}
    with pytest.raises(DataError, match="data="):
        resume(run.path, **more)
    with pytest.raises(CheckpointError, match="differ"):
        resume(run.path, data=TABLE[::-1], **more)
    assert resume(run.path, data=TABLE, **more).model().info["step"] == 6


def test_data_of_every_kind_are_evaluated(run: Run) -> None:
    model = run.model()
    shuffled = TABLE[["species", "c", "a", "b"]]
    results = [
        evaluate(m, data, **QUICK)
        for m, data in ((run, shuffled), (run.path, FRAME), (model, FRAME.to_numpy()))
    ]
    values = [[(e.name, e.value) for e in result] for result in results]
    assert values[0] == values[1] == values[2] and results[0][0].n == 60
    split = evaluate(model, {"train": FRAME, "test": FRAME[:20]}, **QUICK)
    assert split[0].n == 20
    x = as_observations(shuffled, model)
    raw = torch.tensor(FRAME.to_numpy(), dtype=torch.float32)
    assert torch.allclose(x, from_arrays(TABLE).preprocessing.apply(raw), atol=1e-5)


def test_data_that_do_not_fit_are_refused_before_any_work(run: Run) -> None:
    with pytest.raises(DataError, match="all columns"):
        evaluate(run, FRAME.drop(columns="b"))
    with pytest.raises(DataError, match="shape"):
        evaluate(run, FRAME.to_numpy()[:, :2])
    with pytest.raises(ConfigError, match="no data"):
        evaluate(run.model())
    with pytest.raises(DataError, match="passed from Python"):
        evaluate(run)
