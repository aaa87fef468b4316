"""CUDA graph steps: inputs of a replay on any machine, replays themselves on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from advae.data import BatchLoader
from advae.data.dataset import Split
from advae.data.preprocessing import make_preprocessing
from advae.methods import METHODS
from advae.model import build_model
from advae.random import mix_seeds, reseed
from advae.training.backends.cuda_graph import CUDAGraphStep
from advae.training.distributed import make_fabric
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from training import tiny

CASES: dict[str, dict[str, Any]] = {
    "vae": {"name": "vae", "kl_warmup": 6},
    "avb": {
        "name": "avb",
        "contrast": "full",
        "update_order": "alternating",
        "critic_steps": 2,
        "kl_warmup": 6,
    },
    "asvae": {"name": "asvae"},
    "gradient penalty": {"name": "wgan-gp", "critic_steps": 2},
}
STEPS = 8
SMALL = {"name": "mlp", "hidden": [5]}
COMPONENTS: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": SMALL,
    "posterior": {"name": "normal"},
    "decoder": SMALL,
    "likelihood": {"name": "bernoulli"},
    "critic": {"name": "concat", "hidden": [5]},
}


def run_steps(case: str, device: torch.device, use_graph: bool) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and weights after some steps, from the same start with the same seeds and batches."""
    method = METHODS.build(CASES[case])
    torch.manual_seed(1)
    more = {"encoder": {"name": "none"}} if case == "gradient penalty" else {}
    model = build_model(COMPONENTS | more, (1, 4, 5), method.critics).to(device).train()
    options = TrainOptions(steps=STEPS, lr_warmup=3, lr_schedule="cosine", grad_clip=5.0)
    step = TrainStep(make_fabric(device, "fp32"), model, method, options)
    raw = torch.randint(0, 256, (40, 1, 4, 5), dtype=torch.uint8)
    batches = BatchLoader(Split("train", raw), 8, seed=0, device=device)
    preprocessing, stream = make_preprocessing("binarize-dynamic", batches.split), batches.stream(0)
    graph_step = CUDAGraphStep(step, batches, preprocessing.apply, print) if use_graph else None
    for number in range(STEPS):
        reseed(mix_seeds(0, number, 0), device)
        if graph_step is not None:
            graph_step(number, stream)
        else:
            step(number, lambda i: preprocessing.apply(next(stream)))
    assert graph_step is None or graph_step.graph is not None
    step.raise_if_not_finite()
    return step.metrics.pop_means(), {k: v.cpu() for k, v in tiny.weights(step.ema.model).items()}


@pytest.mark.parametrize("case", CASES)
def test_captured_part_trains_as_the_eager_step(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: a "replay" runs the captured part, which must read everything that differs between steps."""

    class FakeGraph:
        def __init__(self, run: Any) -> None:
            self.replay = run

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(CUDAGraphStep, "_run_on_side_stream", CUDAGraphStep._run)
    monkeypatch.setattr(CUDAGraphStep, "_capture", lambda self: setattr(self, "graph", FakeGraph(self._run)))
    device = torch.device("cpu")
    (metrics, weights), (graph_metrics, graph_weights) = (
        run_steps(case, device, use_graph) for use_graph in (False, True)
    )
    assert tiny.differing(weights, graph_weights) == []
    assert graph_metrics == metrics


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_replays_train_as_the_eager_step(case: str) -> None:
    """On a GPU, where sums may be taken in another order."""
    device = torch.device("cuda", 0)
    (metrics, weights), (graph_metrics, graph_weights) = (
        run_steps(case, device, use_graph) for use_graph in (False, True)
    )
    assert graph_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(graph_weights, weights, rtol=1e-3, atol=1e-4)
