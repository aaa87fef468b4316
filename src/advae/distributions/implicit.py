"""Implicit distributions: a network of its input and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor

from advae.distributions.base import HEADS, Distribution, Head, ImplicitDistribution, at_least_float32
from advae.distributions.normal import Normal, batched_normal
from advae.errors import NoDensityError


class ImplicitSampler(ImplicitDistribution):
    """A distribution given by a function that returns ``n`` samples for every element of the batch, ``[n, B, *event]``.

    ``moment_samples`` is how many samples :meth:`moments` and :attr:`mean` use. ``noise_fn`` is the sample
    ``[..., B, *event]`` as a function of standard normal noise ``[..., B, noise_dim]``, where it is known.
    """

    def __init__(
        self,
        sample_fn: Callable[[int], Tensor],
        batch_size: int,
        event_shape: Sequence[int],
        moment_samples: int = 64,
        noise_fn: Callable[[Tensor], Tensor] | None = None,
        noise_dim: int = 0,
    ) -> None:
        self.sample_fn, self.moment_samples = sample_fn, moment_samples
        self.noise_fn, self.noise_dim = noise_fn, noise_dim
        self.batch_shape, self.event_shape = Size([batch_size]), Size(event_shape)

    def given_noise(self, noise: Tensor) -> Normal:
        """Return a normal of scale 0: samples are a function of the noise."""
        if self.noise_fn is None:
            raise NoDensityError("Samples of the implicit distribution are not known as a function of noise.")
        mean = self.noise_fn(noise).flatten(-len(self.event_shape))
        return batched_normal(mean, torch.tensor(-torch.inf, device=mean.device))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        values = self.sample_fn(Size(sample_shape).numel())
        return values.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """The mean of ``moment_samples`` samples."""
        return self.sample_fn(self.moment_samples).mean(0)

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Return moments of ``moment_samples`` samples; for a full covariance of ``d > 1``, of at least ``4 d``.

        With fewer samples than dimensions the covariance would be singular. Four times as many keep its eigenvalues
        within a factor of about two of the true ones.
        """
        count = max(self.moment_samples, 4 * self.event_shape.numel() if full else 2)
        values = at_least_float32(self.sample_fn(count))
        mean = values.mean(0)
        centered = values - mean
        if not full:
            return mean, centered.square().sum(0) / (count - 1)
        with torch.autocast(values.device.type, enabled=False):
            return mean, torch.einsum("nbk,nbl->bkl", centered, centered) / (count - 1)


class MonteCarloMoments(Distribution):
    """A distribution whose moments have no closed form and are estimated from new samples each time."""

    moment_samples: int
    """How many samples :meth:`moments` and :attr:`mean` use, as in :class:`ImplicitSampler`."""

    @property
    def mean(self) -> Tensor:
        return self._sampler().mean

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        return self._sampler().moments(full)

    def _sampler(self) -> ImplicitSampler:
        batch_size = self.batch_shape.numel()
        return ImplicitSampler(
            lambda n: self.rsample((n,)), batch_size, self.event_shape, self.moment_samples
        )


@HEADS.register("implicit")
class ImplicitHead(Head):
    """The network's output itself, with noise as a second input of the network.

    Without noise it is a deterministic function of the input, such as the generator of a GAN.

    Args:
        noise_dim: length of the standard normal noise per input; 0 for none.
        moment_samples: samples from which moments are estimated where a method needs them.
        squash: "sigmoid" maps the output to (0, 1), the range of pixels.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        noise_dim: int = 64,
        moment_samples: int = 64,
        squash: Literal["none", "sigmoid"] = "none",
    ) -> None:
        super().__init__(event_shape)
        self.noise_dim, self.moment_samples, self.squash = noise_dim, moment_samples, squash
        if squash == "sigmoid":
            self.support = "interval"

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        batch_size = inputs.shape[0]
        noise_dtype = torch.promote_types(inputs.dtype, torch.float32)

        def noise_fn(noise: Tensor) -> Tensor:
            n = noise.shape[:-2].numel()
            repeated = inputs if n == 1 else inputs.repeat(n, *([1] * (inputs.dim() - 1)))
            values = to_event(network(repeated, noise.reshape(-1, self.noise_dim)))
            return values.reshape(*noise.shape[:-1], *self.event_shape)

        def sample_fn(n: int) -> Tensor:
            if not self.noise_dim:  # all samples are equal
                return to_event(network(inputs)).expand(n, batch_size, *self.event_shape)
            noise = torch.randn(n * batch_size, self.noise_dim, device=inputs.device, dtype=noise_dtype)
            return noise_fn(noise.reshape(n, batch_size, self.noise_dim))

        def to_event(raw: Tensor) -> Tensor:
            values = at_least_float32(raw[:, 0])
            return torch.sigmoid(values) if self.squash == "sigmoid" else values

        return ImplicitSampler(
            sample_fn, batch_size, self.event_shape, self.moment_samples, noise_fn, self.noise_dim
        )
