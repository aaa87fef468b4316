"""The bootstrap over images: what a figure would have been, had other images been drawn.

A replicate is the figure of a random half of the images, drawn without replacement (the m out of n bootstrap without
replacement: Bickel, Götze and van Zwet 1997). For a mean, halves spread about their mean exactly as means of all m
images spread about the truth: their variance is ``S²/h − S²/m``, which is ``S²/m`` at h = m/2. The ordinary bootstrap
draws images twice, and an image beside its copy is what these metrics cannot bear: it is its own nearest neighbour, and
180 images of which 66 are copies have the covariance of 114.

Many figures depend on the number of images, so halves lie above or below the whole. That is no noise: the standard
error and the interval are made of the halves' deviations *from their own mean*, the interval's reflected at the figure
(the basic, or pivotal, interval). It is one for what the figure is on average with this number of images, which is what
figures of as many images are to be compared by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import ConfigError

FEWEST = 20  # replicates: below, a standard error is itself known to worse than 16 %
QUANTILES = 40  # replicates from which on the 2.5 % points lie inside the sample
STUDENT = 2.1  # the 97.5 % point of Student's t with 19 degrees of freedom, for an interval from fewer


@dataclass(frozen=True)
class Figure:
    """A figure and what it was under the bootstrap.

    Attributes:
        value: the figure.
        replicates: ``[R]``.
        range: the least and the greatest value that it can have.
    """

    value: float
    replicates: Tensor
    range: tuple[float, float] = (-math.inf, math.inf)

    @property
    def stderr(self) -> float:
        """The standard deviation of the replicates."""
        return float(self.replicates.double().std())

    @property
    def excess(self) -> float:
        """How far the halves lie above the whole: to first order, the bias that the number of images gives it."""
        return float(self.replicates.double().mean()) - self.value

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval."""
        r = self.replicates.double()
        if len(r) < QUANTILES:
            below = above = STUDENT * self.stderr
        else:
            low, high = torch.quantile(r, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            below, above = high - float(r.mean()), float(r.mean()) - low
        return max(self.range[0], self.value - below), min(self.range[1], self.value + above)


def check_replicates(replicates: int) -> None:
    """Raise ConfigError if there are too few for a standard error."""
    if replicates < FEWEST:
        raise ConfigError(
            "the bootstrap has too few replicates", given=replicates, expected=f"{FEWEST} or more"
        )


def halves(m: int, replicates: int, seed: int) -> Tensor:
    """Random halves of ``m`` images, 1 where an image is in, float64 ``[R, m]``; every row sums to m // 2."""
    order = torch.rand(replicates, m, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return (order < m // 2).double()


def with_whole(drawn: Tensor) -> Tensor:
    """All images, above the halves ``[R, m]``: ``[R + 1, m]``."""
    return torch.cat([torch.ones_like(drawn[:1]), drawn])


def figure(values: Tensor, low: float = -math.inf, high: float = math.inf) -> Figure:
    """The figure from its ``values [R + 1]`` under :func:`with_whole`."""
    return Figure(float(values[0]), values[1:], (low, high))
