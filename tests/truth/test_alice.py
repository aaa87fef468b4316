"""ALICE's cycle term: its closed form on the linear-Gaussian model, whom it trains, and ALI without it."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.methods.ali import ALI, ALICE
from advae.methods.base import Losses
from advae.model import LatentModel
from contract import parts
from truth.linear_gaussian import Exact, Truth, make
from truth.sampling import assert_close, assert_sharp, batch_means, gradient
from truth.test_linear_gaussian import SIZE, ali_residual


def small(likelihood: str) -> tuple[LatentModel, Tensor]:
    model = parts.model(ALI(), likelihood=likelihood)
    assert model is not None
    return model.eval(), parts.observations(model, 6)


def losses(method: ALI, model: LatentModel, x: Tensor, seed: int = 1) -> Losses:
    torch.manual_seed(seed)
    return method.losses(model, x)


@pytest.mark.usefixtures("double")
def test_weight_times_the_closed_form_is_added_to_value_and_gradients() -> None:
    """λ E_q[−log p(x|z)] is added, with its gradients in θ and, through z, in φ."""
    model, data = make()
    truth, weight = Truth(model, data), 0.7
    model.critics = nn.ModuleDict({"critic": Exact(ali_residual(truth.frozen(), False), 4)})
    parameters = [*model.decoder.parameters(), *model.encoder.parameters()]

    seeds = count()

    def sample() -> Tensor:
        x, seed = data.rsample(SIZE), next(seeds)
        with_cycle, plain = (
            losses(ALI(known="none", cycle=w), model, x, seed)["model"] for w in (weight, 0.0)
        )
        term = (with_cycle - plain).mean()
        return torch.cat([term[None], gradient(term, parameters)])

    cycle = -weight * truth.expected_log_p()
    exact = torch.cat([cycle[None], gradient(cycle, parameters)]).detach()
    estimate = batch_means(sample)
    assert_close(estimate, exact, "cycle", rounding=1e-5)
    assert_sharp((estimate[0][1:], estimate[1][1:]), exact[1:], "cycle")


@pytest.mark.parametrize("likelihood", ["normal", "implicit"])
def test_cycle_trains_encoder_and_decoder_only(likelihood: str) -> None:
    model, x = small(likelihood)
    with_cycle, plain = losses(ALI(cycle=0.5), model, x), losses(ALI(), model, x)
    assert torch.equal(with_cycle["critic"], plain["critic"])
    term = (with_cycle["model"] - plain["model"]).sum()
    for network in (model.encoder, model.decoder):
        assert bool(gradient(term, list(network.parameters())).abs().sum() > 1e-2)
    critic = gradient(term, list(model.critics.parameters()))
    assert float(critic.abs().max()) < 1e-4  # the critic's own part is subtracted, to rounding


def test_squared_error_where_the_decoder_has_no_density() -> None:
    """Of one sample of p(x|z); with the density −log p(x|z), which the diagnostic reports."""
    for likelihood in ("normal", "implicit"):
        model, x = small(likelihood)
        with_cycle, plain = losses(ALICE(cycle=2.0), model, x), losses(ALI(), model, x)
        term = 0.5 * (with_cycle["model"] - plain["model"])
        if likelihood == "normal":
            torch.testing.assert_close(term.detach(), plain.diagnostics["reconstruction"])
        else:
            assert bool((term > 0).all()) and bool((term < 10 * x[0].numel()).all())


@pytest.mark.parametrize("generator", ["minimax", "non-saturating"])
def test_weight_zero_is_ali_to_the_bit(generator: str) -> None:
    """Losses, diagnostics, and the state of the random generator afterwards."""
    model, x = small("implicit")
    ali = ALI(generator=generator)  # type: ignore[arg-type]
    plain, state = losses(ali, model, x), torch.get_rng_state()
    zero = losses(ALICE(generator=generator, cycle=0.0), model, x)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    z, z_p = model.encode(x).rsample(), model.prior.rsample(x.shape[:1])
    x_p = model.decode(z_p).rsample()
    assert torch.equal(torch.get_rng_state(), state)
    f_q, f_p = ali.f(model, x, z), ali.f(model, x_p, z_p)
    softplus = nn.functional.softplus
    minimax = -(softplus(-f_q) + softplus(f_p))
    expected = minimax if generator == "minimax" else softplus(f_q) + softplus(-f_p)
    for result in (plain, zero):
        assert torch.equal(result["model"], expected)
        assert torch.equal(result["critic"], -minimax)
    assert ALI().cycle == 0.0


def test_negative_weights_are_an_error() -> None:
    with pytest.raises(ConfigError):
        ALI(cycle=-0.1)
