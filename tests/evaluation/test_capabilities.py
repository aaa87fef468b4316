"""Evaluation of models without an encoder, latents or a density, and errors before any computation."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from advae.data import DataOptions, Dataset, load_data
from advae.errors import NoDensityError, UnsupportedError
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate, unsupported_metrics
from advae.evaluation.likelihood.exact import exact
from advae.evaluation.resumable import Runner
from advae.evaluation.samples.image_features import model_samples
from advae.methods import METHODS
from advae.model import LatentModel, build_model

LIMIT = 40
LIKELIHOODS = {"elbo", "iwae", "exact", "ais", "bdmc"}


def digits(protocol: str) -> Dataset:
    return load_data(DataOptions(source="digits", preprocessing=protocol))


def model_of(
    likelihood: dict[str, Any], latent: int = 2, encoder: str = "none", method: str = ""
) -> LatentModel:
    """A small model of digits, with the critics of the method."""
    hidden: list[int] = [] if latent == 0 else [6]
    spec = {
        "latent_dim": latent,
        "encoder": {"name": encoder},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": hidden},
        "likelihood": likelihood,
        "critic": {"name": "concat", "hidden": [6]},
    }
    roles = METHODS.build({"name": method}).critics if method else ()
    return build_model(spec, (1, 8, 8), roles, {"method": {"name": method}} if method else {})


IMPLICIT = {"name": "implicit", "noise_dim": 0, "squash": "sigmoid"}
NORMAL = {"name": "normal", "variance": "shared", "scale": 0.3, "squash": "sigmoid"}


def generator(method: str = "gan") -> LatentModel:
    return model_of(IMPLICIT, method=method)


class UnusedRunner(Runner):
    """A runner that must not be used."""

    def map(self, *args: Any, **more: Any) -> Any:
        raise AssertionError("the runner was used")

    def stage(self, *args: Any) -> AbstractContextManager[Any]:  # type: ignore[override]
        raise AssertionError("the runner was used")


@pytest.mark.parametrize("method", ["gan", "wgan-gp"])
def test_gan_has_critic_diagnostics_and_remarks_on_missing_sections(method: str) -> None:
    result = evaluate(generator(method), digits("dequantize"), limit=LIMIT)
    assert {e.section for e in result} == {"critics"}
    assert {"reconstruction", "likelihood", "critic"} <= {remark.about for remark in result.remarks}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("build", "supported"),
    [
        (lambda: generator(), {"critics"}),
        (lambda: model_of(IMPLICIT), set()),
        (lambda: model_of(NORMAL, 0), {"exact"}),
        (lambda: model_of(NORMAL, 0, method="gan"), {"exact", "critics"}),
        (lambda: model_of(NORMAL), {"ais", "bdmc"}),
        (lambda: model_of(NORMAL, encoder="mlp"), {"elbo", "iwae", "ais", "bdmc", "posterior"}),
        (lambda: model_of(IMPLICIT, encoder="mlp", method="bavae"), {"posterior", "critics"}),
    ],
)
def test_unsupported_metrics_raise_before_any_computation(build: Any, supported: set[str]) -> None:
    """Each unsupported metric raises by itself and is left out with ``strict=False``; supported ones do neither."""
    model, data = build(), digits("dequantize")
    names = dict.fromkeys(LIKELIHOODS, "likelihood") | {"posterior": "diagnostics", "critics": "diagnostics"}
    assert set(names) - set(unsupported_metrics(model, EvalData(data))) == supported
    for name in set(names) - supported:
        with pytest.raises((UnsupportedError, NoDensityError)) as caught:
            evaluate(model, data, runner=UnusedRunner(), **{names[name]: name})
        assert caught.value.fix and caught.value.exit_code == 2
    everything = {"likelihood": tuple(LIKELIHOODS), "diagnostics": ("posterior", "critics")}
    result = evaluate(
        model, data, **everything, strict=False, limit=4, elbo_samples=1, iwae_samples=2, bdmc_images=2,  # type: ignore[arg-type]
        annealing=AISConfig(chains=2, temperatures=2, init="prior"),
    )  # fmt: skip
    assert bool(result) == bool(supported)


def test_annealing_without_an_encoder_starts_from_the_prior() -> None:
    model, data = model_of(NORMAL), digits("dequantize")
    with pytest.raises(UnsupportedError, match=r"full(.|\n)*prior"):
        evaluate(model, data, likelihood="ais", runner=UnusedRunner())
    start = AISConfig(chains=2, temperatures=3, init="prior")
    result = evaluate(model, data, likelihood="ais", annealing=start, limit=4)
    assert [e.name for e in result] == ["ais", "ais (bits/dim)"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_density_without_latents_is_the_exact_likelihood() -> None:
    """Bernoulli pixels whose logits are the decoder's biases b: log p(x) = Σ x b − log(1 + e^b)."""
    model, data = model_of({"name": "bernoulli"}, 0), digits("gray")
    bias = model.decoder.network.body[-1].bias  # type: ignore[union-attr]
    torch.nn.init.normal_(bias)
    result = evaluate(model, data, limit=LIMIT)
    assert [e.name for e in result] == ["exact log-likelihood"]
    x = data.preprocessing.apply(data.test.raw(torch.arange(LIMIT))).flatten(1)
    values = (x * bias - torch.nn.functional.softplus(bias)).sum(1).detach()
    estimate = result.find("exact log-likelihood")
    assert (estimate.kind, estimate.unit, estimate.n) == ("exact", "nats", LIMIT)
    torch.testing.assert_close(estimate.per_example["value"].float(), values)
    assert estimate.value == pytest.approx(float(values.mean()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("likelihood", ["normal", "discretized-normal"])
def test_exact_likelihood_of_8_bit_images_is_in_bits_per_dimension(likelihood: str) -> None:
    """N(½, 0.3²) for every pixel (its sigmoid at zero), integrated over each level's bin in float64.

    The model computes in float32: 1e-5 of 64 pixels' log probabilities.
    """
    model, data = model_of({**NORMAL, "name": likelihood}, 0), digits("dequantize")
    torch.nn.init.zeros_(model.decoder.network.body[-1].bias)  # type: ignore[union-attr]
    result = evaluate(model, data, limit=LIMIT)
    nats, bits = result.find("exact log-likelihood"), result.find("exact log-likelihood (bits/dim)")
    level = data.test.raw(torch.arange(LIMIT)).flatten(1).double()
    normal = torch.distributions.Normal(torch.tensor(0.5).double(), 0.3)

    def below(v: Tensor) -> Tensor:
        return torch.where(v <= 0, 0.0, torch.where(v >= 256, 1.0, normal.cdf(v / 256)))

    values = (below(level + 1) - below(level)).log().sum(1)
    torch.testing.assert_close(nats.per_example["value"], values, rtol=1e-5, atol=0)
    assert nats.protocol["likelihood"] == "bin probabilities"
    assert (bits.kind, bits.unit) == ("exact", "bits/dim")
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_exact_likelihood_does_not_depend_on_the_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, observed = model_of({"name": "bernoulli"}, 0), EvalData(digits("gray"), limit=LIMIT)
    whole = exact(model, observed).per_example["value"]
    monkeypatch.setattr(sys.modules["advae.evaluation.likelihood.exact"], "DIMS_PER_BATCH", 64 * 7)
    torch.testing.assert_close(exact(model, observed).per_example["value"], whole)


def test_pixelcnn_likelihood_uses_bin_probabilities() -> None:
    """PixelCNN++ defines probabilities of levels; the protocol says so, and values are also in bits."""
    spec = {
        "latent_dim": 0,
        "encoder": {"name": "none"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "pixelcnn", "filters": 2, "num_blocks": 1, "num_scales": 1},
        "likelihood": {"name": "autoregressive-logistic-mixture", "num_components": 2},
        "critic": {"name": "concat"},
    }
    model, data = build_model(spec, (1, 8, 8)), digits("dequantize")
    result = evaluate(model, data, limit=4)
    assert [e.name for e in result] == ["exact log-likelihood", "exact log-likelihood (bits/dim)"]
    assert all(e.kind == "exact" and e.protocol["likelihood"] == "bin probabilities" for e in result)
    x = data.preprocessing.apply(data.test.raw(torch.arange(4)))
    log_p = model.decode(torch.zeros(4, 0)).log_prob(x).detach()  # the same whatever the noise within a level
    torch.testing.assert_close(result[0].per_example["value"].float(), log_p)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_samples_of_a_model_without_latents_are_random() -> None:
    """Its mean is a single image, so samples of p(x) are evaluated instead."""
    model, data = model_of({"name": "bernoulli"}, 0), digits("gray")
    images = model_samples(model, data, 16, seed=0)
    pixels = images.get(torch.arange(16))
    assert images.description == "samples from p(x)" and set(pixels.unique().tolist()) == {0, 255}
    assert len(pixels.flatten(1).unique(dim=0)) > 1


def test_critic_of_images_has_log_ratio_diagnostics() -> None:
    result = evaluate(generator(), digits("dequantize"), limit=LIMIT)
    names = {e.name for e in result}
    assert {
        "accuracy[critic]",
        "accuracy[critic] on train",
        "claimed KL[critic]",
        "KL by accuracy[critic]",
    } <= names
    assert not any("prior" in name for name in names)  # there is no KL to a prior without an encoder


def test_wasserstein_potential_has_no_log_ratio_diagnostics() -> None:
    """Its diagnostics are for held-out images, without a KL, calibration or saturation."""
    model, data = generator("wgan-gp"), digits("dequantize")
    result = evaluate(model, data, limit=LIMIT)
    assert [e.name for e in result] == [
        *("accuracy[critic]", "accuracy[critic] on train", "distance[critic]", "slope[critic]")
    ]
    assert all(e.kind == "diagnostic" and e.n == LIMIT for e in result)
    assert result.find("accuracy[critic] on train").protocol["split"] == "train"
    (remark,) = [r for r in result.remarks if r.about == "critic"]
    assert "not a log ratio" in remark.text and not remark.warning
    share = f"{100 * result.find('accuracy[critic]').value:.1f}".removesuffix(".0")
    assert f"{share} %" in remark.text
