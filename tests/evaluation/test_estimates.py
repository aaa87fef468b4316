"""The evaluation against closed forms: a linear-Gaussian model whose evidence is known, a constant decoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from advae.data import DataOptions, load_data
from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_data import Observed
from advae.evaluation.evaluate import as_trained, evaluate
from advae.evaluation.likelihood.ais import Annealing
from advae.evaluation.likelihood.bounds import elbo
from advae.evaluation.reconstruction import rmse
from advae.model import LatentModel, build_model
from evaluation.toy import N, data_of, toy_model


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


class Constant(nn.Module):
    """A decoder that always says the same grey."""

    def __init__(self, shape: tuple[int, ...], grey: float) -> None:
        super().__init__()
        self.shape, self.grey, self.weight = shape, grey, nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Distribution:
        mean = torch.full((len(z), *self.shape), (self.grey + 0.5) / 256)
        return Normal(mean, torch.tensor(math.log(0.1)))


def test_rmse_of_a_constant_is_computed_by_hand() -> None:
    data = load_data(DataOptions(source="digits", protocol="dequantise"))
    head = build_model(SMALL, data.x_shape).encoder
    model = LatentModel(head, Constant(data.x_shape, 100.0), x_shape=data.x_shape, latent=2)
    assert data.test.values is not None
    by_hand = (data.test.values.double() - 100).square().mean().sqrt().item()
    assert rmse(model, Observed(data)).value == pytest.approx(by_hand, rel=1e-4)  # float32 sums


SMALL = {
    "latent": 2,
    "encoder": {"name": "mlp", "hidden": [8]},
    "posterior": {"name": "normal"},
    "decoder": {"name": "mlp", "hidden": [8]},
    "likelihood": {"name": "normal", "variance": "shared"},
    "critic": {"name": "concat", "hidden": [8]},
}


def test_eight_bit_images_are_scored_by_probabilities_of_values() -> None:
    """A normal over 8-bit images gives the same figure as the discretised one, never its density."""
    data = load_data(DataOptions(source="digits", protocol="dequantise"))
    torch.manual_seed(0)
    plain = build_model(SMALL, data.x_shape)
    binned = build_model(
        SMALL | {"likelihood": {"name": "discretised-normal", "variance": "shared"}}, data.x_shape
    )
    binned.load_state_dict(plain.state_dict())
    a, b = (evaluate(m, data, importance=0) for m in (plain, binned))
    assert a.named("elbo").value == b.named("elbo").value
    bits, nats = a.named("elbo (bits/dim)"), a.named("elbo")
    assert float(bits.each["value"].double().mean()) == pytest.approx(bits.value, rel=1e-6)
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)))
    assert bits.kind == "upper bound"
    assert nats.value < 0  # a log probability of values; the density of these images can be positive


def test_the_same_seed_gives_the_same_figures_and_they_say_their_protocol() -> None:
    data = load_data(DataOptions(source="digits", protocol="binarise-dynamic"))
    torch.manual_seed(0)
    model = build_model(SMALL | {"likelihood": {"name": "bernoulli"}}, data.x_shape)
    first, again, other = (evaluate(model, data, importance=5, seed=s) for s in (0, 0, 1))
    assert [e.value for e in first] == [e.value for e in again] != [e.value for e in other]
    for estimate in first:
        assert {"split", "observation", "seed", "checksum"} <= set(estimate.protocol)
        assert estimate.protocol["observation"] == "binarise-dynamic"
        assert estimate.stderr > 0 or estimate.kind in ("diagnostic", "yardstick")


def test_an_implicit_encoder_has_a_bound_by_a_fitted_proposal_only() -> None:
    """What its critic says of the ELBO is called an adversarial estimate; a bound names the normal it was made with."""
    data = load_data(DataOptions(source="digits", protocol="grey"))
    spec = SMALL | {"posterior": {"name": "implicit", "noise": 4}, "likelihood": {"name": "bernoulli"}}
    model = build_model(spec, data.x_shape, ["critic"], {"method": {"name": "avb"}})
    found = evaluate(model, data)
    assert found.named("elbo (critic)").kind == "adversarial estimate"
    bounds = [e.name for e in found if e.section == "likelihood" and "bound" in e.kind]
    assert bounds == ["elbo[full-normal]", "iwae-64[full-normal]"]
    with pytest.raises(NoDensityError):
        elbo(model, Observed(data), proposal="encoder")


def test_a_density_of_grey_levels_is_no_likelihood() -> None:
    """A normal over v/255, or over standardised images, would be scored by its density: no figure, and a warning."""
    for protocol in ("grey", "standardise"):
        data = load_data(DataOptions(source="digits", protocol=protocol))
        found = evaluate(build_model(SMALL, data.x_shape), data, checks=())
        assert not any(e.section == "likelihood" for e in found)
        assert any(r.warning and "dequantise" in r.text for r in found.remarks)


def test_the_battery_gives_what_is_asked_for() -> None:
    """Names are checked before any work, and the sharpest figure of log p(x) goes into the inference gap."""
    model = toy_model(1.5)
    data = data_of(model)
    options = Annealing(chains=4, temperatures=5)
    found = evaluate(model, data, likelihood=("elbo", "ais"), annealing=options, limit=40)
    likelihood = [e.name for e in found if e.section == "likelihood"]
    assert likelihood == ["elbo", "ais"]
    assert {"value", "ess", "acceptance"} == set(found.named("ais").each)
    gap = found.named("inference gap")
    assert gap.value == pytest.approx(found.named("ais").value - found.named("elbo").value)
    assert not any(e.section == "posterior" for e in evaluate(model, data, checks=(), limit=40))
    for wrong in (
        {"improtance": 5},
        {"likelihood": "iwea"},
        {"samples": ("fdi",)},
        {"checks": ["posteriors"]},
    ):
        with pytest.raises(ConfigError, match="did you mean"):
            evaluate(model, data, **wrong)  # type: ignore[arg-type]


def test_a_wrong_split_is_said() -> None:
    data = load_data(DataOptions(source="digits"))
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        Observed(data, "tset")


def test_the_adversarial_estimate_is_scored_like_every_other_figure() -> None:
    """With a critic of zero it is minus the reconstruction, in probabilities of 8-bit values, minus the rest."""
    data = load_data(DataOptions(source="digits", protocol="dequantise"))
    torch.manual_seed(0)
    spec = SMALL | {"posterior": {"name": "implicit", "noise": 4}}
    method = {"name": "avb", "contrast": "prior", "known": "none"}
    model = build_model(spec, data.x_shape, ["critic"], {"method": method})
    for weight in model.critics.parameters():
        torch.nn.init.zeros_(weight)
    found = evaluate(model, data)
    assert found.named("claimed KL to the prior[critic]").value == 0
    both = found.named("elbo (critic)"), found.named("reconstruction")
    # The two draw codes of their own; an untrained decoder hardly depends on them.
    assert both[0].value == pytest.approx(-both[1].value, rel=0.01)
    assert both[0].protocol["likelihood"] == both[1].protocol["likelihood"] == "bin probabilities"


def test_other_data_are_standardised_as_the_training_data_were(model: LatentModel) -> None:
    mine, other = data_of(model), data_of(model)
    model.info["data"] = mine.describe()
    other.protocol.mean = torch.full((N,), 5.0)  # type: ignore[attr-defined]
    seen = as_trained(model, other).protocol
    raw = other.test.raw(range(3))
    torch.testing.assert_close(seen.observe(raw), mine.protocol.observe(raw))
    assert not torch.allclose(other.protocol.observe(raw), mine.protocol.observe(raw))


def test_images_that_were_drawn_otherwise_are_others() -> None:
    """The stored images and their checksum are the same; what is judged is not."""
    said = [
        Observed(load_data(DataOptions(protocol="binarise-static", binarise_seed=seed))).protocol()
        for seed in (0, 1, 1)
    ]
    assert said[0] != said[1] == said[2]
    assert said[0]["checksum"] == said[1]["checksum"]
