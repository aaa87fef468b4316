"""What distributions over images share that take a pixel at a time (van den Oord, Kalchbrenner, Kavukcuoglu 2016).

    log p(x) = Σ_i log p(x_i | x_<i),      pixels in raster order; within a pixel its channels, each given those before

One pass of a network gives for every pixel what it makes of those before it, and so scores a whole image; a draw takes
it a pixel at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Size, Tensor, nn
from torch.func import functional_call

from advae.distributions.base import Distribution, Head, wide
from advae.errors import ConfigError, UnsupportedError


class Whole:
    """Images under way, with the whole network run again for every pixel: the reference for faster ways.

    Args:
        network: images ``[n, C, H, W]`` to numbers ``[n, k, C, H, W]``.
        image: what to start from ``[n, C, H, W]``; no value in it matters.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], image: Tensor) -> None:
        self.network, self.image = network, image

    def raw(self, row: int, column: int) -> Tensor:
        """The network's numbers for this pixel, ``[n, k, C]``."""
        return self.network(self.image)[..., row, column]

    def put(self, row: int, column: int, pixel: Tensor) -> None:
        """Set the pixel ``[n, C]``."""
        self.image[:, :, row, column] = pixel


class Autoregressive(Distribution):
    """``p(x) = Π_i p(x_i | x_<i)``, the same for every element of the batch.

    Levels have no mean to be shown and no draw that gradients flow through; a critic that takes such a density for a
    known term has nothing to differentiate.

    Args:
        network: ``autoregressive``, from what :meth:`shown` gives.
        like: any tensor ``[B, …]``: its batch, device and precision.
        event_shape: ``(C, H, W)``.
        constant: score with constant weights.
    """

    uniforms: int
    """How many uniform numbers the draw of a pixel takes."""

    def __init__(
        self, network: nn.Module, like: Tensor, event_shape: Sequence[int], constant: bool = False
    ) -> None:
        self.network, self.like, self.constant = network, like, constant
        self.batch_shape, self.event_shape = Size(like.shape[:1]), Size(event_shape)

    def shown(self, value: Tensor) -> Tensor:
        """What the network is shown of observations: numbers from −1 to 1, ``[N, C, H, W]``."""
        raise NotImplementedError

    def observed(self, shown: Tensor) -> Tensor:
        """The observations ``[N, C, H, W]`` that are shown so."""
        raise NotImplementedError

    def score(self, raw: Tensor, shown: Tensor) -> Tensor:
        """``log p(x_i | x_<i)`` in nats, ``[N, H, W]``, of numbers ``[N, k, C, H, W]``."""
        raise NotImplementedError

    def draw(self, raw: Tensor, uniform: Tensor) -> Tensor:
        """A pixel, as it is shown, ``[N, C]``, of numbers ``[N, k, C]`` and ``[N, uniforms]`` of them in [0, 1)."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability in nats, ``[..., B]``, by one pass of the network."""
        shown = self.shown(value.flatten(0, -4))
        return self.score(wide(self._numbers(shown)), shown).flatten(1).sum(1).reshape(value.shape[:-3])

    def sample(self, sample_shape: Sequence[int] = (), *, cached: bool = True) -> Tensor:
        """Draws ``[*sample_shape, B, C, H, W]``, pixel by pixel.

        Args:
            sample_shape: how many for each element of the batch.
            cached: compute only what a pixel changes, where the network can; else run it whole for every pixel. The
                same random numbers give the same draws, but for rounding that falls on the edge of a level.
        """
        with torch.no_grad():
            n, (_, height, width) = Size([*sample_shape, *self.batch_shape]).numel(), self.event_shape
            uniform = self.like.new_empty(n, self.uniforms, height, width).uniform_()  # in [0, 1)
            images = self._under_way(n, cached)
            for row in range(height):
                for column in range(width):
                    raw = wide(images.raw(row, column))
                    images.put(row, column, self.draw(raw, uniform[:, :, row, column]))
            return self.observed(images.image).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    @property
    def scores_draws(self) -> bool:
        return False

    def representative(self) -> Tensor:
        """A draw: nothing else stands for it."""
        return self.sample()

    def fixed(self) -> Autoregressive:
        return self._like_this(constant=True)

    def rsample(self, sample_shape: Sequence[int] = ()) -> NoReturn:
        """There is none.

        Raises:
            UnsupportedError: always; so do the mean, the moments and :meth:`density`.
        """
        self._refuse("no draw that gradients flow through")

    @property
    def mean(self) -> Tensor:
        self._refuse("no mean but that of many draws")

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        self._refuse("no moments but those of many draws")

    def density(self) -> Distribution:
        self._refuse("no density in place of probabilities")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"an autoregressive distribution of pixels has {what}",
            given=type(self).__name__,
            remedy="train it by maximum likelihood (mle), and use draws: sample()",
        )

    def _like_this(self, constant: bool) -> Autoregressive:
        return type(self)(self.network, self.like, self.event_shape, constant)

    def _numbers(self, shown: Tensor) -> Tensor:
        if not self.constant:
            return self.network(shown)
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        return functional_call(self.network, weights, (shown,))

    def _under_way(self, n: int, cached: bool) -> Any:
        generation = getattr(self.network, "generation", None)
        if cached and generation:
            return generation(n, self.like)
        return Whole(self.network, self.like.new_zeros(n, *self.event_shape))


def with_channels_before(base: Tensor, weights: Tensor, shown: Tensor) -> Tensor:
    """``b_c + Σ_{j<c} w_cj x_j`` for every channel c of a pixel (Salimans, Karpathy, Chen and Kingma 2017, (3)).

    Args:
        base: ``b [N, C, …]``.
        weights: ``w [N, C (C − 1)/2, …]``: of channel 1 for 0, of 2 for 0 and 1, and so on.
        shown: ``x [N, C, …]``, broadcast to ``b``.
    """
    found, first = [base[:, 0]], 0
    for c in range(1, base.shape[1]):
        found.append(base[:, c] + (weights[:, first : first + c] * shown[:, :c]).sum(1))
        first += c
    return torch.stack(found, 1)


def pairs(channels: int) -> int:
    """How many pairs of channels there are."""
    return channels * (channels - 1) // 2


class AutoregressiveHead(Head):
    """Images whose pixels depend on those before, by a network made for that.

    Args:
        event_shape: ``(C, H, W)``.

    Raises:
        ConfigError: the observations are no images.
    """

    distribution: ClassVar[type[Autoregressive]]

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 3:
            raise ConfigError(
                f"the likelihood {self.name!r} is one of images",
                given=f"data of shape {tuple(event_shape)}",
                expected="[C, H, W]",
                remedy="choose another likelihood ('bernoulli', 'normal')",
            )

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        """The distribution of images, one for each of ``inputs [B, 0]``.

        Raises:
            ConfigError: the network lets a pixel see itself.
        """
        if not (isinstance(network, nn.Module) and getattr(network, "autoregressive", False)):
            raise ConfigError(
                f"the likelihood {self.name!r} needs a network in which no pixel sees itself or a later one",
                given=type(network).__name__,
                remedy="set model.decoder to pixelcnn, or choose another likelihood ('bernoulli', 'normal')",
            )
        return self.made(network, inputs)

    def made(self, network: nn.Module, inputs: Tensor) -> Autoregressive:
        """The distribution by a network of the right kind."""
        return self.distribution(network, inputs, self.event_shape)
