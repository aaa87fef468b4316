"""Adversarial estimate of the ELBO, for encoders without a density.

It contains the critic's estimate of KL(q(z|x) ‖ p(z)), which a weak critic underestimates. The value can then exceed
log p(x): it is not a bound, and models must not be selected by it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from advae.evaluation.estimate import EvaluationResult, Kind, Section, from_per_example
from advae.evaluation.eval_data import Batch, EvalData, likelihood_description, scoring_distribution
from advae.evaluation.resumable import LOCAL, Runner
from advae.methods import method_from_model
from advae.model import LatentModel

KIND: Kind = "adversarial estimate"
SECTIONS: dict[str, Section] = {"kl": "critics", "elbo": "likelihood"}


def adversarial_elbo(model: LatentModel, data: EvalData, *, runner: Runner = LOCAL) -> EvaluationResult:
    """Compute the critic's estimate of the KL and, where the decoder has a density, of the ELBO, in nats.

    The reconstruction is scored as in all other estimates (bin probabilities for 8-bit images), independent of how
    the method scored it in training. The result is empty for methods that do not report a KL.
    """
    method, discretize = method_from_model(model), data.uses_discretized_likelihood(model)
    about = {"estimator": f"critic of {method.name}", "options": method.spec()}
    protocol = data.protocol(**about, likelihood=likelihood_description(discretize))

    @torch.no_grad()
    def compute(batch: Batch) -> Mapping[str, Tensor]:
        diagnostics = method.losses(model, data.with_neighbor(batch)).diagnostics
        if "kl" not in diagnostics:
            return {}
        kl = diagnostics["kl"][: len(batch.x)]
        p = model.decode(model.encode(batch.x).sample())
        if not p.has_log_prob:
            return {"kl": kl}
        return {"kl": kl, "elbo": scoring_distribution(p, discretize).log_prob(batch.x) - kl}

    values = data.map(model.device, compute, protocol=protocol, label="critic's bound", runner=runner)
    result = EvaluationResult()
    for metric, section in SECTIONS.items():
        if metric in values:
            name = f"{metric} (critic)"
            estimate = from_per_example(values[metric], name, KIND, "nats", protocol, section)
            result.append(replace(estimate, metric=metric, variant="critic"))
    return result
