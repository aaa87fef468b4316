"""Auxiliary posteriors: training, saving, evaluation, and methods that do not support them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advae
from advae.data import DataOptions
from advae.distributions.auxiliary import AuxiliaryHead
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.likelihood.ais import ais
from advae.evaluation.likelihood.bounds import elbo
from advae.methods import METHODS
from advae.methods.vae import VAE
from advae.model import LatentModel, build_model
from advae.run import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of five steps of the recipe."""
    path = tmp_path_factory.mktemp("auxiliary") / "run"
    options = {"train.steps": 5, "train.batch_size": 32, "data.limit": 128, "train.samples_every": 0}
    return advae.train("vae-aux-digits", options=options, out=path, quiet=True, report=False)


def test_evaluation_and_saving_of_an_auxiliary_posterior(trained: Run, tmp_path: Path) -> None:
    model, data = trained.model(), advae.load_data(DataOptions(**trained.config["data"]))
    result = advae.evaluate(model, data, likelihood=("elbo", "iwae"), diagnostics=("posterior",), limit=20)
    bounds = [result.find("elbo"), result.find("iwae-64")]
    assert bounds[0].value < bounds[1].value
    gap = result.find("inference gap")
    for estimate in (*bounds, gap):
        assert estimate.kind == "lower bound" and estimate.protocol["proposal"] == "auxiliary"
    model.save_pretrained(tmp_path / "model")
    again = LatentModel.from_pretrained(tmp_path / "model")
    x = torch.rand(4, *model.x_shape)
    samples = []
    for each in (model, again):
        torch.manual_seed(1)
        samples.append(each.encode(x).rsample_and_log_prob((2,)))
    assert all(torch.equal(a, b) for a, b in zip(*samples, strict=True))


def test_annealing_treats_an_auxiliary_posterior_as_implicit(trained: Run) -> None:
    """It starts from a normal fitted to samples: the sample log probability is not a density at a given latent."""
    model, data = trained.model(), advae.load_data(DataOptions(**trained.config["data"]))
    options = AISConfig(chains=2, temperatures=4, leapfrog_steps=1)
    assert math.isfinite(ais(model, EvalData(data, limit=3), options).value)
    with pytest.raises(NoDensityError, match="implicit"):
        ais(model, EvalData(data, limit=3), replace(options, init="encoder"))


def test_elbo_with_a_fitted_normal_proposal(trained: Run) -> None:
    model, data = trained.model(), advae.load_data(DataOptions(**trained.config["data"]))
    fitted = elbo(model, EvalData(data, limit=3), 2, "full")
    assert (fitted.name, fitted.protocol["proposal"]) == ("elbo[full-normal]", "full")
    assert elbo(model, EvalData(data, limit=3), 2, "encoder").protocol["proposal"] == "auxiliary"


def test_unsupported_methods_raise() -> None:
    """Methods need a density, or a loss that trains the reverse model."""
    parts = {"encoder": {"name": "mlp"}, "decoder": {"name": "mlp"}, "critic": {"name": "concat"}}
    normal, own = {"name": "normal"}, {"name": "auxiliary"}

    def assert_raises(method: str, message: str, **options: str) -> None:
        method_ = METHODS.build({"name": method, **options})
        spec = {"latent_dim": 2, **parts, "likelihood": normal, "posterior": own}
        with pytest.raises(ConfigError, match=message):
            method_.check(build_model(spec, (5,), method_.critics))

    assert_raises("asvae", "density")
    assert_raises("avb", "reverse")
    assert_raises("vae", "monte-carlo")
    implicit = {"latent_dim": 2, **parts, "likelihood": normal, "posterior": {"name": "implicit"}}
    with pytest.raises(ConfigError, match="density"):
        VAE(kl="monte-carlo").check(build_model(implicit, (5,)))
    with pytest.raises(ConfigError, match="context"):
        AuxiliaryHead((2,), context=0)
