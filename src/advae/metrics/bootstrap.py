"""Bootstrap over images by half-subsamples.

A replicate is the metric of a random half of the images, drawn without replacement (the m out of n bootstrap without
replacement: Bickel, Götze and van Zwet 1997). For a mean, halves vary around their mean exactly as means of all m
images vary around the true mean: their variance is ``S²/h − S²/m``, which is ``S²/m`` at h = m/2. The ordinary
bootstrap repeats images, which these metrics do not tolerate: a repeated image is its own nearest neighbor, and 180
images of which 66 are repeated have the covariance of 114.

Many metrics depend on the number of images, so halves have a bias. It is not noise: standard error and interval are
computed from the deviations of the halves *from their own mean*, and the interval is reflected at the value (the
basic, or pivotal, interval). It is an interval for the mean of the metric at this number of images, which is what
metrics of the same number of images are compared by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import ConfigError

MIN_REPLICATES = 20  # below, a standard error is itself known to worse than 16 %
MIN_REPLICATES_FOR_QUANTILES = 40  # from here on the 2.5 % quantiles are inside the sample
STUDENT_T_QUANTILE = 2.1  # 97.5 % quantile with 19 degrees of freedom, for an interval from fewer replicates


@dataclass(frozen=True)
class BootstrapEstimate:
    """A metric and its bootstrap replicates.

    Attributes:
        value: the metric of all images.
        replicates: the metric of each half, ``[R]``.
        limits: the smallest and largest possible value.
    """

    value: float
    replicates: Tensor
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def stderr(self) -> float:
        """Standard deviation of the replicates."""
        return float(self.replicates.double().std())

    @property
    def excess_of_halves(self) -> float:
        """Mean of the replicates minus the value: to first order, the bias due to the number of images."""
        return float(self.replicates.double().mean()) - self.value

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval."""
        replicates = self.replicates.double()
        if len(replicates) < MIN_REPLICATES_FOR_QUANTILES:
            below = above = STUDENT_T_QUANTILE * self.stderr
        else:
            levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
            low, high = torch.quantile(replicates, levels).tolist()
            below, above = high - float(replicates.mean()), float(replicates.mean()) - low
        return max(self.limits[0], self.value - below), min(self.limits[1], self.value + above)

    @classmethod
    def from_values(cls, values: Tensor, low: float = -math.inf, high: float = math.inf) -> BootstrapEstimate:
        """Return the estimate from ``values [R + 1]`` under the weights of :func:`with_full_sample`."""
        return cls(float(values[0]), values[1:], (low, high))


def check_replicates(replicates: int) -> None:
    """Raise ConfigError if there are too few replicates for a standard error."""
    if replicates < MIN_REPLICATES:
        expected = f"{MIN_REPLICATES} or more"
        raise ConfigError("The bootstrap has too few replicates.", given=replicates, expected=expected)


def half_subsamples(m: int, replicates: int, seed: int) -> Tensor:
    """Return random halves of ``m`` images as weights 0 or 1, float64 ``[R, m]``; every row sums to m // 2."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(replicates, m, generator=generator, dtype=torch.float32).argsort(1)
    return (order < m // 2).double()


def with_full_sample(halves: Tensor) -> Tensor:
    """Prepend weights of 1 for all images to the halves ``[R, m]``: ``[R + 1, m]``."""
    return torch.cat([torch.ones_like(halves[:1]), halves])
