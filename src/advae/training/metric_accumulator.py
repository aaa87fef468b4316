"""What the moves of a step record, summed on the device, and the watch over it: a term that is not finite stops
the updates at once, though the host reads of it only later.

All of it is a few operations a move, as a captured step of small networks is little else than its operations.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from advae.errors import NotFiniteError

Move = tuple[str, ...]


class Terms:
    """Sums of scalars by move and name.

    A term that is not finite enters its sum as what it is, and from then on nothing does: that is how the first bad
    one is known afterwards. Of moves that may be left out nothing enters.

    Args:
        device: where.
        skip: how many moves may be left out; the next one ends all updates.

    Attributes:
        halt: a flag on the device; updates of a move are left out while it is not zero.
    """

    def __init__(self, device: torch.device, skip: int = 0) -> None:
        self._skip = float(skip)
        self.halt = torch.zeros((), device=device)
        self._over = torch.zeros((), device=device) if skip else self.halt  # nothing moves any more
        self._left = torch.full((), float(skip), device=device) if skip else None
        self._since = torch.zeros((), device=device)  # moves since then, with that one
        self._zero = torch.zeros((), device=device)
        self._names: dict[Move, tuple[str, ...]] = {}
        self._sums: dict[Move, Tensor] = {}
        self._counts: Counter[Move] = Counter()

    @torch.no_grad()
    def add(self, move: Move, terms: dict[str, Tensor]) -> None:
        """Add a move's terms, and raise the flag if one is not finite."""
        values = torch.stack(list(terms.values()))
        if move not in self._sums:
            self._names[move], self._sums[move] = tuple(terms), torch.zeros_like(values)
        total = values.sum()
        bad, passed_over = (total - total) != 0, self._over > 0
        if self._left is None:
            torch.maximum(self.halt, bad.to(self.halt.dtype), out=self.halt)
        else:
            self._left.sub_(bad.to(self._left.dtype))
            over = self._left < 0
            passed_over = passed_over | (bad & ~over)
            torch.maximum(self._over, over.to(self.halt.dtype), out=self._over)
            torch.maximum(self._over, bad.to(self.halt.dtype), out=self.halt)
        self._since.add_(self._over)
        self._sums[move].add_(
            torch.where(passed_over, self._zero, values)
        )  # in place: what a captured step adds to

    @property
    def left_out(self) -> Tensor:
        """How many moves were left out so far, of those that may be."""
        return torch.zeros(()) if self._left is None else self._skip - self._left

    @left_out.setter
    def left_out(self, count: Tensor) -> None:
        if self._left is not None:
            self._left.fill_(self._skip - count.item())

    def count(self, move: Move) -> None:
        """Note on the host that a move's terms were added."""
        self._counts[move] += 1

    def raise_if_over(self, step: int, moves: int) -> None:
        """Stop training if the updates have been. This reads from the device.

        Args:
            step: the last one that was begun.
            moves: of a step.

        Raises:
            NotFiniteError: naming term, player and step.
        """
        if not self._over.item():
            return
        term, player = self._first()
        number = step + 1 - math.ceil(self._since.item() / moves)
        raise NotFiniteError(
            f"training stopped: {term} of player {player!r} is not finite at step {number}",
            expected="finite numbers; no weight was moved by it",
            remedy="the last checkpoint stands: lower train.lr or train.critic_lr, set train.grad_clip, raise a minimal"
            " scale, or let train.max_skipped_steps such steps be left out, and go on with --resume",
        )

    def _first(self) -> tuple[str, str]:
        """The name of the first term that was not finite, and its player."""
        for move, total in self._sums.items():
            for name, value in zip(self._names[move], total.tolist(), strict=True):
                if not math.isfinite(value):
                    player, _, term = name.partition(":")
                    return term, player
        return "the sum of the terms", "model"  # each of them finite, but not together

    def means(self) -> dict[str, float]:
        """Means since the last reading, by slash-named key. This reads from the device."""
        sums: dict[str, float] = {}
        counts: Counter[str] = Counter()
        for move, total in self._sums.items():
            for term, value in zip(map(_metric, self._names[move]), total.tolist(), strict=True):
                sums[term] = sums.get(term, 0.0) + value
                counts[term] += self._counts[move]  # a step may move a player more than once
            total.zero_()
        self._counts.clear()
        return {term: value / counts[term] for term, value in sums.items() if counts[term]}


def _metric(term: str) -> str:
    """The name under which a term is logged: ``loss/model``, but ``kl``, which only one player has."""
    player, _, name = term.partition(":")
    return f"{name}/{player}" if name in ("loss", "gradient") else name
