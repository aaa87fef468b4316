"""A whole training step as one CUDA graph: batches, forward and backward passes, optimizers, moving average.

Launching a kernel takes the host some microseconds, and a step of small networks consists of hundreds of kernels that
take less time each. A graph launches all of them at once. What differs between steps is written, before each replay,
where the graph reads it: indices of the batches (or streamed batches), learning rates, the KL weight and the seed.
CUDA's generator is registered with the graph, so random numbers equal those of the eager step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from advae.data import BatchLoader
from advae.errors import first_line
from advae.training.step import TrainStep

WARMUP_STEPS = 3  # eager steps before the capture, in which libraries allocate their workspaces


class CUDAGraphStep:
    """Training steps of which all but the first few replay one CUDA graph.

    Args:
        step: the step to capture.
        loader: provides its batches.
        preprocess: turns stored examples into observations, on the device.
        log: prints a line if the step cannot be captured; training then continues eagerly.
    """

    def __init__(
        self,
        step: TrainStep,
        loader: BatchLoader,
        preprocess: Callable[[Tensor], Tensor],
        log: Callable[[str], None],
    ) -> None:
        self.step, self.loader, self.preprocess, self.log = step, loader, preprocess, log
        self.device, self.num_steps_run = step.fabric.device, 0
        self.kl_weight = torch.ones((), dtype=torch.float32, device=self.device)
        self.batch_inputs: list[Tensor] = []  # per update: indices of its batch or, if streamed, the batch
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(self.device)

    def __call__(self, step: int, batches: Iterator[Tensor]) -> None:
        """Take step number ``step``, counted from 0, with the current random state."""
        self._load_batches(step, batches)
        self.step.set_step(step)
        self.kl_weight.fill_(self.step.method.kl_weight(step))
        if self.num_steps_run == WARMUP_STEPS:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
        else:
            self._run_on_side_stream()
        self.step.count_updates()
        self.num_steps_run += 1

    def _load_batches(self, step: int, batches: Iterator[Tensor]) -> None:
        count = len(self.step.updates)
        if self.loader.split.resident:
            inputs = [self.loader.indices(step * count + i) for i in range(count)]
        else:
            inputs = [next(batches) for _ in range(count)]
        if not self.batch_inputs:
            self.batch_inputs = [value.clone() for value in inputs]
        for buffer, value in zip(self.batch_inputs, inputs, strict=True):
            buffer.copy_(value, non_blocking=True)

    def _get_batch(self, i: int) -> Tensor:
        values, inputs = self.loader.split.values, self.batch_inputs[i]
        return self.preprocess(inputs if values is None else values.index_select(0, inputs))

    def _run(self) -> None:
        self.step.run_on_device(self.kl_weight, self._get_batch)

    def _run_on_side_stream(self) -> None:
        """Run a step on a side stream: capture requires that no work is pending on the default stream."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._run()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _capture(self) -> None:
        """Capture a step. Nothing is computed, so a step that cannot be captured has changed nothing."""
        for optimizer in self.step.optimizers.values():
            optimizer.make_capturable()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._run()
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)
            self.log(f"backend: eager (this step cannot be captured: {first_line(error)})")
            self.num_steps_run += 1  # do not try again
        else:
            self.graph = graph
