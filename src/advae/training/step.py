"""One step of training: every player's gradient and update, for all methods alike.

Nothing here waits for the device: no Python decision depends on a tensor's value, diagnostics are summed on
the device, and a loss or gradient that is not finite raises a flag there that stops the updates at once and is
read by the loop when it next reads anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from advae.errors import NotFiniteError
from advae.methods import Method
from advae.model import LatentModel
from advae.training.gradients import Eager, Take, Taken, accumulated
from advae.training.options import TrainOptions
from advae.training.players import Average, make_players, rate_share
from advae.training.processes import averaged

Draw = Callable[[int], Tensor]
"""``draw(i)``: the step's i-th batch of observations."""


class Guard:
    """Finds terms that are not finite, on the device: updates that read ``halt`` are then left out.

    Args:
        device: where.
        skip: how many moves may be left out; the next one is remembered in ``found``, and all updates end.
    """

    def __init__(self, device: torch.device, skip: int = 0) -> None:
        self.found, self.halt = torch.zeros((), device=device), torch.zeros((), device=device)
        self._left = torch.full((), float(skip), device=device)
        self._where = torch.zeros(3, dtype=torch.long, device=device)
        self._names: list[tuple[str, ...]] = []  # every list of terms seen: a critic's own move has fewer

    def look(self, step: int | Tensor, names: tuple[str, ...], values: Tensor) -> None:
        """Check ``values [n]``, called ``names``, of ``step``, a number here or on the device."""
        bad = ~torch.isfinite(values)
        if values.device.type == "cpu" and not bad.any():
            self.halt.copy_(self.found)
            return
        self._left.sub_(bad.any().to(self._left.dtype))
        last = bad.any() & (self._left < 0)
        fresh = last & (self.found == 0)
        if names not in self._names:
            self._names.append(names)
        number = step if isinstance(step, Tensor) else torch.full_like(self._where[0], step)
        which = torch.full_like(number, self._names.index(names))
        place = torch.stack([number, which, bad.to(torch.long).argmax()])
        self._where.copy_(torch.where(fresh, place, self._where))
        self.found.copy_(torch.maximum(self.found, last.to(self.found.dtype)))
        self.halt.copy_(torch.maximum(self.found, bad.any().to(self.halt.dtype)))

    def raise_if_found(self) -> None:
        """Stop training if a term was not finite. This reads from the device.

        Raises:
            NotFiniteError: naming term, player and step.
        """
        if not self.found.item():
            return
        step, which, index = self._where.tolist()
        player, _, term = self._names[which][index].partition(":")
        raise NotFiniteError(
            f"training stopped: {term} of player {player!r} is not finite at step {step}",
            expected="finite numbers; no weight was moved by it",
            remedy="the last checkpoint stands: lower train.rate or train.critic_rate, set train.clip, raise a minimal"
            " scale, or let train.skip such steps be left out, and go on with --resume",
        )


class Step:
    """What one step does to a model, its critics, their optimisers and the average.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics.
        method: whose losses to minimise.
        options: rates and the rest.
    """

    def __init__(self, fabric: Fabric, model: LatentModel, method: Method, options: TrainOptions) -> None:
        self.fabric, self.model, self.method, self.options = fabric, model, method, options
        self.guard = Guard(fabric.device, options.skip)
        self.players = make_players(model, method, options, self.guard.halt)
        self.average = Average(model, options.ema)
        self.take: Take = Eager(fabric, model, method, self.players)
        self._terms: dict[tuple[str, ...], tuple[str, ...]] = {}  # what each kind of move records
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: Counter[tuple[str, ...]] = Counter()

    @property
    def batches(self) -> int:
        """How many batches a step draws."""
        return len(self.moves)

    @property
    def moves(self) -> list[tuple[str, ...]]:
        """The players of each move of a step, in order; each has a batch of its own."""
        extra = self.method.critic_steps if self.method.adversaries else 0
        if self.method.order == "alternating":
            return [self.method.adversaries] * extra + [("model",)]
        return [self.method.adversaries] * (extra - 1) + [tuple(self.method.players)]

    def __call__(self, step: int, draw: Draw) -> None:
        """Step number ``step``, counted from 0."""
        self.begin(step)
        self.run(step, self.method.kl_weight(step), draw)
        self.count()

    def begin(self, step: int) -> None:
        """What a step reads of its number, put where it reads it: rates, and the weight of the average."""
        for player in self.players.values():
            player.set_rate(rate_share(self.options, step))
        self.average.set_share(step)

    def run(self, step: int | Tensor, kl_weight: float | Tensor, draw: Draw) -> None:
        """All that happens on the device, the same for every step: what a CUDA graph can hold."""
        for i, names in enumerate(self.moves):
            self._move(step, kl_weight, draw(i), names)
        self.average.move()

    def count(self) -> None:
        """Note on the host that a step's metrics were added."""
        for names in self.moves:
            self._counts[names] += 1

    def _move(self, step: int | Tensor, kl_weight: float | Tensor, x: Tensor, names: tuple[str, ...]) -> None:
        """Gradients of the named players at one batch, all taken before any of them moves."""
        taken = self._gradients(x, names, kl_weight)
        norms = taken.norms or {name: self.players[name].gradient_norm() for name in names}
        self._record(step, names, taken.terms | {f"{name}:gradient": norm for name, norm in norms.items()})
        for name in names:
            self.players[name].update(norms[name])

    def _gradients(self, x: Tensor, names: Sequence[str], kl_weight: float | Tensor) -> Taken:
        """Gradients at the whole batch: of its parts one after another, and of all processes."""
        parameters = [p for name in names for p in self.players[name].parameters]
        if self.options.accumulate == 1:
            taken = self.take(x, names, kl_weight)
        else:
            taken = accumulated(self.take, x.chunk(self.options.accumulate), names, kl_weight, parameters)
        return taken if self.fabric.world_size == 1 else averaged(self.fabric, taken, parameters)

    @torch.no_grad()
    def _record(self, step: int | Tensor, move: tuple[str, ...], terms: dict[str, Tensor]) -> None:
        names, values = tuple(terms), torch.stack(list(terms.values()))
        self.guard.look(step, names, values)
        if self.fabric.device.type == "cpu":  # reading costs nothing here, and the step itself is named
            self.guard.raise_if_found()
        if move not in self._sums:
            self._terms[move], self._sums[move] = names, torch.zeros_like(values)
        values = torch.where(self.guard.halt > 0, 0.0, values)  # what was left out is no part of the means
        self._sums[move] += values  # in place: a captured step adds to the same numbers

    def read_metrics(self) -> dict[str, float]:
        """Means since the last reading, by slash-named key. This reads from the device."""
        sums: dict[str, float] = {}
        counts: Counter[str] = Counter()
        for move, total in self._sums.items():
            for term, value in zip(map(_metric, self._terms[move]), total.tolist(), strict=True):
                sums[term] = sums.get(term, 0.0) + value
                counts[term] += self._counts[move]  # a step may move a player more than once
            total.zero_()
        self._counts.clear()
        return {term: value / counts[term] for term, value in sums.items() if counts[term]}


def _metric(term: str) -> str:
    """The name under which a term is logged: ``loss/model``, but ``kl``, which only one player has."""
    player, _, name = term.partition(":")
    return f"{name}/{player}" if name in ("loss", "gradient") else name
