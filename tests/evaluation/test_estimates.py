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
from advae.evaluation import elbo, evaluate, iwae, rmse
from advae.evaluation.battery import as_trained
from advae.evaluation.observed import CHUNK, Observed
from advae.model import LatentModel, build_model
from evaluation.toy import IMAGES, N, data_of, exact, toy_model


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


def test_bounds_stand_in_order_and_the_elbo_is_its_closed_form(model: LatentModel) -> None:
    data = data_of(model)
    observed = Observed(data)
    x = data.protocol.observe(data.test.raw(range(IMAGES)))
    truth = exact(model, x).mean().item()
    q = model.encode(x)
    full = torch.distributions.MultivariateNormal(q.mean, model.encoder.cov)  # type: ignore[arg-type]
    # KL of the diagonal posterior to the exact one, the same for every x.
    mine = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.moments()[1]))
    gap = torch.distributions.kl_divergence(mine, full).mean().item()
    bounds = [elbo(model, observed, draws=200), *(iwae(model, observed, k) for k in (5, 50, 500))]
    # The draws of one image have a standard deviation of about 1 nat: 400 × 200 draws leave 0.004; 5 of them.
    assert bounds[0].value == pytest.approx(truth - gap, abs=0.02)
    assert gap > 0.05  # else the order below would show nothing
    values = [b.value for b in bounds]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(truth, abs=0.02)  # K = 500: the bias is about var(w) / 2K
    assert values[-1] <= truth + 0.02
    assert all(b.kind == "lower bound" and b.n == IMAGES for b in bounds)


def test_importance_weights_honour_k_exactly(model: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of draws do not change how many there are."""
    from advae.evaluation import bounds

    x = torch.randn(7, N)
    monkeypatch.setattr(bounds, "BATCH", 20)  # 2 draws of 7 at a time
    assert bounds.log_weights(model, x, 13, False).shape == (13, 7)


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
        assert estimate.stderr > 0


def test_an_implicit_encoder_gets_an_adversarial_estimate_and_no_bound() -> None:
    data = load_data(DataOptions(source="digits", protocol="grey"))
    spec = SMALL | {"posterior": {"name": "implicit", "noise": 4}, "likelihood": {"name": "bernoulli"}}
    model = build_model(spec, data.x_shape, ["critic"], {"method": {"name": "avb"}})
    found = evaluate(model, data)
    assert found.named("elbo (critic)").kind == "adversarial estimate"
    assert not any("bound" in e.kind for e in found)
    with pytest.raises(NoDensityError):
        elbo(model, Observed(data))


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
    assert found.named("kl (critic)").value == 0
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


@pytest.mark.parametrize("size", [1, 100, 256, 1000])
def test_observations_do_not_depend_on_how_many_are_taken_at_a_time(size: int) -> None:
    """All estimators must see the same draw of binary pixels under one seed, whatever their memory allows."""
    data = load_data(DataOptions(source="digits", protocol="binarise-dynamic"))
    observed = Observed(data, "train", limit=600)
    whole, parts = (list(observed.chunks(torch.device("cpu"), n)) for n in (CHUNK, size))
    assert len(parts) == observed.parts(size)
    for mine, theirs in zip(zip(*whole, strict=True), zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(mine), torch.cat(theirs))
