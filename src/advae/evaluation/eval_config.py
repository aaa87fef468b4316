"""Evaluation options, importable without torch so that ``--help`` is quick."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from advae.errors import ConfigError, nearest

Proposal = Literal["auto", "encoder", "diagonal", "full"]
AISInit = Literal["prior", "encoder", "diagonal", "full"]
Schedule = Literal["sigmoid", "linear", "geometric"]
DIAGNOSTICS = ("posterior", "critics")


@dataclass(frozen=True)
class AISConfig:
    """Options of annealed importance sampling."""

    chains: int = 16
    """Chains per example."""
    temperatures: int = 1000
    """Number of temperatures between the initial density and p(x, ·)."""
    schedule: Schedule = "sigmoid"
    """Spacing of the temperatures: denser near both ends (sigmoid), even (linear), or denser near the initial density
    (geometric)."""
    init: AISInit = "full"
    """Initial density: the prior, the encoder's, or a normal fitted to samples from the encoder with a diagonal or
    full covariance, which works for implicit encoders too."""
    leapfrog_steps: int = 10
    """Leapfrog steps per Hamiltonian Monte Carlo transition."""

    def __post_init__(self) -> None:
        _check_positive(self, "chains", "temperatures", "leapfrog_steps")
        _check_choice("init", self.init, get_args(AISInit))
        _check_choice("schedule", self.schedule, get_args(Schedule))


@dataclass(frozen=True)
class EvalConfig:
    """Which metrics to compute, and how.

    Names may be given as a tuple, as one string with commas, or as "all" or "none".
    """

    likelihood: tuple[str, ...] | None = None
    """Likelihood estimators. By default those that the model supports of elbo, iwae and exact; ais, bdmc,
    elbo-certified and rate-distortion take minutes to hours. Further options: --NAME.OPTION VALUE, as
    --elbo-certified.chains 8."""
    samples: tuple[str, ...] = ()
    """Metrics of samples; they need labels or an Inception network."""
    diagnostics: tuple[str, ...] | None = None
    """Diagnostics: posterior and critics. By default those that the model supports."""
    iwae_samples: int = 64
    """Samples per example of the importance-weighted bound."""
    elbo_samples: int = 16
    """Samples per example of the ELBO."""
    proposal: Proposal = "auto"
    """Proposal of ELBO and IWAE: the encoder, or a normal fitted to it with a diagonal or full covariance. auto is the
    encoder if it has a density, else full."""
    annealing: AISConfig = field(default_factory=AISConfig)
    """Options of ais and bdmc."""
    bdmc_images: int = 64
    """Number of examples that the model generates for bdmc."""
    feature_extractor: str = "classifier"
    """Network whose features metrics of samples compare: classifier (trained on the data's labels), inception, or a
    file of weights."""
    num_samples: int | None = None
    """Number of samples that are compared with data. By default as many as test examples, at most 10,000."""
    strict: bool = True
    """Whether a metric that is named and that the model does not support is an error; otherwise it is left out."""
    estimator_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further options of likelihood estimators, by name."""

    def __post_init__(self) -> None:
        # Registries import torch: they are asked only for names that are given.
        for group in ("likelihood", "samples", "diagnostics"):
            if (value := getattr(self, group)) is not None and value != ():
                object.__setattr__(self, group, _as_names(group, value, _known_metrics(group)))
        _check_positive(self, "iwae_samples", "elbo_samples", "bdmc_images")
        _check_choice("proposal", self.proposal, get_args(Proposal))


def _known_metrics(group: str) -> Iterable[str]:
    if group == "likelihood":
        from advae.evaluation.likelihood.base import estimator_names

        return estimator_names()
    if group == "samples":
        from advae.evaluation.samples.base import sample_metric_names

        return sample_metric_names()
    return DIAGNOSTICS


def _as_names(group: str, value: str | Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the names that an option selects; raise ConfigError for an unknown one."""
    names = value.split(",") if isinstance(value, str) else value
    names, known = tuple(name.strip() for name in names if name.strip()), tuple(known)
    if names in (("all",), ("none",)):
        return known if names == ("all",) else ()
    for name in names:
        _check_choice(group, name, known)
    return names


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"Option {option} has no value {value!r}.", fix=nearest(value, known))


def _check_positive(options: object, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise ConfigError(f"Option {name} must be positive.", given=getattr(options, name))
