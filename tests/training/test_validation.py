"""Validation errors and the early stopping criterion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advae.data import DataOptions, load_data
from advae.methods import METHODS
from advae.training.validation import Validation, early_stopping_loss
from training import tiny


@pytest.mark.parametrize(
    ("method", "metrics", "loss"),
    [
        ("vae", {"reconstruction": 70.0, "kl": 20.0, "error": 0.3}, 90.0),
        ("asvae", {"reconstruction": 70.0, "kl": 20.0, "error": 0.3}, 0.3),
        ("mle", {"reconstruction": 70.0, "error": 70.0}, 70.0),
        ("gan", {"critic/accuracy": 0.5}, None),
    ],
)
def test_early_stopping_minimizes_the_negative_elbo_if_known(
    method: str, metrics: dict[str, float], loss: float | None
) -> None:
    assert early_stopping_loss(metrics, METHODS.build({"name": method})) == loss


def test_errors_are_fractions_of_variance(tmp_path: Path) -> None:
    """A decoder that always returns the mean has error 1 in x."""
    data = load_data(DataOptions(source=tiny.data(tmp_path), preprocessing="gray"))
    validation = Validation(data, 0, torch.device("cpu"))
    step = tiny.train_step({"name": "vae"})
    model = step.model.eval()
    output = model.decoder.network.body[-1]
    output.weight.data.zero_()
    output.bias.data = torch.logit(validation.x.mean(0).clamp(1e-4, 1 - 1e-4)).flatten()
    metrics = validation(model, step.method)
    assert metrics["error/x"] == pytest.approx(1, abs=1e-3)
    assert metrics["error"] == pytest.approx(0.5 * (metrics["error/x"] + metrics["error/z"]))
    state = torch.get_rng_state()
    assert validation(model, step.method) == metrics, "the noise is the same every time"
    assert torch.equal(torch.get_rng_state(), state), "the random state is preserved"
