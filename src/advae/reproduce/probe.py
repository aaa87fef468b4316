"""How long a row will take, from a few of its steps: an estimate, for this machine as busy as it is now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.config import Config
from advae.data import Dataset
from advae.evaluation.evaluate import Asked
from advae.evaluation.likelihood.ais import Annealing
from advae.evaluation.likelihood.annealing import PILOT_CHAINS, PILOT_TEMPERATURES
from advae.evaluation.samples.sample_metrics import JUDGED
from advae.model import LatentModel, seeded
from advae.training.benchmark import of_setup
from advae.training.setup import Setup
from advae.training.train_options import TrainOptions
from advae.training.validation import Validation

SECONDS = 1.0  # of steps, or as many steps:
STEPS = 50
LONG = 10.0
VALIDATED = 128  # examples on a CPU, where a whole validation takes minutes for the largest networks
CODES = 512  # decoded at a time: enough that the calls themselves cost little


@dataclass(frozen=True)
class Speed:
    """Seconds that things take.

    Attributes:
        step: one step of training.
        validation: one validation.
        decode: ``log p(x|z)`` of one code; 0 for a model without codes.
        gradient: the same with its gradient.
    """

    step: float
    validation: float
    decode: float
    gradient: float

    def training(self, options: TrainOptions, done: int = 0) -> float:
        """Seconds from step ``done`` to the last."""
        steps = max(0, options.steps - done)
        return steps * self.step + (1 + steps / options.validate_every) * self.validation

    def judging(self, parts: Iterable[Mapping[str, Any]], images: int) -> float:
        """Seconds of an evaluation's bounds, annealing and samples; checks and feature networks are not in it."""
        return sum(self._part(part, min(images, part.get("limit") or images)) for part in parts)

    def _part(self, part: Mapping[str, Any], images: int) -> float:
        asked, names = Asked, part.get("likelihood", Asked.likelihood)
        chains, temperatures, leapfrogs = (
            part.get(name, getattr(Annealing, name)) for name in ("chains", "temperatures", "leapfrogs")
        )
        codes = images * part.get("draws", asked.draws) if "elbo" in names else 0
        codes += images * part.get("importance", asked.importance) if "iwae" in names else 0
        codes += (part.get("generated") or min(images, JUDGED)) if part.get("samples") else 0
        annealed = images if "ais" in names else 0
        annealed += 2 * min(images, part.get("simulated", asked.simulated)) if "bdmc" in names else 0
        moves = chains * temperatures + PILOT_CHAINS * PILOT_TEMPERATURES  # of an image
        return codes * self.decode + annealed * moves * leapfrogs * self.gradient


def measured(config: Config, data: Dataset) -> Speed:
    """Set a row up, time a few steps and the work of its evaluation, and forget all of it."""
    setup = Setup(config, data)
    device = setup.fabric.device
    with seeded(config.seed, device):
        trial = of_setup(setup)
        if device.type == "cuda":
            trial.settle()  # on a CPU the first step may take a minute, and be all that is timed
        a_step = timed(lambda: trial.run(1), device, STEPS)
        validation, model = Validation(data, config.seed, device), trial.step.average.model
        some = VALIDATED if device.type == "cpu" else len(validation.x)
        share = min(1.0, some / len(validation.x))
        validation.x = validation.x[:some]
        a_validation = timed(lambda: validation(model, setup.method), device, 1) / share
        decode, gradient = scoring(model.eval(), validation.x, device)
    return Speed(a_step, a_validation, decode, gradient)


def timed(work: Callable[[], object], device: torch.device, most: int) -> float:
    """Seconds that ``work`` takes, on average over SECONDS or at most so many times.

    The first time, when things are set up, is left out, unless it takes so long that it says enough.
    """
    took = [_seconds(work, device)]
    while took[0] < LONG and len(took) <= most and (len(took) == 1 or sum(took[1:]) < SECONDS):
        took.append(_seconds(work, device))
    return sum(took[1:]) / len(took[1:]) if took[1:] else took[0]


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def scoring(model: LatentModel, x: Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds for ``log p(x|z)`` of one code, and for its gradient as well."""
    if model.latent == 0:
        return 0.0, 0.0
    x = x[torch.arange(CODES, device=x.device) % len(x)]
    z = model.prior.rsample((CODES,)).requires_grad_()

    def score() -> Tensor:
        p = model.decode(z)
        return p.log_prob(x) if p.has_log_prob else p.rsample()

    with torch.no_grad():
        decode = timed(score, device, 5)
    gradient = timed(lambda: torch.autograd.grad(score().sum(), z), device, 5)
    return decode / CODES, gradient / CODES
