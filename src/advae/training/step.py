"""One training step: gradients and updates of all players, for every method.

A step does not wait for the device. No Python decision depends on a tensor's value, and metrics are summed on the
device. A non-finite loss or gradient sets a flag there, which stops the updates at once; the host reads it when it next
reads metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_fabric import Fabric
from torch import Tensor

from advae.methods import Method
from advae.model import LatentModel
from advae.training.distributed import all_reduce_gradients
from advae.training.ema import EMA
from advae.training.gradients import EagerBackend, GradientFn, GradientOutput, accumulate_gradients
from advae.training.optimizers import compute_lr_scale, make_optimizers
from advae.training.train_options import TrainOptions
from advae.training.training_metrics import MetricAccumulator

BatchFn = Callable[[int], Tensor]
"""``get_batch(i)``: the i-th batch of the step, preprocessed."""


class TrainStep:
    """One step: the updates of a model, its critics and the moving average.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics.
        method: computes the losses.
        options: learning rates, clipping, averaging.

    Attributes:
        updates: the players that are updated together, in order; each update uses a separate batch.
        gradient_fn: computes gradients, eagerly or compiled.
    """

    def __init__(self, fabric: Fabric, model: LatentModel, method: Method, options: TrainOptions) -> None:
        self.fabric, self.model, self.method, self.options = fabric, model, method, options
        self.metrics = MetricAccumulator(fabric.device, options.max_skipped_steps)
        self.optimizers = make_optimizers(model, method, options, self.metrics.nonfinite_flag)
        self.ema = EMA(model, options.ema_decay)
        self.gradient_fn: GradientFn = EagerBackend(fabric, model, method, self.optimizers)
        self.updates = update_sequence(method)
        self._current_step = 0

    def __call__(self, step: int, get_batch: BatchFn) -> None:
        """Take step number ``step``, counted from 0."""
        self.set_step(step)
        self.run_on_device(self.method.kl_weight(step), get_batch)
        self.count_updates()

    def set_step(self, step: int) -> None:
        """Set what depends on the step's number: learning rates and the decay of the moving average."""
        self._current_step = step
        for optimizer in self.optimizers.values():
            optimizer.set_lr_scale(compute_lr_scale(self.options, step))
        self.ema.set_step(step)

    def run_on_device(self, kl_weight: float | Tensor, get_batch: BatchFn) -> None:
        """Run the part of a step that is the same for every step; a CUDA graph can capture it."""
        for i, players in enumerate(self.updates):
            self._update(players, get_batch(i), kl_weight)
        self.ema.update()

    def count_updates(self) -> None:
        """Count on the host that the metrics of a step were added."""
        for players in self.updates:
            self.metrics.count(players)

    def _update(self, players: tuple[str, ...], x: Tensor, kl_weight: float | Tensor) -> None:
        """Update the players with gradients at one batch, all of which are computed before any update."""
        output = self._gradients(x, players, kl_weight)
        norms = output.norms or {player: self.optimizers[player].gradient_norm() for player in players}
        gradient_metrics = {f"{player}:gradient": norm for player, norm in norms.items()}
        self.metrics.add(players, output.metrics | gradient_metrics)
        if self.fabric.device.type == "cpu":  # reading costs nothing on a CPU, and the step itself stops
            self.raise_if_not_finite()
        for player in players:
            self.optimizers[player].update(norms[player])

    def _gradients(self, x: Tensor, players: Sequence[str], kl_weight: float | Tensor) -> GradientOutput:
        """Compute gradients at the whole batch, over all chunks and processes."""
        parameters = [p for player in players for p in self.optimizers[player].parameters]
        num_chunks = self.options.accumulation_steps
        if num_chunks == 1:
            output = self.gradient_fn(x, players, kl_weight)
        else:
            output = accumulate_gradients(
                self.gradient_fn, x.chunk(num_chunks), players, kl_weight, parameters
            )
        return all_reduce_gradients(self.fabric, output, parameters)

    def raise_if_not_finite(self) -> None:
        """Stop training if a metric is not finite. Synchronizes with the device.

        Raises:
            NotFiniteError: naming metric, player and step.
        """
        self.metrics.raise_if_halted(self._current_step, len(self.updates))


def update_sequence(method: Method) -> list[tuple[str, ...]]:
    """Return the players of each update of a step, in order."""
    critic_steps = method.critic_steps if method.adversaries else 0
    if method.update_order == "alternating":
        return [method.adversaries] * critic_steps + [("model",)]
    return [method.adversaries] * (critic_steps - 1) + [tuple(method.players)]
