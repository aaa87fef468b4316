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
from advae.methods import Losses, Method
from advae.model import LatentModel
from advae.training.options import TrainOptions
from advae.training.players import Average, make_players, rate_share

Draw = Callable[[int], Tensor]
"""``draw(i)``: the step's i-th batch of observations."""


class Guard:
    """Finds the first term that is not finite and remembers it, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self._where = torch.zeros(3, dtype=torch.long, device=device)
        self._names: list[list[str]] = []  # every list of terms seen: a critic's own move has fewer

    def look(self, step: int, names: list[str], values: Tensor) -> None:
        """Check ``values [n]``, called ``names``, of ``step``."""
        bad = ~torch.isfinite(values)
        fresh = bad.any() & (self.found == 0)
        if names not in self._names:
            self._names.append(names)
        here = [torch.full_like(self._where[0], number) for number in (step, self._names.index(names))]
        place = torch.stack([*here, bad.to(torch.long).argmax()])
        self._where.copy_(torch.where(fresh, place, self._where))
        self.found.copy_(torch.maximum(self.found, bad.any().to(self.found.dtype)))

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
            remedy="the last checkpoint stands: lower train.rate or train.critic_rate, set train.clip, or raise a"
            " minimal scale, and go on with --resume",
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
        self.guard = Guard(fabric.device)
        self.players = make_players(model, method, options, self.guard.found)
        self.average = Average(model, options.ema)
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    @property
    def batches(self) -> int:
        """How many batches a step draws."""
        extra = self.method.critic_steps if self.method.adversaries else 0
        return extra + 1 if self.method.order == "alternating" or not extra else extra

    def __call__(self, step: int, draw: Draw) -> None:
        """Step number ``step``, counted from 0."""
        together = self.method.order == "simultaneous"
        for i in range(self.batches - 1):
            self._move(step, draw(i), self.method.adversaries)
        last = tuple(self.method.players) if together else ("model",)
        self._move(step, draw(self.batches - 1), last)
        self.average.update(step)

    def _move(self, step: int, x: Tensor, names: Sequence[str]) -> None:
        """Gradients of the named players at one batch, all taken before any of them moves."""
        with self.fabric.autocast():
            losses = self.method.losses(self.model, x, names, self.method.kl_weight(step))
        means = {name: losses[name].mean() for name in names}
        for name in names:
            self.fabric.backward(
                means[name], inputs=self.players[name].parameters, retain_graph=name != names[-1]
            )
        norms = {name: self.players[name].gradient_norm() for name in names}
        self._record(step, losses, means, norms)
        share = rate_share(self.options, step)
        for name in names:
            self.players[name].update(share, norms[name])

    @torch.no_grad()
    def _record(self, step: int, losses: Losses, means: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
        terms = {f"{self._owner(key)}:{key}": value.float().mean() for key, value in losses.report.items()}
        terms |= {f"{name}:loss": mean.detach() for name, mean in means.items()}
        terms |= {f"{name}:gradient": norm for name, norm in norms.items()}
        values = torch.stack(list(terms.values()))
        self.guard.look(step, list(terms), values)
        if self.fabric.device.type == "cpu":  # reading costs nothing here, and the step itself is named
            self.guard.raise_if_found()
        for key, value in terms.items():
            player, _, term = key.partition(":")
            name = f"{term}/{player}" if term in ("loss", "gradient") else term
            old = self._sums.get(name)
            self._sums[name] = value if old is None else old + value
            self._counts[name] += 1  # a step may move a player more than once

    def read_metrics(self) -> dict[str, float]:
        """Means since the last reading, by slash-named key. This reads from the device."""
        names = list(self._sums)
        if not names:
            return {}
        sums, counts = torch.stack([self._sums[name] for name in names]).tolist(), self._counts
        self._sums, self._counts = {}, Counter()
        return {name: value / counts[name] for name, value in zip(names, sums, strict=True)}

    def _owner(self, key: str) -> str:
        """The player a diagnostic speaks of: ``critic/accuracy`` of the critic, ``kl`` of the model."""
        role = key.partition("/")[0]
        owners = [player for player, nets in self.method.players.items() if role == player or role in nets]
        return owners[0] if owners else "model"
