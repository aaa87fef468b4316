"""What is said of models that lack an encoder, codes or a density, and what is refused before any work."""

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
from advae.evaluation import Annealing, Work, evaluate, exact
from advae.evaluation.capabilities import lacking
from advae.evaluation.critics.wasserstein import potential
from advae.evaluation.eval_data import Observed
from advae.evaluation.samples.image_features import sampled
from advae.methods import METHODS
from advae.model import LatentModel, build_model

LIMIT = 40
LIKELIHOODS = {"elbo", "iwae", "exact", "ais", "bdmc"}


def digits(protocol: str) -> Dataset:
    return load_data(DataOptions(source="digits", protocol=protocol))


def model_of(
    likelihood: dict[str, Any], latent: int = 2, encoder: str = "none", method: str = ""
) -> LatentModel:
    """A small model of digits, with the critics of the method."""
    hidden: list[int] = [] if latent == 0 else [6]
    spec = {
        "latent": latent,
        "encoder": {"name": encoder},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": hidden},
        "likelihood": likelihood,
        "critic": {"name": "concat", "hidden": [6]},
    }
    roles = METHODS.build({"name": method}).critics if method else ()
    return build_model(spec, (1, 8, 8), roles, {"method": {"name": method}} if method else {})


IMPLICIT = {"name": "implicit", "noise": 0, "squash": "sigmoid"}
NORMAL = {"name": "normal", "variance": "shared", "scale": 0.3, "squash": "sigmoid"}


def generator(method: str = "gan") -> LatentModel:
    return model_of(IMPLICIT, method=method)


class Untouched(Work):
    """Work that must not begin."""

    def each(self, *args: Any, **more: Any) -> Any:
        raise AssertionError("work was begun")

    def stage(self, *args: Any) -> AbstractContextManager[Any]:  # type: ignore[override]
        raise AssertionError("work was begun")


@pytest.mark.parametrize("method", ["gan", "wgan-gp"])
def test_a_gan_is_judged_by_its_critic_and_says_the_rest(method: str) -> None:
    found = evaluate(generator(method), digits("dequantise"), limit=LIMIT)
    assert {e.section for e in found} == {"critics"}
    said = {remark.about: remark.text for remark in found.remarks}
    assert "no encoder" in said["reconstruction"] and "samples" in said["likelihood"]
    assert "critic" in said


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("model", "has"),
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
def test_the_impossible_is_refused_by_name_before_any_work(model: Any, has: set[str]) -> None:
    """Each of what the model lacks, by itself; left out where that is asked for; what it has is no error."""
    made, data = model(), digits("dequantise")
    names = dict.fromkeys(LIKELIHOODS, "likelihood") | {"posterior": "checks", "critics": "checks"}
    assert set(names) - set(lacking(made, Observed(data))) == has
    for name in set(names) - has:
        with pytest.raises((UnsupportedError, NoDensityError)) as caught:
            evaluate(made, data, work=Untouched(), **{names[name]: name})
        assert caught.value.remedy and caught.value.exit_code == 2
    everything = {"likelihood": tuple(LIKELIHOODS), "checks": ("posterior", "critics")}
    found = evaluate(
        made, data, **everything, strict=False, limit=4, draws=1, importance=2, simulated=2,  # type: ignore[arg-type]
        annealing=Annealing(chains=2, temperatures=2, start="prior"),
    )  # fmt: skip
    assert bool(found) == bool(has)


def test_annealing_without_an_encoder_starts_from_the_prior() -> None:
    model, data = model_of(NORMAL), digits("dequantise")
    with pytest.raises(UnsupportedError, match=r"no encoder(.|\n)*full(.|\n)*prior"):
        evaluate(model, data, likelihood="ais", work=Untouched())
    start = Annealing(chains=2, temperatures=3, start="prior")
    found = evaluate(model, data, likelihood="ais", annealing=start, limit=4)
    assert [e.name for e in found] == ["ais", "ais (bits/dim)"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_without_codes_the_density_is_the_exact_likelihood() -> None:
    """Bernoulli pixels whose logits are the decoder's biases b: log p(x) = Σ x b − log(1 + e^b)."""
    model, data = model_of({"name": "bernoulli"}, 0), digits("grey")
    bias = model.decoder.network.body[-1].bias  # type: ignore[union-attr]
    torch.nn.init.normal_(bias)
    found = evaluate(model, data, limit=LIMIT)
    assert [e.name for e in found] == ["exact log-likelihood"]
    x = data.protocol.observe(data.test.raw(torch.arange(LIMIT))).flatten(1)
    values = (x * bias - torch.nn.functional.softplus(bias)).sum(1).detach()
    estimate = found.named("exact log-likelihood")
    assert (estimate.kind, estimate.unit, estimate.n) == ("exact", "nats", LIMIT)
    torch.testing.assert_close(estimate.each["value"].float(), values)
    assert estimate.value == pytest.approx(float(values.mean()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("likelihood", ["normal", "discretised-normal"])
def test_of_8_bit_images_it_is_of_levels_and_in_bits(likelihood: str) -> None:
    """A normal N(½, 0.3²) for every pixel (its sigmoid at zero), integrated over each level's bin in float64.

    The model computes in float32: 1e-5 of 64 pixels' log probabilities.
    """
    model, data = model_of({**NORMAL, "name": likelihood}, 0), digits("dequantise")
    torch.nn.init.zeros_(model.decoder.network.body[-1].bias)  # type: ignore[union-attr]
    found = evaluate(model, data, limit=LIMIT)
    nats, bits = found.named("exact log-likelihood"), found.named("exact log-likelihood (bits/dim)")
    level = data.test.raw(torch.arange(LIMIT)).flatten(1).double()
    normal = torch.distributions.Normal(torch.tensor(0.5).double(), 0.3)

    def below(v: Tensor) -> Tensor:
        return torch.where(v <= 0, 0.0, torch.where(v >= 256, 1.0, normal.cdf(v / 256)))

    values = (below(level + 1) - below(level)).log().sum(1)
    torch.testing.assert_close(nats.each["value"], values, rtol=1e-5, atol=0)
    assert nats.protocol["likelihood"] == "bin probabilities"
    assert (bits.kind, bits.unit) == ("exact", "bits/dim")
    assert bits.value == pytest.approx(-nats.value / (64 * math.log(2)))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_exact_likelihood_does_not_depend_on_how_many_images_are_scored_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some at a time, as networks of pixels are deep and wide."""
    model, observed = model_of({"name": "bernoulli"}, 0), Observed(digits("grey"), limit=LIMIT)
    whole = exact(model, observed).each["value"]
    monkeypatch.setattr(sys.modules["advae.evaluation.likelihood.exact"], "AT_ONCE", 64 * 7)
    torch.testing.assert_close(exact(model, observed).each["value"], whole)


def test_pixels_one_by_one_are_scored_by_levels_too() -> None:
    """PixelCNN++ scores levels itself; its figures say so, and come in bits."""
    spec = {
        "latent": 0,
        "encoder": {"name": "none"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "pixelcnn", "filters": 2, "blocks": 1, "scales": 1},
        "likelihood": {"name": "autoregressive-logistics", "mixtures": 2},
        "critic": {"name": "concat"},
    }
    model, data = build_model(spec, (1, 8, 8)), digits("dequantise")
    found = evaluate(model, data, limit=4)
    assert [e.name for e in found] == ["exact log-likelihood", "exact log-likelihood (bits/dim)"]
    assert all(e.kind == "exact" and e.protocol["likelihood"] == "bin probabilities" for e in found)
    x = data.protocol.observe(data.test.raw(torch.arange(4)))
    log_p = model.decode(torch.zeros(4, 0)).log_prob(x).detach()  # the same whatever the noise within a level
    torch.testing.assert_close(found[0].each["value"].float(), log_p)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_samples_of_a_model_without_codes_are_draws() -> None:
    """Its mean is one image: what is judged must differ from sample to sample."""
    model, data = model_of({"name": "bernoulli"}, 0), digits("grey")
    images = sampled(model, data, 16, seed=0)
    shown = images.part(0, 16)
    assert images.what == "draws from p(x)" and set(shown.unique().tolist()) == {0, 255}
    assert len(shown.flatten(1).unique(dim=0)) > 1


def test_a_critic_of_images_alone_is_judged_as_a_log_ratio() -> None:
    found = evaluate(generator(), digits("dequantise"), limit=LIMIT)
    names = {e.name for e in found}
    assert {
        "accuracy[critic]",
        "accuracy[critic] on train",
        "claimed KL[critic]",
        "KL by accuracy[critic]",
    } <= names
    assert not any("prior" in name for name in names)  # there is no KL to a prior without an encoder


def test_a_potential_is_not_judged_as_a_log_ratio() -> None:
    """Its figures are of held-out images, and none of them is a KL, a calibration or a saturation."""
    model, data = generator("wgan-gp"), digits("dequantise")
    found = evaluate(model, data, limit=LIMIT)
    assert [e.name for e in found] == [
        *("accuracy[critic]", "accuracy[critic] on train", "distance[critic]", "slope[critic]")
    ]
    assert all(e.kind == "diagnostic" and e.n == LIMIT for e in found)
    assert found.named("accuracy[critic] on train").protocol["split"] == "train"
    (remark,) = [r for r in found.remarks if r.about == "critic"]
    assert "no log ratio" in remark.text and not remark.warning
    share = f"{100 * found.named('accuracy[critic]').value:.1f}".removesuffix(".0")
    assert f"{share} %" in remark.text


def test_a_potential_that_knows_its_images_by_heart_is_warned_of() -> None:
    def report(share: float) -> dict[str, Tensor]:
        return {"critic/accuracy": (torch.arange(400) < 400 * share).double()[:, None]}

    method = METHODS.build({"name": "wgan-gp"})
    for held, warned in ((0.99, False), (0.6, True)):
        (remark,) = potential(method, "critic", report(held), report(1.0), {"split": "test"}).remarks
        assert remark.warning == warned and ("by heart" in remark.text) == warned
