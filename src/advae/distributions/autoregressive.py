"""Autoregressive distributions over images (van den Oord, Kalchbrenner, Kavukcuoglu 2016).

    log p(x) = Σ_i log p(x_i | x_<i),      pixels in raster order; within a pixel its channels, each given those before

One pass of the network returns the parameters of every pixel, given those before it, and so evaluates a whole image.
Sampling takes one step per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Size, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from advae.distributions.base import HEADS, Distribution, Head, at_least_float32
from advae.errors import ConfigError, UnsupportedError


class FullSampler:
    """Sampling state that runs the whole network again for every pixel: the reference for faster samplers.

    The network maps images ``[n, C, H, W]``, whose initial values do not matter, to parameters ``[n, k, C, H, W]``.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], image: Tensor) -> None:
        self.network, self.image = network, image

    def pixel_params(self, row: int, column: int) -> Tensor:
        """Return the network's output for this pixel, ``[n, k, C]``."""
        return self.network(self.image)[..., row, column]

    def set_pixel(self, row: int, column: int, pixel: Tensor) -> None:
        """Set the pixel ``[n, C]``."""
        self.image[:, :, row, column] = pixel


class Autoregressive(Distribution):
    """``p(x) = Π_i p(x_i | x_<i)``, the same for every element of the batch.

    Samples are discrete, so there is no mean and no reparameterized sample; a critic that takes such a log probability
    as a known term cannot be differentiated in x.

    Args:
        network: an autoregressive network of the values that :meth:`to_network` returns.
        like: any tensor ``[B, …]``, for its batch size, device and dtype.
        detached: use constant weights.
    """

    num_uniforms: int
    """How many uniform random numbers a pixel needs."""

    def __init__(
        self, network: nn.Module, like: Tensor, event_shape: Sequence[int], detached: bool = False
    ) -> None:
        self.network, self.like, self.detached = network, like, detached
        self.batch_shape, self.event_shape = Size(like.shape[:1]), Size(event_shape)

    def to_network(self, value: Tensor) -> Tensor:
        """Map observations to the network's input: numbers from −1 to 1, ``[N, C, H, W]``."""
        raise NotImplementedError

    def from_network(self, inputs: Tensor) -> Tensor:
        """Map the network's input back to observations ``[N, C, H, W]``."""
        raise NotImplementedError

    def pixel_log_prob(self, raw: Tensor, inputs: Tensor) -> Tensor:
        """Return ``log p(x_i | x_<i)`` in nats, ``[N, H, W]``, for the network's output ``[N, k, C, H, W]``."""
        raise NotImplementedError

    def sample_pixel(self, raw: Tensor, uniform: Tensor) -> Tensor:
        """Return a pixel of the network's input, ``[N, C]``, from its output ``[N, k, C]`` and uniforms in [0, 1)."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability in nats, ``[..., B]``, by one pass of the network."""
        inputs = self.to_network(value.flatten(0, -4))
        log_p = self.pixel_log_prob(at_least_float32(self._run_network(inputs)), inputs)
        return log_p.flatten(1).sum(1).reshape(value.shape[:-3])

    def sample(self, sample_shape: Sequence[int] = (), *, cached: bool = True) -> Tensor:
        """Return samples ``[*sample_shape, B, C, H, W]``, made pixel by pixel.

        Args:
            sample_shape: how many for each element of the batch.
            cached: compute only what a pixel changes, if the network can; otherwise run all of it for every pixel. The
                same random numbers give the same samples, except where rounding crosses the edge of a level.
        """
        with torch.no_grad():
            n, (_, height, width) = Size([*sample_shape, *self.batch_shape]).numel(), self.event_shape
            uniform = self.like.new_empty(n, self.num_uniforms, height, width).uniform_()  # in [0, 1)
            sampler = self._make_sampler(n, cached)
            for row in range(height):
                for column in range(width):
                    raw = at_least_float32(sampler.pixel_params(row, column))
                    sampler.set_pixel(row, column, self.sample_pixel(raw, uniform[:, :, row, column]))
            images = self.from_network(sampler.image)
            return images.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def has_sample_log_prob(self) -> bool:
        return False

    def point_estimate(self) -> Tensor:
        """Return a sample, as there is no mean."""
        return self.sample()

    def detach(self) -> Autoregressive:
        return self._copy(detached=True)

    def rsample(self, sample_shape: Sequence[int] = ()) -> NoReturn:
        """Raise an :class:`UnsupportedError`: samples are discrete. So do mean, moments and :meth:`as_density`."""
        self._raise_unsupported("reparameterized samples")

    @property
    def mean(self) -> Tensor:
        self._raise_unsupported("mean in closed form")

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        self._raise_unsupported("moments in closed form")

    def as_density(self) -> Distribution:
        self._raise_unsupported("density in place of its probabilities")

    def _raise_unsupported(self, feature: str) -> NoReturn:
        raise UnsupportedError(
            f"An autoregressive distribution has no {feature}.",
            given=type(self).__name__,
            fix="train it by maximum likelihood (mle), and use sample()",
        )

    def _copy(self, detached: bool) -> Autoregressive:
        return type(self)(self.network, self.like, self.event_shape, detached)

    def _run_network(self, inputs: Tensor) -> Tensor:
        if not self.detached:
            return self.network(inputs)
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        return functional_call(self.network, weights, (inputs,))

    def _make_sampler(self, n: int, cached: bool) -> Any:
        make_sampler = getattr(self.network, "make_sampler", None)
        if cached and make_sampler:
            return make_sampler(n, self.like)
        return FullSampler(self.network, self.like.new_zeros(n, *self.event_shape))


def condition_on_channels(base: Tensor, weights: Tensor, inputs: Tensor) -> Tensor:
    """Return ``b_c + Σ_{j<c} w_cj x_j`` for every channel c (Salimans, Karpathy, Chen and Kingma 2017, (3)).

    Args:
        base: ``b [N, C, …]``.
        weights: ``w [N, C (C − 1)/2, …]``: of channel 1 for 0, of 2 for 0 and 1, and so on.
        inputs: ``x [N, C, …]``, broadcast to ``b``.
    """
    channels, start = [base[:, 0]], 0
    for c in range(1, base.shape[1]):
        channels.append(base[:, c] + (weights[:, start : start + c] * inputs[:, :c]).sum(1))
        start += c
    return torch.stack(channels, 1)


def num_channel_pairs(channels: int) -> int:
    """Return the number of pairs of channels, C (C − 1)/2."""
    return channels * (channels - 1) // 2


class AutoregressiveHead(Head):
    """Images ``(C, H, W)`` whose pixels depend on those before, by an autoregressive network."""

    distribution: ClassVar[type[Autoregressive]]

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 3:
            raise ConfigError(
                f"The likelihood {self.name!r} needs images.",
                given=f"data of shape {tuple(event_shape)}",
                expected="[C, H, W]",
                fix="choose another likelihood ('bernoulli', 'normal')",
            )

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        """Return the distribution of images, one for each of ``inputs [B, 0]``."""
        if not (isinstance(network, nn.Module) and getattr(network, "autoregressive", False)):
            raise ConfigError(
                f"The likelihood {self.name!r} needs an autoregressive network.",
                given=type(network).__name__,
                fix="set model.decoder to pixelcnn, or choose another likelihood ('bernoulli', 'normal')",
            )
        return self.make_distribution(network, inputs)

    def make_distribution(self, network: nn.Module, inputs: Tensor) -> Autoregressive:
        """Return the distribution of an autoregressive network."""
        return self.distribution(network, inputs, self.event_shape)


class AutoregressiveBernoulli(Autoregressive):
    """Binary images, of 0 and 1, not probabilities (van den Oord, Kalchbrenner, Kavukcuoglu 2016).

    ``p(x_c = 1 | ·) = σ(l_c + Σ_{j<c} w_cj (2 x_j − 1))``, with l and w from the network's output for the pixel.
    """

    @property
    def num_uniforms(self) -> int:  # type: ignore[override]
        return self.event_shape[0]

    def to_network(self, value: Tensor) -> Tensor:
        return 2 * value - 1

    def from_network(self, inputs: Tensor) -> Tensor:
        return (inputs + 1) / 2

    def logits(self, raw: Tensor, inputs: Tensor) -> Tensor:
        """Return the logit of each channel given those before, ``[N, C, …]``."""
        c = self.event_shape[0]
        flat = raw.flatten(1, 2)
        return condition_on_channels(flat[:, :c], flat[:, c : c + num_channel_pairs(c)], inputs)

    def pixel_log_prob(self, raw: Tensor, inputs: Tensor) -> Tensor:
        logits = self.logits(raw, inputs)
        return (self.from_network(inputs) * logits - softplus(logits)).sum(1)

    def sample_pixel(self, raw: Tensor, uniform: Tensor) -> Tensor:
        pixel = torch.zeros_like(uniform)
        for c in range(pixel.shape[1]):
            is_one = uniform[:, c] < torch.sigmoid(self.logits(raw, pixel)[:, c])
            pixel[:, c] = 2 * is_one.to(pixel.dtype) - 1
        return pixel


@HEADS.register("autoregressive-bernoulli")
class AutoregressiveBernoulliHead(AutoregressiveHead):
    """Binary pixels, each given those before it."""

    support = "binary"
    distribution = AutoregressiveBernoulli

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        channels = self.event_shape[0]
        self.num_params = math.ceil((channels + num_channel_pairs(channels)) / channels)
