"""One step of training: every player's gradient and update, for all methods alike.

Nothing here waits for the device: no Python decision depends on a tensor's value, diagnostics are summed on
the device, and a loss or gradient that is not finite raises a flag there that stops the updates at once and is
read by the loop when it next reads anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_fabric import Fabric
from torch import Tensor

from advae.methods import Method
from advae.model import LatentModel
from advae.training.distributed import averaged
from advae.training.gradients import Eager, Take, Taken, accumulated
from advae.training.metric_accumulator import Terms
from advae.training.optimizers import Average, make_players, rate_share
from advae.training.train_options import TrainOptions

Draw = Callable[[int], Tensor]
"""``draw(i)``: the step's i-th batch of observations."""


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
        self.terms = Terms(fabric.device, options.max_skipped_steps)
        self.players = make_players(model, method, options, self.terms.halt)
        self.average = Average(model, options.ema_decay)
        self.take: Take = Eager(fabric, model, method, self.players)
        self._begun = 0

    @property
    def batches(self) -> int:
        """How many batches a step draws."""
        return len(self.moves)

    @property
    def moves(self) -> list[tuple[str, ...]]:
        """The players of each move of a step, in order; each has a batch of its own."""
        extra = self.method.critic_steps if self.method.adversaries else 0
        if self.method.update_order == "alternating":
            return [self.method.adversaries] * extra + [("model",)]
        return [self.method.adversaries] * (extra - 1) + [tuple(self.method.players)]

    def __call__(self, step: int, draw: Draw) -> None:
        """Step number ``step``, counted from 0."""
        self.begin(step)
        self.run(self.method.kl_weight(step), draw)
        self.count()

    def begin(self, step: int) -> None:
        """What a step reads of its number, put where it reads it: rates, and the weight of the average."""
        self._begun = step
        for player in self.players.values():
            player.set_rate(rate_share(self.options, step))
        self.average.set_share(step)

    def run(self, kl_weight: float | Tensor, draw: Draw) -> None:
        """All that happens on the device, the same for every step: what a CUDA graph can hold."""
        for i, names in enumerate(self.moves):
            self._move(kl_weight, draw(i), names)
        self.average.move()

    def count(self) -> None:
        """Note on the host that a step's metrics were added."""
        for names in self.moves:
            self.terms.count(names)

    def _move(self, kl_weight: float | Tensor, x: Tensor, names: tuple[str, ...]) -> None:
        """Gradients of the named players at one batch, all taken before any of them moves."""
        taken = self._gradients(x, names, kl_weight)
        norms = taken.norms or {name: self.players[name].gradient_norm() for name in names}
        self.terms.add(names, taken.terms | {f"{name}:gradient": norm for name, norm in norms.items()})
        if self.fabric.device.type == "cpu":  # reading costs nothing here, and the step itself is stopped
            self.raise_if_not_finite()
        for name in names:
            self.players[name].update(norms[name])

    def _gradients(self, x: Tensor, names: Sequence[str], kl_weight: float | Tensor) -> Taken:
        """Gradients at the whole batch: of its parts one after another, and of all processes."""
        parameters = [p for name in names for p in self.players[name].parameters]
        if self.options.accumulation_steps == 1:
            taken = self.take(x, names, kl_weight)
        else:
            taken = accumulated(self.take, x.chunk(self.options.accumulation_steps), names, kl_weight, parameters)
        return taken if self.fabric.world_size == 1 else averaged(self.fabric, taken, parameters)

    def raise_if_not_finite(self) -> None:
        """Stop training if a term was not finite. This reads from the device.

        Raises:
            NotFiniteError: naming term, player and step.
        """
        self.terms.raise_if_over(self._begun, len(self.moves))

    def read_metrics(self) -> dict[str, float]:
        """Means since the last reading, by slash-named key. This reads from the device."""
        return self.terms.means()
