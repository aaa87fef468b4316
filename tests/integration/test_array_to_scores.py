"""From an array to scores, as in a notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import advae

pytestmark = pytest.mark.integration


def test_ten_lines_from_an_array_to_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 2)) @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((200, 5))
    options = {"train.steps": 60, "model.encoder.hidden": [16], "model.decoder.hidden": [16]}
    run = advae.train("vae-table", options=options, data=x, out=tmp_path / "run", report=False)
    model = advae.load(run.path)
    new = np.concatenate([x[:20], 3 * rng.standard_normal((5, 5))])  # rows off the plane
    scores = model.score(new)
    z = model.encode(new).mean
    back = model.to_data_units(model.reconstruct(new))
    assert scores.log_prob is not None and (scores.log_prob[20:].max() < scores.log_prob[:20].median())
    assert z.shape == (25, model.latent_dim) and np.abs(back[:20].numpy() - x[:20]).mean() < np.abs(x).mean()
