"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from advae.training.ema import EMA
from training import tiny


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_recursion_and_copied_buffers(decay: float) -> None:
    """a ← d a + (1 − d) w with d = min(decay, (1 + t)/(10 + t)); buffers are copied."""
    encoder = {"name": "conv", "channels": [2], "hidden": [5], "norm": "batch"}
    model = tiny.train_step({"name": "vae"}, encoder=encoder).model
    ema = EMA(model, decay)
    expected = tiny.weights(ema.model)
    for t in range(5):
        for value in model.state_dict().values():
            value += torch.randn(value.shape).sign().to(value.dtype)
        ema.set_step(t)
        ema.update()
        d = min(decay, (1 + t) / (10 + t))
        buffers, state = dict(model.named_buffers()), model.state_dict()
        assert buffers
        expected = {k: v.clone() if k in buffers else d * expected[k] + (1 - d) * v for k, v in state.items()}
    for key, value in ema.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)
    if decay == 0:
        assert tiny.differing(ema.model.state_dict(), model.state_dict()) == []
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
