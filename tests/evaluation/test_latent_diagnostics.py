"""Latent diagnostics of linear-Gaussian models: gaps, active units, aggregated posteriors and grids in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from advae.data import Dataset, Split, make_preprocessing
from advae.distributions import Distribution
from advae.distributions.implicit import ImplicitSampler
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError, NotFiniteError
from advae.evaluation.estimate import Estimate, from_per_example
from advae.evaluation.eval_data import EvalData
from advae.evaluation.latent_diagnostics import (
    MEAN_VARIANCE_TOL,
    evaluate_posterior,
    inference_gap,
)
from advae.evaluation.likelihood.bounds import elbo, iwae
from advae.evaluation.posterior_grid import PosteriorGrid, grid_points, posterior_grid
from advae.metrics.two_sample import MIN_CLASSIFIER_SAMPLES
from advae.model import LatentModel
from evaluation.toy import IMAGES, NOISE, D, N, data_of, exact, toy_model

# --- the inference gap --------------------------------------------------------------------------------------


def truth(model: LatentModel, eval_data: EvalData) -> Estimate:
    """``log p(x)`` of the images in closed form."""
    x = torch.cat([part.x for part in eval_data.batches(torch.device("cpu"))])
    protocol = eval_data.protocol(likelihood="as observed")
    return from_per_example(exact(model, x), "exact", "exact", "nats", protocol)


def test_inference_gap_is_the_kl_from_the_true_posterior() -> None:
    """The KL of two normals, which is the same for every image."""
    model = toy_model(width=1.5)
    eval_data = EvalData(data_of(model))
    bound = elbo(model, eval_data, num_samples=200)
    result = evaluate_posterior(model, eval_data, log_prob=truth(model, eval_data), bound=bound)
    gap = result.find("inference gap")
    cov = model.encoder.cov  # type: ignore[union-attr]
    q_cov = torch.diag(1.5**2 * cov.diagonal())
    inverse = torch.linalg.inv(cov)
    kl = 0.5 * (torch.trace(inverse @ q_cov) - D + torch.logdet(cov) - torch.logdet(q_cov)).item()
    # Only the ELBO's samples are random: five standard errors, and float32.
    assert gap.value == pytest.approx(kl, abs=5 * gap.stderr + 1e-5)
    assert 5 * gap.stderr < 0.1 * kl
    assert (gap.kind, gap.unit, gap.n, gap.section) == ("unbiased", "nats", IMAGES, "posterior")
    assert gap.per_example["value"].shape == (IMAGES,)
    assert (gap.protocol["log_prob"], gap.protocol["bound"]) == ("exact", "elbo")


def make_estimate(kind: str, name: str = "ais", value: float = 0.0, **protocol: object) -> Estimate:
    return from_per_example(value + torch.arange(4.0), name, kind, "nats", {"split": "test", **protocol})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("log_prob", "bound", "kind"),
    [
        ("lower bound", "lower bound", "lower bound"),
        ("upper bound", "lower bound", "upper bound"),
        ("exact", "lower bound", "unbiased"),
        ("lower bound", "adversarial estimate", "adversarial estimate"),
    ],
)
def test_kind_of_a_gap_follows_from_its_two_estimates(log_prob: str, bound: str, kind: str) -> None:
    (gap,) = inference_gap(make_estimate(log_prob), make_estimate(bound, "elbo", -3.0))
    assert (gap.kind, gap.value) == (kind, 3.0)


def test_gap_of_a_fitted_normal_has_its_variant() -> None:
    (gap,) = inference_gap(
        make_estimate("lower bound"),
        replace(make_estimate("lower bound", "elbo[full-normal]", -3.0), variant="full-normal"),
    )
    assert gap.name == "inference gap[full-normal]"


def test_gap_of_estimates_on_different_images_raises() -> None:
    with pytest.raises(ConfigError, match="same examples"):
        inference_gap(make_estimate("exact"), make_estimate("lower bound", split="train"))
    with pytest.raises(ConfigError, match="same examples"):
        inference_gap(
            from_per_example(torch.zeros(3), "ais", "exact", "nats", {"split": "test"}),
            make_estimate("lower bound"),
        )


def test_estimate_below_the_bound_has_a_warning() -> None:
    low = make_estimate("lower bound", value=-2.0)
    (remark,) = inference_gap(low, make_estimate("lower bound", "elbo")).remarks
    assert remark.warning
    assert not inference_gap(
        make_estimate("lower bound", value=2.0), make_estimate("lower bound", "elbo")
    ).remarks


def test_gap_needs_an_elbo_and_a_log_likelihood() -> None:
    model = toy_model(width=1.0)
    eval_data = EvalData(data_of(model))
    result = evaluate_posterior(model, eval_data, bound=iwae(model, eval_data, 2))
    assert not [e for e in result if "gap" in e.name]


# --- active units and the aggregated posterior --------------------------------------------------------------

VARIANCES = (
    1.0,
    0.3,
    0.02,
    0.005,
    0.0,
)  # of E[z|x] over images, of 1: two have more than 0.1 nats, −½ log(1 − v)


class Line(nn.Module):
    """``N(a ⊙ x, diag(1 − a²))``: for standard normal x, latents are standard normal for every a.

    Args:
        implicit: provide samples only, without a density.
    """

    def __init__(self, implicit: bool, shift: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(VARIANCES).sqrt())
        self.implicit, self.shift = implicit, shift

    def forward(self, x: Tensor) -> Distribution:
        scale = (1 - self.a.square()).clamp_min(1e-12).sqrt()
        q = Normal(self.a * x + self.shift, scale.log())
        return ImplicitSampler(lambda n: q.rsample((n,)), len(x), x.shape[1:]) if self.implicit else q


def line(implicit: bool, count: int, shift: float = 0.0) -> tuple[LatentModel, EvalData]:
    """A model with such an encoder, and exactly whitened data: sample mean 0 and covariance I."""
    x = torch.randn(count, N, dtype=torch.float64)
    x = x - x.mean(0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (count - 1)), x.T, upper=False).T
    split = Split("test", x.float())
    preprocessing = make_preprocessing("standardize", split)
    preprocessing.mean, preprocessing.std = torch.zeros(N), torch.ones(N)  # type: ignore[attr-defined]
    data = Dataset("line", "line", (N,), split, split, split, preprocessing, "0")
    decoder = nn.Linear(N, N)
    return LatentModel(Line(implicit, shift), decoder, x_shape=(N,), latent_dim=N), EvalData(data)


def test_active_units_of_a_normal_encoder_are_exact() -> None:
    model, eval_data = line(implicit=False, count=400)
    result = evaluate_posterior(model, eval_data).find("active units")
    assert (result.value, result.unit) == (2, "of 5")
    assert result.per_example["variance"].tolist() == pytest.approx(VARIANCES, abs=1e-5)  # float32 latents
    assert result.stderr < 1e-3  # no dimension is within four standard errors of the threshold


def test_active_units_of_an_implicit_encoder_are_unbiased() -> None:
    """Twenty runs: each dimension's variance is right on average, and that of the inactive one has the stated error.

    The mean of 50 samples has a variance of 0.02 where a latent has 1: included, it would make all dimensions active.
    """
    runs = []
    for _ in range(20):
        model, eval_data = line(implicit=True, count=400)
        result = evaluate_posterior(model, replace(eval_data, seed=len(runs))).find("active units")
        runs.append(result.per_example["variance"])
        assert result.value == 2
    variances = torch.stack(runs)
    error = variances.std(0) / math.sqrt(len(runs))
    # Student's t with 19 degrees of freedom exceeds 6 with probability 9e-6; five numbers are compared.
    assert ((variances.mean(0) - torch.tensor(VARIANCES)).abs() < 6 * error + 1e-6).all()
    # A standard deviation of 20 normal numbers is between 0.39 and 1.74 of the true one but for 2 in 10^5.
    assert 0.39 * MEAN_VARIANCE_TOL < variances[:, 4].std() < 1.74 * MEAN_VARIANCE_TOL


def test_standard_error_of_active_units_at_the_threshold() -> None:
    """A dimension at the threshold is counted with probability one half: an error of half a unit."""
    model, eval_data = line(implicit=False, count=400)
    model.encoder.a.data[3] = math.sqrt(1 - math.exp(-0.2))  # type: ignore[union-attr,operator,index]
    assert evaluate_posterior(model, eval_data).find("active units").stderr == pytest.approx(0.5, abs=0.01)


def test_inactive_dimensions_have_a_remark() -> None:
    model, eval_data = line(implicit=False, count=200)
    assert [r for r in evaluate_posterior(model, eval_data).remarks if r.about == "active units"]
    model.encoder.a.data.fill_(0.7)  # type: ignore[union-attr,operator]
    assert not [r for r in evaluate_posterior(model, eval_data).remarks if r.about == "active units"]


@pytest.mark.parametrize("implicit", [False, True])
def test_two_sample_tests_accept_latents_from_the_prior(implicit: bool) -> None:
    model, eval_data = line(implicit, count=2000)
    result = evaluate_posterior(model, eval_data)
    accuracy, p = result.find("C2ST accuracy"), result.find("MMD² p-value").value
    assert abs(accuracy.value - 0.5) < 4 * accuracy.stderr
    # p is uniform: above 0.01 but for once in 100 seeds, and the seed is fixed.
    assert p > 0.01
    distance = result.find("MMD² of aggregated posterior")
    assert abs(distance.value) < 6 * distance.stderr
    assert [r for r in result.remarks if "cannot be distinguished" in r.text]
    spread = result.find("aggregated std")
    assert spread.value == pytest.approx(1, abs=5 * spread.stderr)
    # The mean of 5 standard deviations of 2,000 normals, each of standard error 1 / √(2 · 2000); a variance of
    # squares of 2,000 numbers is right to a twentieth or so.
    assert spread.stderr == pytest.approx(1 / math.sqrt(5 * 4000), rel=0.2)


def test_two_sample_tests_reject_shifted_latents() -> None:
    """A shift by one half in all five dimensions, |δ| = √5 / 2: the best accuracy is Φ(|δ| / 2), 0.71.

    A network may fall short of it by 0.05, which is not derived; 0.5 is four times as far.
    """
    model, eval_data = line(implicit=True, count=2000, shift=0.5)
    result = evaluate_posterior(model, eval_data)
    best = 0.5 * math.erfc(-math.sqrt(5) / 4 / math.sqrt(2))
    accuracy = result.find("C2ST accuracy")
    assert best - 0.05 - 4 * accuracy.stderr < accuracy.value < best + 4 * accuracy.stderr
    assert result.find("MMD² p-value").value == 1 / 200
    distance = result.find("MMD² of aggregated posterior")
    assert distance.value > 10 * distance.stderr
    assert [r for r in result.remarks if "separates" in r.text]
    spread = result.find("aggregated std")
    assert (spread.per_example["mean"] - 0.5).abs().max() < 5 / math.sqrt(2000)


def test_estimates_have_a_protocol_and_repeat_under_one_seed() -> None:
    model, eval_data = line(implicit=True, count=200)
    first, again, other = (evaluate_posterior(model, eval_data, seed=s) for s in (0, 0, 1))
    assert [e.value for e in first] == [e.value for e in again] != [e.value for e in other]
    for e in first:
        assert e.section == "posterior"
        assert {"data", "checksum", "split", "preprocessing", "seed"} <= set(e.protocol)
    assert first.find("MMD² of aggregated posterior").kind == "error"
    assert {e.kind for e in first} == {"error", "diagnostic"}


def test_classifier_test_needs_a_minimum_of_images() -> None:
    model, eval_data = line(implicit=True, count=MIN_CLASSIFIER_SAMPLES)
    assert "C2ST accuracy" in [e.name for e in evaluate_posterior(model, eval_data)]
    few = replace(eval_data, limit=MIN_CLASSIFIER_SAMPLES - 1)
    assert [e.name for e in evaluate_posterior(model, few)] == [
        "MMD² of aggregated posterior",
        "MMD² p-value",
        "active units",
        "aggregated std",
    ]


def test_non_finite_latents_raise() -> None:
    model, eval_data = line(implicit=False, count=100, shift=math.nan)
    with pytest.raises(NotFiniteError):
        evaluate_posterior(model, eval_data)


# --- the posterior on a grid --------------------------------------------------------------------------------


def gaussian(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the exact posterior."""
    return x @ model.encoder.A.T, model.encoder.cov  # type: ignore[union-attr,operator,return-value]


def grid_moments(grid: PosteriorGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mass ``[B]``, mean ``[B, 2]`` and covariance ``[B, 2, 2]`` of densities on a grid."""
    cell = (grid.axes[:, :, 1] - grid.axes[:, :, 0]).prod(1)
    mass = (grid.log_density.exp() * cell[:, None, None]).flatten(1)
    z = grid_points(grid.axes)
    mean = (mass[..., None] * z).sum(1)
    centered = z - mean[:, None]
    return mass.sum(1), mean, torch.einsum("bg,bgk,bgl->bkl", mass, centered, centered)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_grid_has_the_moments_and_density_of_the_exact_posterior(scale: float) -> None:
    """A sum over a grid with a step below a standard deviation is exact to exp(−2π²) for a normal.

    With ``scale`` the posterior is fifty times narrower than the toy model's: less than a step of the first pass.
    """
    model = toy_model(width=scale)
    model.decoder.W.data /= scale  # type: ignore[union-attr,operator]
    model.encoder.__init__(model.decoder.W.detach(), 1.0)  # type: ignore[union-attr,misc]
    z = torch.tensor([[0.0, 0.0], [1.0, -1.5], [2.0, 1.0]])
    x = z @ model.decoder.W.detach().T + NOISE * torch.randn(3, N)  # type: ignore[union-attr,operator]
    result = posterior_grid(model, x, points=120, samples=400)
    mean, cov = gaussian(model, x)
    mass, grid_mean, grid_cov = grid_moments(result)
    # The window omits 1e-7 of the mass, within a few standard deviations.
    width = cov.diagonal().sqrt().max().item()
    torch.testing.assert_close(grid_mean, mean, atol=1e-5 * width, rtol=0)
    torch.testing.assert_close(grid_cov, cov.expand(3, D, D), atol=1e-4 * width**2, rtol=0)
    torch.testing.assert_close(result.log_evidence, exact(model, x), atol=1e-5, rtol=0)
    place = torch.stack([result.axes[1, 0, 40], result.axes[1, 1, 70]])
    density = torch.distributions.MultivariateNormal(mean[1], cov).log_prob(place)
    assert result.log_density[1, 40, 70].item() == pytest.approx(density.item(), abs=1e-4)
    torch.testing.assert_close(mass, torch.ones(3))
    # The encoder's samples have its mean, within five standard errors.
    error = model.encode(x).moments()[1].sqrt() / math.sqrt(400)
    assert ((result.samples.mean(1) - mean).abs() < 5 * error).all()
    low, high = result.axes[:, None, :, 0], result.axes[:, None, :, -1]
    assert ((result.samples >= low) & (result.samples <= high)).all()
    # The window is not much larger than what it must show: 16 nats are 5.7 standard deviations.
    assert (high - low).max() < 16 * width


@pytest.mark.usefixtures("double")
def test_window_of_a_wide_encoder_contains_all_its_samples() -> None:
    model = toy_model(width=20.0)
    result = posterior_grid(model, torch.randn(3, N), points=300)
    low, high = result.axes[:, None, :, 0], result.axes[:, None, :, -1]
    assert (
        (result.samples > low - 1e-9) & (result.samples < high + 1e-9)
    ).all()  # the outermost are at the edge
    covariance = model.encoder.cov  # type: ignore[union-attr]
    assert (high - low).min() > 50 * covariance.diagonal().sqrt().min()  # much more than the posterior needs
    torch.testing.assert_close(grid_moments(result)[2], covariance.expand(3, D, D), atol=1e-4, rtol=0)


def test_grid_does_not_depend_on_the_decoding_batch_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy_model(width=1.0)
    x = torch.randn(3, N)
    whole = posterior_grid(model, x, points=20, samples=10)
    grids = import_module("advae.evaluation.posterior_grid")
    monkeypatch.setattr(grids, "DIMS_PER_BATCH", 7 * N)
    parts = posterior_grid(model, x, points=20, samples=10)
    torch.testing.assert_close(parts.log_density, whole.log_density, atol=1e-5, rtol=0)
    assert torch.equal(parts.samples, whole.samples)
    assert not torch.equal(posterior_grid(model, x, samples=10, seed=1).samples, whole.samples)


def test_grid_needs_two_latent_dimensions_and_a_density() -> None:
    model, eval_data = line(implicit=False, count=10)
    with pytest.raises(ConfigError):
        posterior_grid(model, eval_data.data.test.raw(range(2)))

    class Sampler(nn.Module):
        def forward(self, z: Tensor) -> Distribution:
            return ImplicitSampler(lambda n: torch.randn(n, len(z), N), len(z), (N,))

    toy = toy_model(width=1.0)
    implicit = LatentModel(toy.encoder, Sampler(), x_shape=(N,), latent_dim=D)
    implicit.register_parameter("p", nn.Parameter(torch.zeros(1)))
    with pytest.raises(NoDensityError):
        posterior_grid(implicit, torch.zeros(2, N))


def test_grid_of_8_bit_images_uses_bin_probabilities() -> None:
    """A level's probability is the density at its middle times 1/256, where the noise is as wide as here.

    The next term of the integral is of relative size (1/256)² / (24 NOISE²), 1e-6; float32 gives each probability,
    0.002, to 1e-7 of one: 1e-4 relative for each of five numbers.
    """
    model = toy_model(width=1.0)
    x = (torch.randint(20, 236, (2, N)) + 0.5) / 256  # not the outermost levels, which take the tails
    plain, binned = (
        posterior_grid(model, x, discretize=discretize, points=30) for discretize in (False, True)
    )
    torch.testing.assert_close(binned.log_evidence, plain.log_evidence - N * math.log(256), atol=1e-3, rtol=0)
