"""The bound as the method's own critic sees it, for encoders without a density.

It contains the critic's estimate of KL(q(z|x) ‖ p(z)), which errs low when the critic is weak. The figure can
then exceed log p(x): it is not a bound, no model should be chosen by it, and it is never called a likelihood.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.evaluation.estimate import Estimates, from_images
from advae.evaluation.observed import Observed, likelihood, scored_as
from advae.methods import METHODS, Method
from advae.model import LatentModel


def method_of(model: LatentModel) -> Method:
    """The method that trained a model.

    Raises:
        ConfigError: the model does not say.
    """
    spec = model.info.get("method")
    if not spec:
        raise ConfigError("this model does not say which method trained it", remedy="load it from its run")
    method: Method = METHODS.build(spec)
    return method


@torch.no_grad()
def adversarial_elbo(model: LatentModel, observed: Observed) -> Estimates:
    """The critic's estimate of the KL and, where the decoder has a density, of the ELBO, in nats.

    The reconstruction is scored as in every other figure (bin probabilities for 8-bit images), whatever the
    method scored it by in training.
    """
    method, bins = method_of(model), observed.scores_bins(model)
    kls: list[Tensor] = []
    bounds: list[Tensor] = []
    for x, _ in observed.chunks(model.device):
        report = method.losses(model, x).report
        if "kl" not in report:
            continue
        kls.append(report["kl"].cpu())
        p = model.decode(model.encode(x).sample())
        if p.has_log_prob:
            bounds.append(likelihood(p, bins).log_prob(x).cpu() - kls[-1])
    protocol = observed.protocol(
        estimator=f"critic of {method.name}", options=method.spec(), likelihood=scored_as(bins)
    )
    return Estimates(
        from_images(torch.cat(values), f"{name} (critic)", "adversarial estimate", "nats", protocol)
        for name, values in (("kl", kls), ("elbo", bounds))
        if values
    )
