"""A whole step as one CUDA graph: batches, forward and backward passes, optimisers and the average of the weights.

Launching a kernel takes the host some microseconds; a step of small networks is hundreds of kernels that take less
each. A graph launches them all at once. What differs from one step to the next is put, before each replay, where the
graph reads it: the places of the batches (or, of streamed data, the batches), the rates, the warm-up's weight and the
seed. CUDA's generator is known to the graph, which draws from the seed that it is given: the
random numbers are those of the eager step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from advae.data import BatchLoader
from advae.training.step import Step

WARM_UP = 3  # steps before the capture, which then finds every library's workspace in place


class Captured:
    """Steps of which all but the first few are replays of one graph.

    Args:
        step: what one step does.
        batches: where its batches come from.
        observe: what becomes of stored examples, on the device.
        say: is told if the step cannot be captured; it then goes on as before.
    """

    def __init__(
        self,
        step: Step,
        batches: BatchLoader,
        observe: Callable[[Tensor], Tensor],
        say: Callable[[str], None],
    ) -> None:
        self.step, self.batches, self.observe, self.say = step, batches, observe, say
        self.device, self.taken = step.fabric.device, 0
        self.kl_weight = torch.ones((), device=self.device)
        self.held: list[Tensor] = []  # of each move the places of its batch or, of streamed data, the batch
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(self.device)

    def __call__(self, step: int, stream: Iterator[Tensor]) -> None:
        """Step number ``step``, counted from 0; the random state is that from which it is to draw."""
        self._load(step, stream)
        self.step.begin(step)
        self.kl_weight.fill_(self.step.method.kl_weight(step))
        if self.taken == WARM_UP:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
        else:
            self._run_aside()
        self.step.count()
        self.taken += 1

    def _load(self, step: int, stream: Iterator[Tensor]) -> None:
        count = self.step.batches
        if self.batches.split.resident:
            given = [self.batches.indices(step * count + i) for i in range(count)]
        else:
            given = [next(stream) for _ in range(count)]
        if not self.held:
            self.held = [value.clone() for value in given]
        for held, value in zip(self.held, given, strict=True):
            held.copy_(value, non_blocking=True)

    def _draw(self, i: int) -> Tensor:
        values = self.batches.split.values
        return self.observe(self.held[i] if values is None else values.index_select(0, self.held[i]))

    def _run(self) -> None:
        self.step.run(self.kl_weight, self._draw)

    def _run_aside(self) -> None:
        """A step on a stream of its own: a capture is to find nothing that was begun on the default one."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._run()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _capture(self) -> None:
        """Record a step. Nothing is computed by it, so that a step that cannot be recorded has not been taken."""
        for player in self.step.players.values():
            player.allow_capture()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._run()
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            first = (str(error).splitlines() or [""])[0]
            self.say(f"step: eager (this step cannot be captured: {first})")
            self.taken += 1  # not again
        else:
            self.graph = graph
