"""Scores of single examples against the exact log p(x) of linear-Gaussian models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from advae.data.preprocessing import Standardize
from advae.errors import ConfigError, NoDensityError, UnsupportedError
from advae.evaluation.eval_data import EvalData
from advae.evaluation.likelihood.bounds import iwae
from advae.evaluation.score import Scores, log_mean_exp, score
from advae.model import LatentModel, build_model
from evaluation.toy import N, data_of, exact, toy_model, weights
from truth.linear_gaussian import Affine, Gauss, Truth

pytestmark = pytest.mark.usefixtures("double")


def observations(model: LatentModel, count: int = 200) -> Tensor:
    """Observations that were sampled from the model."""
    return data_of(model).test.raw(range(count))


@pytest.mark.parametrize(
    ("implicit", "proposal"),
    [(False, "auto"), (False, "diagonal"), (False, "full"), (True, "auto"), (True, "diagonal")],
)
def test_scores_are_the_exact_log_likelihood_within_their_errors(implicit: bool, proposal: Any) -> None:
    """Errors of all examples share their noise, so 3 % instead of 0.3 % may be beyond three standard errors. The bias
    of log p̂, half its variance, is far below them at 2,000 samples."""
    model = toy_model(1.2, implicit=implicit)
    x = observations(model)
    scores = score(model, x, num_samples=2000, proposal=proposal)
    assert scores.log_prob is not None and scores.stderr is not None
    z = (scores.log_prob - exact(model, x)) / scores.stderr
    assert 0 < scores.stderr.max() < 0.1
    assert (z.abs() < 3).double().mean() > 0.97
    assert z.abs().median() > 0.05  # the errors are not far too large


@pytest.mark.parametrize(("width", "proposal"), [(1.0, "full"), (1.3, "full"), (2.0, "diagonal")])
def test_scores_by_the_moments_of_an_encoder_without_a_density(width: float, proposal: Any) -> None:
    """The encoder is the correlated posterior, its standard deviations times a width of at least 1: a narrower one
    has weights without a finite variance. With the posterior itself the error is that of the variance 1e-6 that is
    added to its moments, below 1e-4."""
    W, b, scale = torch.tensor([[1.0, 0.9], [0.2, 0.5]]), torch.tensor([0.3, -0.1]), torch.tensor([0.5, 0.4])
    cov = torch.linalg.inv(torch.eye(2) + W.T @ torch.diag(scale**-2) @ W)
    assert cov[0, 1].abs() > 0.5 * cov.diagonal().prod().sqrt()
    V = cov @ W.T @ torch.diag(scale**-2)
    encoder = Affine(V, -V @ b, width * torch.linalg.cholesky(cov))
    model = LatentModel(encoder, Affine(W, b, torch.diag(scale)), x_shape=(2,), latent_dim=2)
    p_x = Truth(model, Gauss(torch.zeros(2), torch.eye(2))).frozen().p_x
    x = p_x.rsample(200)
    scores = score(model, x, num_samples=4000, proposal=proposal)
    assert scores.log_prob is not None and scores.stderr is not None
    error = (scores.log_prob - p_x.log_prob(x)).abs()
    assert (error < 3 * scores.stderr + 1e-4).double().mean() > 0.97
    assert width > 1 or float(error.max()) < 1e-4


@pytest.mark.parametrize("num_samples", [2, 16])
def test_scores_by_the_exact_posterior_have_no_error(num_samples: int) -> None:
    model = toy_model(1.0)
    W = weights(model)
    q, _ = torch.linalg.qr(W)  # orthogonal columns: the exact posterior is diagonal, and the encoder is exact
    with torch.no_grad():
        model.decoder.W.copy_(q)  # type: ignore[union-attr, operator]
    exact_encoder = toy_model(1.0).encoder
    exact_encoder.__init__(q, 1.0)  # type: ignore[misc]
    model.encoder = exact_encoder
    x = observations(model)
    scores = score(model, x, num_samples=num_samples)
    assert scores.log_prob is not None and scores.stderr is not None
    torch.testing.assert_close(scores.log_prob, exact(model, x), rtol=0, atol=1e-9)
    assert scores.stderr.max() < 1e-9


def test_their_mean_is_the_importance_weighted_bound() -> None:
    model = toy_model(1.5)
    data = data_of(model)
    bound = iwae(model, EvalData(data), 64).value
    scores = score(model, data.test.raw(range(len(data.test))), num_samples=64)
    assert scores.log_prob is not None and scores.stderr is not None
    # The errors of examples are correlated: the error of their mean is at most the mean error.
    assert scores.log_prob.mean() == pytest.approx(bound, abs=3 * float(scores.stderr.mean()))


def test_an_example_is_scored_without_regard_to_others() -> None:
    model = toy_model(1.5)
    x = observations(model, 300)  # more than one batch
    scores = score(model, x)
    for rows in ([7], [299, 7, 0]):
        alone = score(model, x[rows])
        for name, values in alone.columns().items():
            torch.testing.assert_close(values, scores.columns()[name][rows])
    other = score(model, x[:5], seed=1)
    assert (other.log_prob != scores.log_prob[:5]).all()  # type: ignore[index, operator]
    sampled = toy_model(1.2, implicit=True)
    disturbed = torch.cat([x[:3], x[3:10] + 5])
    first = score(sampled, x[:10]).log_prob
    assert torch.equal(score(sampled, disturbed).log_prob[:3], first[:3])  # type: ignore[index]
    assert torch.equal(score(sampled, x[:10]).log_prob, first)  # type: ignore[arg-type]


def test_random_state_and_modes_are_left_alone() -> None:
    model = toy_model(1.5).train()
    x = observations(model, 3)
    state = torch.get_rng_state()
    model.score(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and torch.is_grad_enabled()


def test_one_sample_is_an_elbo_without_an_error() -> None:
    model = toy_model(1.5)
    scores = score(model, observations(model), num_samples=1)
    assert scores.stderr is not None and scores.stderr.isnan().all()
    many = score(model, observations(model), num_samples=64)
    assert scores.log_prob.mean() < many.log_prob.mean()  # type: ignore[union-attr]


def test_the_standard_error_is_that_of_repeated_estimates() -> None:
    """Standard deviation of 2,000 estimates of log E[w], for w = exp(N(0, 0.5²)) and K = 400; within 10 %."""
    log_w = 0.5 * torch.randn(400, 2000)
    estimates, stderr = log_mean_exp(log_w)
    assert float(estimates.std()) == pytest.approx(float(stderr.mean()), rel=0.1)


def image_model(likelihood: str, preprocessing: str = "dequantize") -> LatentModel:
    """A small model of 8-bit images."""
    mlp = {"name": "mlp", "hidden": [8]}
    spec = {
        "latent_dim": 2,
        "encoder": mlp,
        "decoder": mlp,
        "critic": mlp,
        "posterior": {"name": "normal"},
        "likelihood": {"name": likelihood},
    }
    return build_model(spec, (1, 4, 4), info={"data": {"preprocessing": {"name": preprocessing}}})


@pytest.mark.parametrize(
    ("likelihood", "preprocessing", "has_bits"),
    [("discretized-normal", "dequantize", True), ("bernoulli", "gray", False)],
)
def test_images_have_errors_in_gray_levels_and_bits_per_dim(
    likelihood: str, preprocessing: str, has_bits: bool
) -> None:
    model = image_model(likelihood, preprocessing)
    raw = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    assert model.preprocessing is not None
    x = model.preprocessing.apply(raw)
    scores = score(model, x)
    back = model.to_data_units(model.reconstruct(x))
    rmse = (back - raw).double().square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(scores.rmse, rmse, rtol=1e-5, atol=1e-4)
    assert scores.unit == "gray levels" and (scores.bits_per_dim is not None) == has_bits
    if has_bits:
        expected = -scores.log_prob / (16 * math.log(2))  # type: ignore[operator]
        torch.testing.assert_close(scores.bits_per_dim, expected)


def test_tables_have_errors_in_standard_deviations() -> None:
    model = toy_model(1.0)
    model.info["data"] = {"preprocessing": Standardize([0.0] * N, [1000.0] * N).describe()}
    x = observations(model, 4)
    scores = score(model, x)
    expected = (model.reconstruct(x) - x).square().mean(1).sqrt()
    torch.testing.assert_close(scores.rmse, expected.detach())
    assert scores.unit == "standard deviations"


def test_a_decoder_without_a_density_has_reconstruction_errors_only() -> None:
    model = image_model("implicit")
    scores = score(model, torch.rand(3, 1, 4, 4).float())
    assert scores.log_prob is None and set(scores.columns()) == {"rmse"}
    assert torch.equal(scores.normality, -scores.rmse)


def test_what_cannot_be_scored_is_refused() -> None:
    model = toy_model(1.0)
    with pytest.raises(ConfigError):
        score(model, torch.zeros(2, N + 1))
    with pytest.raises(ConfigError):
        score(model, torch.zeros(0, N))
    with pytest.raises(ConfigError):
        score(model, torch.zeros(2, N), num_samples=0)
    with pytest.raises(NoDensityError):
        score(toy_model(1.0, implicit=True), torch.zeros(2, N), proposal="encoder")
    spec = {**image_model("bernoulli").spec, "encoder": {"name": "none"}}  # type: ignore[dict-item]
    with pytest.raises(UnsupportedError):
        score(build_model(spec, (1, 4, 4)), torch.zeros(2, 1, 4, 4).float())


def test_percentiles_are_shares_of_lower_reference_scores() -> None:
    scores = Scores(torch.zeros(4), "", torch.tensor([-5.0, 1.0, 2.5, 9.0]))
    reference = torch.tensor([3.0, 1.0, 2.0, 0.0])
    assert scores.percentiles(reference).tolist() == [0, 25, 75, 100]


def test_an_example_beyond_all_numbers_is_the_most_unusual() -> None:
    """Its latents overflow. It has no finite score, and the others keep theirs."""
    mlp = {"name": "mlp", "hidden": [8]}
    normal = {"name": "normal"}
    spec = {"latent_dim": 2, "encoder": mlp, "decoder": mlp, "posterior": normal, "likelihood": normal}
    model = build_model(spec, (3,))
    x = torch.randn(4, 3).float()
    before = score(model, x).log_prob
    x[2] = 1e6
    scores = score(model, x)
    assert scores.log_prob is not None and before is not None
    assert scores.log_prob[2] == -math.inf and scores.log_prob.argmin() == 2
    assert torch.equal(scores.log_prob[[0, 1, 3]], before[[0, 1, 3]])
    assert scores.percentiles(before)[2] == 0
