"""Bounds on log p(x) of linear-Gaussian models and of a discrete distribution with known entropy."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from advae.data import Dataset, Split, make_preprocessing
from advae.distributions.discretized_normal import DiscretizedNormalHead
from advae.distributions.normal import NormalHead
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.estimate import Estimate
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate
from advae.evaluation.likelihood.bounds import elbo, iwae, log_weights
from advae.evaluation.likelihood.exact import exact, has_closed_form
from advae.model import Conditional, LatentModel, build_model
from evaluation import toy
from evaluation.toy import IMAGES, data_of, toy_model

SIZES = [(2, 20), (10, 50)]


def difference_from_exact(estimate: Estimate, model: LatentModel, eval_data: EvalData) -> tuple[float, float]:
    """Return the mean difference of an estimate from the exact log p(x), and its standard error."""
    x = eval_data.data.preprocessing.apply(eval_data.data.test.raw(range(eval_data.count)))
    differences = estimate.per_example["value"].double() - toy.exact(model, x).double()
    return differences.mean().item(), differences.std().item() / math.sqrt(eval_data.count)


def gaussian_kl(cov_q: Tensor, cov_p: Tensor) -> float:
    """``KL(N(0, cov_q) ‖ N(0, cov_p))``."""
    normals = (
        torch.distributions.MultivariateNormal(torch.zeros(len(c)), c.double().float())
        for c in (cov_q, cov_p)
    )
    return torch.distributions.kl_divergence(*normals).item()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("d", "n"), SIZES)
def test_elbo_and_iwae_increase_to_the_evidence(d: int, n: int) -> None:
    """ELBO ≤ IWAE-K, increasing in K, ≤ exact: each within 3 standard errors of a difference. The ELBO's gap is the
    KL of the encoder from the posterior, within 4."""
    model = toy_model(1.5, d, n)
    eval_data = EvalData(data_of(model))
    bounds = [elbo(model, eval_data, 64), *(iwae(model, eval_data, k) for k in (5, 50, 500))]
    distances = [difference_from_exact(bound, model, eval_data) for bound in bounds]
    cov = model.encoder.cov  # type: ignore[union-attr]
    gap = gaussian_kl(1.5**2 * torch.diag(cov.diagonal()), cov)  # type: ignore[arg-type]
    assert gap > 0.3  # otherwise the order would be trivial
    assert distances[0][0] == pytest.approx(-gap, abs=4 * distances[0][1])
    for (lower, e1), (upper, e2) in pairwise(distances):
        assert upper > lower - 3 * math.hypot(e1, e2)
    assert all(distance <= 3 * error for distance, error in distances)
    assert distances[1][0] > distances[0][0] + 0.1  # it increases
    assert all(bound.kind == "lower bound" and bound.n == IMAGES for bound in bounds)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("d", [2, 10])
def test_bounds_with_a_normal_fitted_to_an_implicit_encoder(d: int) -> None:
    """The encoder samples from the exact posterior N(μ, Σ); a normal is fitted to m = 2,000 samples.

    Full: the KL of a normal fitted by its moments is d (d + 3) / 4m to first order; a fifth of it is allowed for the
    next. Diagonal: it is that of diag Σ from Σ, besides 1/m for each of its 2 d moments. 4 standard errors each.
    """
    model = toy_model(1.0, d, 20, implicit=True)
    eval_data = EvalData(data_of(model))
    cov = model.encoder.cov  # type: ignore[union-attr]
    full, diagonal = (elbo(model, eval_data, 64, proposal) for proposal in ("full", "diagonal"))  # type: ignore[arg-type]
    assert (full.name, diagonal.name) == ("elbo[full-normal]", "elbo[diagonal-normal]")
    for bound, gap, slack in (
        (full, d * (d + 3) / 8000, d * (d + 3) / 40000),
        (diagonal, gaussian_kl(torch.diag(cov.diagonal()), cov), 2 * d / 2000),  # type: ignore[arg-type]
    ):
        distance, error = difference_from_exact(bound, model, eval_data)
        assert distance == pytest.approx(-gap, abs=slack + 4 * error)
    tight, error = difference_from_exact(iwae(model, eval_data, 100), model, eval_data)
    assert abs(tight) < 3 * error + d * (d + 3) / 8000
    with pytest.raises(NoDensityError):
        elbo(model, eval_data, proposal="encoder")
    with pytest.raises(ConfigError, match="full"):
        elbo(model, eval_data, proposal="ful")  # type: ignore[arg-type]


def test_number_of_importance_weights_does_not_depend_on_the_batch_size() -> None:
    model = toy_model(1.5)
    assert log_weights(model, torch.randn(7, 5), 13, False, batch_size=20).shape == (
        13,
        7,
    )  # batches of 2 samples for each of 7 images


# --- exact --------------------------------------------------------------------------------------------------

LINEAR = {
    "latent_dim": 2,
    "encoder": {"name": "mlp", "hidden": [8]},
    "posterior": {"name": "normal"},
    "decoder": {"name": "mlp", "hidden": []},
    "likelihood": {"name": "normal", "variance": "shared", "scale": 0.5},
}


def vectors(n: int) -> Dataset:
    split = Split("test", torch.randn(50, n))
    return Dataset("v", "v", (n,), split, split, split, make_preprocessing("standardize", split), "0")


def test_exact_likelihood_of_an_affine_decoder() -> None:
    """Equal to N(b, W Wᵀ + σ² I) in float64, to rounding; and IWAE is below it."""
    model = build_model(LINEAR, (5,))
    eval_data = EvalData(vectors(5))
    assert has_closed_form(model, eval_data)
    layer = model.decoder.network.body[0]  # type: ignore[union-attr,index]
    torch.nn.init.normal_(layer.bias)  # type: ignore[union-attr,arg-type]
    W, b = layer.weight.detach().double(), layer.bias.detach().double()  # type: ignore[union-attr]
    cov = W @ W.T + 0.25 * torch.eye(5, dtype=torch.float64)
    x = eval_data.data.preprocessing.apply(eval_data.data.test.raw(range(50))).double()
    by_hand = torch.distributions.MultivariateNormal(b, cov).log_prob(x)
    result = exact(model, eval_data)
    torch.testing.assert_close(
        result.per_example["value"], by_hand, rtol=1e-5, atol=1e-5
    )  # float32 weights and scale
    assert result.kind == "exact"
    both = evaluate(model, eval_data.data, iwae_samples=200)
    bound, truth = both.find("iwae-200"), both.find("exact log-likelihood")
    differences = truth.per_example["value"] - bound.per_example["value"]
    assert bound.value < truth.value + 3 * differences.std().item() / 50**0.5


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": {"name": "mlp", "hidden": [4]}},
        {"likelihood": {"name": "normal", "variance": "pixel"}},
        {"likelihood": {"name": "normal", "squash": "sigmoid"}},
    ],
)
def test_exact_likelihood_of_other_decoders_raises(change: dict[str, object]) -> None:
    model = build_model(LINEAR | change, (5,))
    with pytest.raises(NoDensityError):
        exact(model, EvalData(vectors(5)))


# --- bits per dimension -------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A network with a constant output."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.values.expand(len(inputs), *self.values.shape)


def test_bits_per_dimension_of_a_known_distribution_equal_its_entropy() -> None:
    """Pixels are sampled from the decoder's discretized normals: narrow, wide, and truncated at the ends.

    The probabilities are computed here from the normal's distribution function. Over 2,000 images of 16 pixels the
    estimate is within 4 standard errors of the entropy; a density instead would be off by 8 bits.
    """
    mean = torch.linspace(-0.1, 1.1, 16, dtype=torch.float64).reshape(1, 4, 4)
    scale = torch.tensor([0.004, 0.05, 0.3]).repeat(6)[:16].double().reshape(1, 4, 4)
    edges = torch.arange(1, 256, dtype=torch.float64) / 256
    cdf = torch.as_tensor(norm.cdf(((edges - mean[..., None]) / scale[..., None]).numpy()))
    zero, one = torch.zeros(1, 4, 4, 1), torch.ones(1, 4, 4, 1)
    probabilities = torch.cat([zero, cdf, one], -1).diff(dim=-1).clamp_min(0)
    entropy = torch.special.entr(probabilities).sum().item() / (16 * math.log(2))
    levels = torch.multinomial(probabilities.reshape(16, 256), 2000, replacement=True)
    split = Split("test", levels.T.reshape(2000, 1, 4, 4).to(torch.uint8))
    data = Dataset("d", "d", (1, 4, 4), split, split, split, make_preprocessing("dequantize", split), "0")

    decoder = DiscretizedNormalHead((1, 4, 4), min_scale=1e-4)
    raw = torch.stack([mean, _raw(scale, decoder)]).float()
    encoder = Conditional(Constant(torch.zeros(2, 2)), NormalHead((2,)))  # the prior: the ELBO is log p(x)
    model = LatentModel(encoder, Conditional(Constant(raw), decoder), x_shape=(1, 4, 4), latent_dim=2)
    result = evaluate(model, data, diagnostics=(), elbo_samples=1, iwae_samples=1)
    bits = result.find("elbo (bits/dim)")
    assert bits.stderr < 0.02
    assert bits.value == pytest.approx(entropy, abs=4 * bits.stderr)
    assert bits.kind == "upper bound"


def _raw(scale: Tensor, head: DiscretizedNormalHead) -> Tensor:
    """Return the network output for a standard deviation: the inverse of the head's soft floor."""
    floor = head.min_log_scale
    return floor + torch.log(torch.expm1(scale.log() - floor)) - head.initial_log_scale
