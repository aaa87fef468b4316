"""Faults of a model: criteria, thresholds and remedies.

Squared errors are means over dimensions. Let σ² be the noise of a normal likelihood, n the number of dimensions of x
and k that of the latents. At the optimum of the linear model (probabilistic PCA; Tipping and Bishop 1999)

σ² = n / (n − k) · squared error of PCA                the mean of the n − k discarded eigenvalues
squared error of x̂(z), z ~ q(z|x) = σ²                 PCA's does not contain the noise in its own plane
… of which the noise of z is (1/n) Σ_i (1 − σ²/λ_i) σ² ≤ (k/n) σ²
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.evaluation.estimate import Criterion, Remark, mean_and_stderr
from advae.formatting import format_count, format_percent

NUM_SIGMAS = 3.0  # standard errors by which a criterion is exceeded before there is a remark
MATTERING_RATIO = 1.05  # of two RMSEs: pictures and tables that differ by less look the same
SEVERE_PCA_RATIO = 1.5  # to PCA: twice the squared error; the model has learned less than a linear map
# Latents that explain less of the variance save a normal likelihood 0.03 nats per dimension, ½ log(1 / 0.95).
MIN_EXPLAINED_VARIANCE = 0.05
# More than a third (1 − 1/1.25²) of the squared error on other examples is not there on training examples.
MAX_TRAIN_RATIO = 1.25
MAX_NOISE_SHARE = (
    0.2  # of the squared error, by the noise of z: reconstructions of means have a tenth less RMSE
)
MIN_INFORMATION = (
    0.1  # nats: q(z_u|x) is a tenth narrower than q(z_u), exp(−0.1); the mean explains 18 % of it
)


@dataclass(frozen=True)
class ReconstructionErrors:
    """Mean squared errors over the dimensions of each example ``[N]``, of the model and of baselines.

    Attributes:
        sampled: of reconstructions from samples of q(z|x).
        from_mean: from its means.
        pca: of principal components, the same number as latents, ``components``.
        mean_example: of the mean training example as the reconstruction.
        train: of the model on training examples ``[M]``; None if these are the examples.
        dims: dimensions of an example.
        latents: dimensions of z.
        unit: of the errors.
        sees_examples: whether the model's observations are the examples themselves, up to their rounding, as for PCA.
    """

    sampled: Tensor
    from_mean: Tensor
    pca: Tensor
    mean_example: Tensor
    train: Tensor | None
    dims: int
    components: int
    latents: int
    unit: str
    sees_examples: bool = True

    def remarks(self) -> list[Remark]:
        """Return remarks on reconstructions that are worse than they should be."""
        baseline = self.compare_with_mean() or self.compare_with_pca()
        remarks = [
            baseline,
            self.compare_with_train(),
            self.compare_mean_and_samples(),
            self.count_examples(),
        ]
        return [remark for remark in remarks if remark]

    def compare_with_mean(self) -> Remark | None:
        """Return a remark on a model that explains almost no variance."""
        explained = 1 - _mean(self.sampled) / _mean(self.mean_example)
        criterion = Criterion.at_least("explained variance", explained, MIN_EXPLAINED_VARIANCE)
        text = (
            f"Reconstructions are no better than the mean training example: RMSE {_rmse(self.sampled)}, the"
            f" mean's {_rmse(self.mean_example)}, PCA's {_rmse(self.pca)} {self.unit}. Train for more steps"
            " (--train.steps), at another learning rate (--train.lr), or with a lower initial noise of a normal"
            " likelihood (--model.likelihood.scale)."
        )
        return None if criterion.passed else Remark("rmse", text, True, (criterion,), "reconstruction")

    def compare_with_pca(self) -> Remark | None:
        """Return a remark on a model that is worse than the linear one at its optimum.

        PCA has as many components as there are latents, used or not: unused ones are a fault of the model.
        """
        if not self.sees_examples or self.components >= self.dims:
            return None
        optimum = self.pca * (self.dims / (self.dims - self.components))
        ratio, stderr = _rmse_ratio(self.sampled, optimum)
        name = "RMSE / RMSE of the best linear model, with noise"
        criterion = Criterion.at_most(name, ratio, MATTERING_RATIO + NUM_SIGMAS * stderr)
        text = (
            f"Reconstructions are worse than those of PCA with {self.components} components: RMSE"
            f" {_rmse(self.sampled)}, PCA's {_rmse(self.pca)} {self.unit}. Train for more steps"
            " (--train.steps) or with larger networks. A normal likelihood may need a noise that is lower or learned"
            " (--model.likelihood.variance)."
        )
        if criterion.passed:
            return None
        return Remark("rmse", text, ratio > SEVERE_PCA_RATIO, (criterion,), "reconstruction")

    def compare_with_train(self) -> Remark | None:
        """Return a remark on overfitting."""
        if self.train is None:
            return None
        ratio, stderr = _rmse_ratio(self.sampled, self.train, paired=False)
        criterion = Criterion.at_most(
            "RMSE / RMSE on training examples", ratio, MAX_TRAIN_RATIO + NUM_SIGMAS * stderr
        )
        text = (
            f"Overfitting: RMSE {_rmse(self.sampled)} on {format_count(len(self.sampled))} held-out examples,"
            f" {_rmse(self.train)} {self.unit} on {format_count(len(self.train))} training examples. Use more"
            " data, smaller networks or fewer latents, or stop when the validation error does not improve (set"
            " --train.patience, and --train.validate_every low enough)."
        )
        return None if criterion.passed else Remark("rmse", text, True, (criterion,), "reconstruction")

    def compare_mean_and_samples(self) -> Remark | None:
        """Return a remark where the noise of z makes reconstructions much worse than those that are shown."""
        difference, stderr = mean_and_stderr(self.sampled - self.from_mean)
        total = _mean(self.sampled)
        at_optimum = min(1.0, self.latents / self.dims)
        threshold = max(at_optimum, MAX_NOISE_SHARE) + NUM_SIGMAS * stderr / total
        criterion = Criterion.at_most(
            "share of the squared error by the noise of z", difference / total, threshold
        )
        text = (
            f"Mean and sampled reconstructions differ: RMSE {_rmse(self.from_mean)} from means of q(z|x), which"
            f" pictures show, {_rmse(self.sampled)} {self.unit} from samples of it. The noise of the latents is larger"
            " than at the optimum of a linear model: train for more steps. A normal likelihood may need a noise that is"
            " lower or learned (--model.likelihood.variance)."
        )
        return None if criterion.passed else Remark("rmse", text, False, (criterion,), "reconstruction")

    def count_examples(self) -> Remark | None:
        """Return a remark if two standard errors of the RMSE are a difference that matters."""
        mean, stderr = mean_and_stderr(self.sampled)
        error, margin = 2 * stderr / (2 * mean), MATTERING_RATIO - 1
        criterion = Criterion.at_most("2 standard errors / RMSE", error, margin)
        n = len(self.sampled)
        needed = math.ceil(n * (error / margin) ** 2) if math.isfinite(error) else n
        text = (
            f"{format_count(n)} examples are too few to tell models apart whose RMSEs differ by less than"
            f" {format_percent(error)}; {format_percent(margin)} would need about {format_count(needed)}."
        )
        return None if criterion.passed else Remark("rmse", text, False, (criterion,), "reconstruction")


def collapse_remark(information: Tensor, explained_variance: float | None) -> Remark | None:
    """Return a remark on a model that ignores its latents, if it does.

    It does if no dimension of z has information on x. It also does if they have almost none on average, while
    reconstructions are no better than the mean example.

    Args:
        information: nats for each dimension of z, ``[d]``.
        explained_variance: of reconstructions, relative to the mean example's; None if unknown.
    """
    largest, average = float(information.max()), float(information.mean())
    criteria = [Criterion.at_least("nats of the most informative dimension", largest, MIN_INFORMATION)]
    is_collapsed = not criteria[0].passed
    if explained_variance is not None:
        criteria.append(Criterion.at_least("nats per dimension, on average", average, MIN_INFORMATION))
        criteria.append(Criterion.at_least("explained variance", explained_variance, MIN_EXPLAINED_VARIANCE))
        is_collapsed = is_collapsed or not (criteria[1].passed or criteria[2].passed)
    if not is_collapsed:
        return None
    text = (
        f"The model has collapsed: it ignores its latents. All {len(information)} dimensions together have"
        f" {float(information.sum()):.2g} nats of information on x. Start with a lower noise of a normal likelihood"
        " (--model.likelihood.scale), add the KL term slowly (--method.kl_warmup), train for more steps or at a higher"
        " rate (--train.steps, --train.lr), or use fewer latents (--model.latent_dim)."
    )
    return Remark("active units", text, True, tuple(criteria), "posterior")


def _rmse_ratio(a: Tensor, b: Tensor, *, paired: bool = True) -> tuple[float, float]:
    """Return the ratio of two root mean squared errors, and its standard error by the delta method."""
    ratio = math.sqrt(_mean(a) / _mean(b)) if _mean(b) else math.inf
    terms = [values.double() / max(_mean(values), torch.finfo(torch.float64).tiny) for values in (a, b)]
    errors = [mean_and_stderr(terms[0] - terms[1])[1]] if paired else [mean_and_stderr(t)[1] for t in terms]
    stderr = 0.5 * ratio * math.hypot(*errors)
    return ratio, stderr if math.isfinite(stderr) else 0.0


def _mean(squared_errors: Tensor) -> float:
    return float(squared_errors.double().mean())


def _rmse(squared_errors: Tensor) -> str:
    return f"{math.sqrt(_mean(squared_errors)):.3g}"
