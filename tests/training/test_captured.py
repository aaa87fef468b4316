"""Captured steps: on any machine what they put in place before a replay; on a GPU the replays themselves."""

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
from training.test_compiled import PARTS

CASES: dict[str, dict[str, Any]] = {
    "vae": {"name": "vae", "kl_warmup": 6},
    "avb": {"name": "avb", "contrast": "full", "update_order": "alternating", "critic_steps": 2, "kl_warmup": 6},
    "asvae": {"name": "asvae"},
    "gradient penalty": {"name": "wgan-gp", "critic_steps": 2},
}
STEPS = 8


def trained(case: str, device: torch.device, captured: bool) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and weights after some steps, from the same start with the same seeds and batches."""
    method = METHODS.build(CASES[case])
    torch.manual_seed(1)
    more = {"encoder": {"name": "none"}} if case == "gradient penalty" else {}
    model = build_model(PARTS | more, (1, 4, 5), method.critics).to(device).train()
    options = TrainOptions(steps=STEPS, lr_warmup=3, lr_schedule="cosine", grad_clip=5.0)
    step = TrainStep(make_fabric(device, "fp32"), model, method, options)
    raw = torch.randint(0, 256, (40, 1, 4, 5), dtype=torch.uint8)
    batches = BatchLoader(Split("train", raw), 8, seed=0, device=device)
    preprocessing, stream = make_preprocessing("binarize-dynamic", batches.split), batches.stream(0)
    whole = CUDAGraphStep(step, batches, preprocessing.apply, print) if captured else None
    for number in range(STEPS):
        reseed(mix_seeds(0, number, 0), device)
        if whole is not None:
            whole(number, stream)
        else:
            step(number, lambda i: preprocessing.apply(next(stream)))
    assert whole is None or whole.graph is not None
    step.raise_if_not_finite()
    return step.read_metrics(), {k: v.detach().cpu() for k, v in step.average.model.state_dict().items()}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_between_steps_is_put_where_a_graph_reads_it(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: the part that is to be captured, run in place of its replay, trains as the eager step does."""

    class Again:
        def __init__(self, run: Any) -> None:
            self.replay = run

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(CUDAGraphStep, "_run_aside", CUDAGraphStep._run)
    monkeypatch.setattr(CUDAGraphStep, "_capture", lambda self: setattr(self, "graph", Again(self._run)))
    device = torch.device("cpu")
    (metrics, weights), (again, same) = (trained(case, device, captured) for captured in (False, True))
    assert tiny.differing(weights, same) == []
    assert again == metrics


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_replays_train_as_the_eager_step_does(case: str) -> None:
    """On a GPU, where sums may be taken in another order."""
    device = torch.device("cuda", 0)
    (metrics, weights), (again, same) = (trained(case, device, captured) for captured in (False, True))
    assert again == pytest.approx(metrics, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(same, weights, rtol=1e-3, atol=1e-4)
