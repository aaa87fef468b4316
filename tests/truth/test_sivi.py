"""The semi-implicit bound against encoders whose density is known by quadrature, and in closed form for K = 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.methods.sivi import SIVI
from advae.model import LatentModel
from evaluation import toy
from evaluation.toy import D, data_of, toy_model
from truth.sampling import SIGMAS, batch_means
from truth.test_certified_elbo import ENCODERS, Encoder, log_density

B = 8


def make(kind: str) -> tuple[LatentModel, Tensor]:
    model = LatentModel(Encoder(kind), toy_model(1.0).decoder, x_shape=(toy.N,), latent_dim=D)
    values = data_of(model).test.values
    assert values is not None
    return model, values[:B].float()


@torch.no_grad()
@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("num_noise", [0, 3, 30])
def test_bound_is_below_the_elbo_by_at_most_the_bound_of_jensen(kind: str, num_noise: int) -> None:
    """0 ≤ E[log q̂_K − log q] ≤ E[log(1 + (q(z|ε_0)/q(z) − 1)/(K + 1))]: the second is an equality for K = 0."""
    torch.manual_seed(0)
    model, x = make(kind)
    method, x = SIVI(num_noise=num_noise), x.repeat(16, 1)
    q = model.encode(x)

    def exact() -> Tensor:
        given = q.given_noise(torch.randn(len(x), q.noise_dim))
        z = given.rsample()
        log_q = log_density(q, z)
        slack = torch.log1p(torch.expm1(given.log_prob(z) - log_q) / (num_noise + 1))
        return torch.stack([(log_q - model.prior.log_prob(z)).mean(), slack.mean()])

    kl = batch_means(lambda: method.losses(model, x).diagnostics["kl"].mean())
    (truth, slack), errors = batch_means(exact)
    tolerance = SIGMAS * float((kl[1].square() + errors.square().sum()).sqrt())
    assert -tolerance < float(kl[0] - truth) < float(slack) + tolerance
    if num_noise == 0:
        assert abs(float(kl[0] - truth - slack)) < tolerance
    assert float(slack) < (0.5 if num_noise == 30 else 3)


def test_further_noise_reaches_every_example_and_the_loss_is_a_bound_on_the_evidence() -> None:
    torch.manual_seed(0)
    model, x = make("noise basis")
    mean, error = batch_means(lambda: SIVI(num_noise=30).losses(model, x.repeat(16, 1))["model"].mean())
    assert float(mean + toy.exact(model, x).mean()) > -SIGMAS * float(error)


def test_posteriors_without_a_density_given_their_noise_are_an_error() -> None:
    for model in (make("curve")[0], toy_model(1.0)):
        with pytest.raises(ConfigError):
            SIVI().check(model)
    SIVI().check(make("noise basis")[0])
