"""Likelihood estimators by name: what each needs of a model, its options, and its estimates.

An estimator is a frozen dataclass of its options, registered in a module of this package::

    @ESTIMATORS.register("my-bound")
    @dataclass(frozen=True)
    class MyBound(LikelihoodEstimator):
        requires = ("decoder density", "latents", "encoder")
        num_samples: int = 10

        def estimate(self, model, data, runner):
            return EvaluationResult([...])

Options that :class:`~advae.evaluation.eval_config.EvalConfig` has under the same name are taken from there, others from
its ``estimator_options["my-bound"]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, Literal

from advae.errors import AdvaeError, ConfigError, NoDensityError, UnsupportedError
from advae.evaluation.estimate import EvaluationResult, Remark
from advae.evaluation.eval_config import EvalConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.resumable import Runner
from advae.model import LatentModel
from advae.registry import Registry

Requirement = Literal["decoder density", "latents", "encoder"]
COMPARE_SAMPLES = "use rate-distortion, or compare its samples with data: fid, kid, is, prdc"


@dataclass(frozen=True)
class LikelihoodEstimator(ABC):
    """Computes estimates of log p(x) or of bounds on it.

    Attributes:
        name: set by the registry.
        requires: what the model must have.
        by_default: whether it is computed unless estimators are named.
        order: position among the estimates of an evaluation.
        precedence: which estimate of log p(x) diagnostics compare with, if there are several: the highest. 0 for an
            estimator whose values are not estimates of log p(x) of the data.
        per_dim: whether its values are also given in bits per dimension, where these are defined.
    """

    name: ClassVar[str] = ""
    requires: ClassVar[tuple[Requirement, ...]] = ("decoder density",)
    by_default: ClassVar[bool] = False
    order: ClassVar[int] = 100
    precedence: ClassVar[int] = 0
    per_dim: ClassVar[bool] = True

    @property
    def uses_density(self) -> bool:
        """Whether its values are computed from the decoder's density."""
        return "decoder density" in self.requires

    @classmethod
    def from_config(cls, config: EvalConfig) -> LikelihoodEstimator:
        """Return the estimator with its options from an evaluation's.

        Raises:
            ConfigError: an option is unknown or has another type.
        """
        shared = {f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)}
        own = config.estimator_options.get(cls.name, {})
        for f in fields(cls):
            if f.name in own and f.default_factory is not MISSING:
                _check_type(f"{cls.name}.{f.name}", own[f.name], f.default_factory())
            elif f.name in own and f.default not in (MISSING, None):
                _check_type(f"{cls.name}.{f.name}", own[f.name], f.default)
        estimator: LikelihoodEstimator = ESTIMATORS.build({"name": cls.name, **shared, **own})
        return estimator

    @classmethod
    def unsupported(cls, model: LatentModel, data: EvalData) -> AdvaeError | None:
        """Return why the model does not support the estimator, as an error; None if it does."""
        unmet = (REQUIREMENTS[requirement](model) for requirement in cls.requires)
        return next(filter(None, unmet), None)

    def check(self, model: LatentModel) -> None:  # noqa: B027
        """Raise an error if the options do not suit the model; called before any work is done."""

    @abstractmethod
    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        """Compute the estimates."""

    def compare(self, estimates: EvaluationResult) -> list[Remark]:
        """Return remarks that compare its estimates with all others of the likelihood."""
        return []


def _check_type(option: str, value: object, default: object) -> None:
    is_number = isinstance(default, float) and type(value) is int
    if type(value) is not type(default) and not is_number:
        expected = type(default).__name__
        raise ConfigError(f"Option {option} has a wrong type.", given=value, expected=expected)


ESTIMATORS: Registry[type[LikelihoodEstimator]] = Registry(
    "likelihood estimator", "advae.evaluation.likelihood", LikelihoodEstimator
)


def estimator_names() -> list[str]:
    """Return the names of all estimators in the order of their estimates."""
    return sorted(ESTIMATORS.names(), key=lambda name: (ESTIMATORS.find(name).order, name))


def _needs_decoder_density(model: LatentModel) -> AdvaeError | None:
    what = "The decoder has no density: this model has no likelihood, and no bound on one."
    return None if model.decoder_has_density() else NoDensityError(what, fix=COMPARE_SAMPLES)


def _needs_latents(model: LatentModel) -> AdvaeError | None:
    what = "The model has no latent variables: its log p(x) is exact."
    return None if model.latent_dim else UnsupportedError(what, fix="use exact")


def no_encoder(model: LatentModel) -> UnsupportedError:
    """Return the error for a metric that needs an encoder."""
    fix = COMPARE_SAMPLES
    if model.decoder_has_density():
        fix = "use ais with init prior" if model.latent_dim else "use exact"
    what = "The model has no encoder, which bounds by importance sampling and posterior diagnostics need."
    return UnsupportedError(what, fix=fix)


REQUIREMENTS: dict[Requirement, Callable[[LatentModel], AdvaeError | None]] = {
    "decoder density": _needs_decoder_density,
    "latents": _needs_latents,
    "encoder": lambda model: None if model.has_encoder else no_encoder(model),
}
