"""The bound as the method's own critic sees it, for encoders without a density.

It contains the critic's estimate of KL(q(z|x) ‖ p(z)), which errs low when the critic is weak. The figure can
then exceed log p(x): it is not a bound, no model should be chosen by it, and it is never called a likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.evaluation.estimate import Estimates, Section, from_images
from advae.evaluation.eval_data import Observed, Part, likelihood, scored_as
from advae.evaluation.resumable import ALONE, Work
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


def paired(observed: Observed, part: Part) -> Tensor:
    """The part's observations; a single one has another behind it, as methods pair each with its neighbour."""
    if len(part.x) > 1:
        return part.x
    other = getattr(observed.data, observed.split).raw(torch.arange(1)).to(part.x.device)
    return torch.cat([part.x, observed.data.protocol.observe(other)])


def adversarial_elbo(model: LatentModel, observed: Observed, *, work: Work = ALONE) -> Estimates:
    """The critic's estimate of the KL and, where the decoder has a density, of the ELBO, in nats.

    The reconstruction is scored as in every other figure (bin probabilities for 8-bit images), whatever the
    method scored it by in training. A method that reports no KL gives none.
    """
    method, bins = method_of(model), observed.scores_bins(model)
    protocol = observed.protocol(
        estimator=f"critic of {method.name}", options=method.spec(), likelihood=scored_as(bins)
    )

    @torch.no_grad()
    def compute(part: Part) -> Mapping[str, Tensor]:
        report = method.losses(model, paired(observed, part)).report
        if "kl" not in report:
            return {}
        kl = report["kl"][: len(part.x)]
        p = model.decode(model.encode(part.x).sample())
        return {"kl": kl, "elbo": likelihood(p, bins).log_prob(part.x) - kl} if p.has_log_prob else {"kl": kl}

    found = observed.map(model.device, compute, protocol=protocol, label="critic's bound", work=work)
    sections: dict[str, Section] = {"kl": "critics", "elbo": "likelihood"}
    return Estimates(
        from_images(found[name], f"{name} (critic)", "adversarial estimate", "nats", protocol, section)
        for name, section in sections.items()  # parts that were kept come in any order
        if name in found
    )
