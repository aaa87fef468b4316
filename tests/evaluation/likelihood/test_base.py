"""The registry of likelihood estimators: declared requirements, options, and a new estimator in one class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from advae.errors import AdvaeError, ConfigError, UnsupportedError
from advae.evaluation.estimate import Estimate, EvaluationResult
from advae.evaluation.eval_config import AISConfig, EvalConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator, estimator_names
from advae.evaluation.resumable import Runner
from advae.model import LatentModel
from evaluation.toy import data_of, toy_model


@pytest.fixture
def constant() -> Iterator[None]:
    """An estimator that returns its option."""

    @ESTIMATORS.register("constant")
    @dataclass(frozen=True)
    class Constant(LikelihoodEstimator):
        requires = ("decoder density", "encoder")
        precedence = 9
        level: float = -1.0
        elbo_samples: int = 1

        def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
            value = self.level * self.elbo_samples
            return EvaluationResult([Estimate("constant", value, 0.0, "unbiased", "nats", data.count, {})])

    yield
    del ESTIMATORS._classes["constant"]


def test_estimators_in_the_order_of_their_estimates() -> None:
    assert estimator_names() == ["elbo", "elbo-certified", "iwae", "exact", "ais", "bdmc", "rate-distortion"]
    assert [name for name in estimator_names() if ESTIMATORS.find(name).by_default] == [
        "elbo",
        "iwae",
        "exact",
    ]


@pytest.mark.usefixtures("constant")
def test_registered_estimator_is_selected_by_name_with_its_options() -> None:
    """Shared options and its own are passed; unknown options raise; it is not evaluated by default."""
    model = toy_model(1.0)
    options = {"estimator_options": {"constant": {"level": -3.0}}, "elbo_samples": 2}
    result = evaluate(model, data_of(model), likelihood="constant", diagnostics=(), limit=4, **options)
    assert result.find("constant").value == -6.0
    with pytest.raises(AdvaeError, match="levle"):
        evaluate(model, data_of(model), likelihood="constant", estimator_options={"constant": {"levle": 1.0}})
    assert "constant" not in [e.name for e in evaluate(model, data_of(model), diagnostics=(), limit=4)]


def test_options_of_an_estimator_come_from_the_evaluation() -> None:
    config = EvalConfig(iwae_samples=7, annealing=AISConfig(chains=3), proposal="diagonal")
    assert vars(ESTIMATORS.find("iwae").from_config(config)) == {"proposal": "diagonal", "iwae_samples": 7}
    assert vars(ESTIMATORS.find("ais").from_config(config)) == {"annealing": AISConfig(chains=3)}


@pytest.mark.parametrize(
    ("text", "names"), [("elbo, ais", ("elbo", "ais")), ("none", ()), (("iwae",), ("iwae",))]
)
def test_names_as_text(text: str, names: tuple[str, ...]) -> None:
    assert EvalConfig(likelihood=text).likelihood == names  # type: ignore[arg-type]


def test_all_names_every_estimator() -> None:
    assert EvalConfig(likelihood="all").likelihood == tuple(estimator_names())  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        EvalConfig(iwae_samples=0)


@pytest.mark.parametrize("caller", ["float64", "no_grad", "inference_mode"])
def test_callers_torch_state_has_no_effect_and_is_restored(caller: str) -> None:
    """Annealing needs gradients, and weights are float32, whatever the caller has set."""
    model = toy_model(1.0)
    data, config = data_of(model), EvalConfig(annealing=AISConfig(chains=2, temperatures=3))
    expected = evaluate(model, data, config, likelihood=("elbo", "ais"), limit=6)
    contexts = {"no_grad": torch.no_grad(), "inference_mode": torch.inference_mode()}
    before = torch.get_rng_state()
    try:
        if caller == "float64":
            torch.set_default_dtype(torch.float64)
            result = evaluate(model, data, config, likelihood=("elbo", "ais"), limit=6)
            assert torch.get_default_dtype() is torch.float64
        else:
            with contexts[caller]:
                result = evaluate(model, data, config, likelihood=("elbo", "ais"), limit=6)
                assert not torch.is_grad_enabled()
                assert torch.is_inference_mode_enabled() == (caller == "inference_mode")
    finally:
        torch.set_default_dtype(torch.float32)
    assert [(e.name, e.value) for e in result] == [(e.name, e.value) for e in expected]
    assert torch.equal(torch.get_rng_state(), before)


def test_unmet_requirement_raises() -> None:
    model = toy_model(1.0)
    model.critics.clear()
    with pytest.raises(UnsupportedError):
        evaluate(model, data_of(model), diagnostics="critics")
