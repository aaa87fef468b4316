"""Evaluation against closed forms: a linear-Gaussian model with known evidence, and a constant decoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from advae.data import DataOptions, load_data
from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate, match_training_preprocessing
from advae.evaluation.likelihood.bounds import elbo
from advae.evaluation.reconstruction import evaluate_reconstruction
from advae.model import LatentModel, build_model
from evaluation.toy import N, data_of, toy_model


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


class Constant(nn.Module):
    """A decoder with the same gray level everywhere."""

    def __init__(self, shape: tuple[int, ...], gray: float) -> None:
        super().__init__()
        self.shape, self.gray, self.weight = shape, gray, nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Distribution:
        mean = torch.full((len(z), *self.shape), (self.gray + 0.5) / 256)
        return Normal(mean, torch.tensor(math.log(0.1)))


def test_rmse_of_a_constant_decoder_by_hand() -> None:
    data = load_data(DataOptions(source="digits", preprocessing="dequantize"))
    head = build_model(SMALL, data.x_shape).encoder
    model = LatentModel(head, Constant(data.x_shape, 100.0), x_shape=data.x_shape, latent_dim=2)
    assert data.test.values is not None
    by_hand = (data.test.values.double() - 100).square().mean().sqrt().item()
    assert evaluate_reconstruction(model, EvalData(data)).find("rmse").value == pytest.approx(
        by_hand, rel=1e-4
    )  # float32 sums


SMALL = {
    "latent_dim": 2,
    "encoder": {"name": "mlp", "hidden": [8]},
    "posterior": {"name": "normal"},
    "decoder": {"name": "mlp", "hidden": [8]},
    "likelihood": {"name": "normal", "variance": "shared"},
    "critic": {"name": "concat", "hidden": [8]},
}


def test_normal_likelihood_of_8_bit_images_uses_bin_probabilities() -> None:
    """A normal over 8-bit images gives the same value as the discretized one, never its density."""
    data = load_data(DataOptions(source="digits", preprocessing="dequantize"))
    torch.manual_seed(0)
    plain = build_model(SMALL, data.x_shape)
    binned = build_model(
        SMALL | {"likelihood": {"name": "discretized-normal", "variance": "shared"}}, data.x_shape
    )
    binned.load_state_dict(plain.state_dict())
    a, b = (evaluate(m, data, likelihood="elbo") for m in (plain, binned))
    assert a.find("elbo").value == b.find("elbo").value
    bits, nats = a.find("elbo (bits/dim)"), a.find("elbo")
    assert float(bits.per_example["value"].double().mean()) == pytest.approx(bits.value, rel=1e-6)
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)))
    assert bits.kind == "upper bound"
    assert nats.value < 0  # a log probability of values; the density of these images can be positive


def test_same_seed_gives_the_same_estimates_with_their_protocol() -> None:
    data = load_data(DataOptions(source="digits", preprocessing="binarize-dynamic"))
    torch.manual_seed(0)
    model = build_model(SMALL | {"likelihood": {"name": "bernoulli"}}, data.x_shape)
    first, again, other = (evaluate(model, data, iwae_samples=5, seed=s) for s in (0, 0, 1))
    assert [e.value for e in first] == [e.value for e in again] != [e.value for e in other]
    for estimate in first:
        assert {"split", "preprocessing", "seed", "checksum"} <= set(estimate.protocol)
        assert estimate.protocol["preprocessing"] == "binarize-dynamic"
        assert estimate.stderr > 0 or estimate.kind in ("diagnostic", "baseline")


def test_implicit_encoder_is_bounded_only_with_a_fitted_proposal() -> None:
    """The critic's ELBO is an adversarial estimate; names of bounds include the fitted normal."""
    data = load_data(DataOptions(source="digits", preprocessing="gray"))
    spec = SMALL | {"posterior": {"name": "implicit", "noise_dim": 4}, "likelihood": {"name": "bernoulli"}}
    model = build_model(spec, data.x_shape, ["critic"], {"method": {"name": "avb"}})
    result = evaluate(model, data)
    assert result.find("elbo (critic)").kind == "adversarial estimate"
    bounds = [e.name for e in result if e.section == "likelihood" and "bound" in e.kind]
    assert bounds == ["elbo[full-normal]", "iwae-64[full-normal]"]
    with pytest.raises(NoDensityError):
        elbo(model, EvalData(data), proposal="encoder")


def test_density_of_gray_levels_is_not_a_likelihood() -> None:
    """A normal over v/255, or over standardized images, has only a density: no estimate, and a warning."""
    for protocol in ("gray", "standardize"):
        data = load_data(DataOptions(source="digits", preprocessing=protocol))
        result = evaluate(build_model(SMALL, data.x_shape), data, diagnostics=())
        assert not any(e.section == "likelihood" for e in result)
        assert any(r.warning and "dequantize" in r.text for r in result.remarks)


def test_selected_metrics_are_computed() -> None:
    """Names are checked before any work, and the inference gap uses the tightest estimate of log p(x)."""
    model = toy_model(1.5)
    data = data_of(model)
    options = AISConfig(chains=4, temperatures=5)
    result = evaluate(model, data, likelihood=("elbo", "ais"), annealing=options, limit=40)
    likelihood = [e.name for e in result if e.section == "likelihood"]
    assert likelihood == ["elbo", "ais"]
    assert {"value", "ess", "acceptance"} == set(result.find("ais").per_example)
    gap = result.find("inference gap")
    assert gap.value == pytest.approx(result.find("ais").value - result.find("elbo").value)
    assert not any(e.section == "posterior" for e in evaluate(model, data, diagnostics=(), limit=40))
    for wrong in (
        {"improtance": 5},
        {"likelihood": "iwea"},
        {"samples": ("fdi",)},
        {"diagnostics": ["posteriors"]},
    ):
        with pytest.raises(ConfigError):
            evaluate(model, data, **wrong)  # type: ignore[arg-type]


def test_unknown_split_raises_and_lists_the_splits() -> None:
    data = load_data(DataOptions(source="digits"))
    with pytest.raises(ConfigError, match="test"):
        EvalData(data, "tset")


def test_adversarial_elbo_uses_bin_probabilities() -> None:
    """With a critic of zero it is minus the reconstruction error, in probabilities of 8-bit values."""
    data = load_data(DataOptions(source="digits", preprocessing="dequantize"))
    torch.manual_seed(0)
    spec = SMALL | {"posterior": {"name": "implicit", "noise_dim": 4}}
    method = {"name": "avb", "contrast": "prior", "known": "none"}
    model = build_model(spec, data.x_shape, ["critic"], {"method": method})
    for weight in model.critics.parameters():
        torch.nn.init.zeros_(weight)
    result = evaluate(model, data)
    assert result.find("claimed KL to the prior[critic]").value == 0
    both = result.find("elbo (critic)"), result.find("reconstruction")
    # The two use different latents, on which an untrained decoder hardly depends.
    assert both[0].value == pytest.approx(-both[1].value, rel=0.01)
    assert both[0].protocol["likelihood"] == both[1].protocol["likelihood"] == "bin probabilities"


def test_other_data_are_standardized_like_the_training_data(model: LatentModel) -> None:
    training, other = data_of(model), data_of(model)
    model.info["data"] = training.describe()
    other.preprocessing.mean = torch.full((N,), 5.0)  # type: ignore[attr-defined]
    matched = match_training_preprocessing(model, other).preprocessing
    raw = other.test.raw(range(3))
    torch.testing.assert_close(matched.apply(raw), training.preprocessing.apply(raw))
    assert not torch.allclose(other.preprocessing.apply(raw), training.preprocessing.apply(raw))


def test_binarization_seed_is_part_of_the_protocol() -> None:
    """The stored images and their checksum are the same, but the evaluated images differ."""
    protocols = [
        EvalData(load_data(DataOptions(preprocessing="binarize-static", binarize_seed=seed))).protocol()
        for seed in (0, 1, 1)
    ]
    assert protocols[0] != protocols[1] == protocols[2]
    assert protocols[0]["checksum"] == protocols[1]["checksum"]
