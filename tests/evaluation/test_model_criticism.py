"""Faults of models: each remark appears for a model made to have the fault, and not at the linear-Gaussian optimum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advae.data import Dataset, Split
from advae.data.preprocessing import Standardize
from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.evaluation.estimate import EvaluationResult, Remark
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate
from advae.evaluation.latent_diagnostics import evaluate_posterior
from advae.evaluation.model_criticism import MIN_INFORMATION, collapse_remark
from advae.evaluation.reconstruction import evaluate_reconstruction
from advae.model import LatentModel
from evaluation.toy import IMAGES, NOISE, D, N, data_of, toy_model, weights

FAULTS = {  # criteria by which remarks are told apart
    "explained variance": "mean example",
    "RMSE / RMSE of the best linear model, with noise": "pca",
    "RMSE / RMSE on training examples": "overfitting",
    "share of the squared error by the noise of z": "mean and samples",
    "2 standard errors / RMSE": "too few",
    "nats of the most informative dimension": "collapse",
}


def faults(result: EvaluationResult) -> dict[str, Remark]:
    """Return the remarks with criteria by fault."""
    return {FAULTS[r.criteria[0].name]: r for r in result.remarks if r.criteria}


def criticize(model: LatentModel, data: Dataset, **options: object) -> dict[str, Remark]:
    return faults(evaluate(model, data, likelihood=(), diagnostics=("posterior",), **options))  # type: ignore[arg-type]


def optimum() -> tuple[LatentModel, Dataset]:
    """The linear-Gaussian model with its exact posterior, on data of its own."""
    model = toy_model(width=1.0)
    return model, data_of(model)


class Constant(nn.Module):
    """``N(0, scale²)`` whatever the input is."""

    def __init__(self, *event: int, scale: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=False)
        self.event = event

    def forward(self, inputs: Tensor) -> Distribution:
        return Normal(torch.zeros(len(inputs), *self.event), self.log_scale)


def test_linear_gaussian_optimum_has_no_fault() -> None:
    assert criticize(*optimum()) == {}


@pytest.mark.parametrize("unused", [1, 2])
def test_unused_latents_are_no_fault_of_the_optimum(unused: int) -> None:
    """PCA with as many components has a smaller error, by the noise that it reconstructs."""
    model, data = optimum()
    weight = torch.cat([weights(model), torch.zeros(N, unused)], 1)
    model.decoder.W = nn.Parameter(weight)  # type: ignore[union-attr]
    model.encoder.__init__(weight, 1.0)  # type: ignore[union-attr,misc]
    model.latent_dim = D + unused
    result = evaluate_reconstruction(model, EvalData(data))
    assert result.find("rmse").value > 1.2 * result.find(f"rmse (PCA-{D + unused})").value
    assert not {"pca", "mean example"} & faults(result).keys()


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_constant_posterior_is_a_collapse(scale: float) -> None:
    """A narrow posterior has a large KL(q(z|x) ‖ p(z)), and no information either."""
    model, data = optimum()
    model.encoder = Constant(D, scale=scale)
    found = criticize(model, data)
    assert found["collapse"].warning and found["collapse"].about == "active units"
    assert found["mean example"].warning
    result = evaluate_posterior(model, EvalData(data))
    assert result.find("active units").value == 0
    assert result.find("active units").per_example["information"].max() < 0.01
    (about_prior,) = [r for r in result.remarks if r.about == "C2ST accuracy"]
    assert "cannot be distinguished" not in about_prior.text


def test_little_information_is_a_collapse_only_if_it_explains_nothing() -> None:
    information = torch.full((30,), 0.05).index_fill(0, torch.tensor(0), 2 * MIN_INFORMATION)
    assert collapse_remark(information, 0.0)
    assert collapse_remark(information, 0.5) is None and collapse_remark(information, None) is None
    assert collapse_remark(torch.full((30,), 0.5), 0.0) is None  # the decoder is at fault
    assert collapse_remark(torch.full((30,), 0.05), 0.5)


def test_information_is_that_of_a_normal_channel() -> None:
    """For z = a x + √(1 − a²) ε it is −½ log(1 − a²); the toy's latents have W's, in closed form."""
    model, data = optimum()
    information = evaluate_posterior(model, EvalData(data)).find("active units").per_example["information"]
    x = data.test.raw(range(IMAGES)).double()
    q = model.encode(x.float())
    between, within = q.mean.double().var(0), q.moments()[1].double().mean(0)
    torch.testing.assert_close(information, 0.5 * (1 + between / within).log(), rtol=1e-5, atol=0)
    assert information.min() > MIN_INFORMATION


def test_decoder_without_information_is_no_better_than_the_mean() -> None:
    model, data = optimum()
    model.decoder = Constant(N, scale=NOISE)
    found = criticize(model, data)
    assert "mean example" in found and not {"pca", "collapse"} & found.keys()


def test_poor_encoder_is_worse_than_pca() -> None:
    """Half of the posterior mean: a quarter of the signal's variance remains in the error."""
    model, data = optimum()
    model.encoder.A = 0.5 * model.encoder.A  # type: ignore[union-attr,assignment,operator]
    assert criticize(model, data).keys() == {"pca"}


def test_binarized_observations_are_not_compared_with_pca_of_gray_levels() -> None:
    model, data = optimum()
    model.encoder.A = 0.5 * model.encoder.A  # type: ignore[union-attr,assignment,operator]
    data.preprocessing.support = "binary"  # type: ignore[misc]
    assert not faults(evaluate_reconstruction(model, EvalData(data)))


def test_wide_posterior_makes_mean_and_sampled_reconstructions_differ() -> None:
    model = toy_model(width=2.0)
    found = criticize(model, data_of(model))
    assert "mean and samples" in found and "collapse" not in found


def test_training_examples_without_noise_look_like_overfitting() -> None:
    model, data = optimum()
    z = torch.randn(IMAGES, D, generator=torch.Generator().manual_seed(1))
    data = replace(data, train=Split("train", z @ weights(model).T))
    found = criticize(model, data)
    assert found["overfitting"].warning
    assert "overfitting" not in criticize(model, data, split="train")


def test_few_examples_are_too_few_to_tell() -> None:
    model, data = optimum()
    assert criticize(model, data, limit=20).keys() == {"too few"}


def test_errors_of_a_table_are_in_standard_deviations_of_its_columns() -> None:
    """A column a thousand times larger changes nothing; every column has its own error, as has PCA's."""
    model, data = optimum()
    x, scale = data.test.raw(range(IMAGES)), torch.tensor([1000.0, 1, 1, 0.01, 1])
    split = Split("test", x * scale)
    other = replace(
        data, train=split, validation=split, test=split, preprocessing=Standardize([0.0] * N, scale.tolist())
    )
    plain, scaled = (evaluate_reconstruction(model, EvalData(d)) for d in (data, other))
    for name in ("rmse", "rmse (PCA-2)", "rmse (mean example)"):
        assert scaled.find(name).value == pytest.approx(plain.find(name).value, rel=1e-4)
        assert scaled.find(name).unit == "standard deviations"
    for name in ("rmse", "rmse (PCA-2)"):
        columns = scaled.find(name).per_example["columns"]
        assert columns.square().mean().sqrt().item() == pytest.approx(scaled.find(name).value, rel=1e-5)
    z = model.encode(x).mean @ weights(model).T  # the noise of z adds to it
    assert (scaled.find("rmse").per_example["columns"] > 0.95 * (x - z).square().mean(0).sqrt()).all()
