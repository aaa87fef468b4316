"""Timing of training steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from advae.config import Config, resolve
from advae.data import BatchLoader, Preprocessing, Split
from advae.data.preprocessing import make_preprocessing
from advae.devices import allow_tf32, find_precision, isolated_torch_state
from advae.methods import METHODS
from advae.model import build_model
from advae.random import mix_seeds, reseed, seeded
from advae.training.backends.compiled import CompiledBackend
from advae.training.backends.cuda_graph import WARMUP_STEPS, CUDAGraphStep
from advae.training.backends.select import BACKENDS, auto_backend
from advae.training.data_start import with_nominal_dim
from advae.training.distributed import broadcast, make_fabric
from advae.training.setup import Setup, to_device
from advae.training.step import TrainStep

NUM_NOISE_IMAGES = 2048
MIN_SECONDS_OF_TIMING, MAX_TIMED_STEPS = 1.0, 200  # after warm-up

DATA_SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}
"""Image shapes of the data sources that recipes name."""


class StepBenchmark:
    """Training steps to be timed.

    Args:
        step: the training step.
        loader: provides its batches.
        preprocessing: turns stored examples into observations.
        backend: "eager", "compile" or "cuda-graph"; compilation takes place here.
        seed: of the run.

    Raises:
        CompilationError: the step cannot be compiled.
    """

    def __init__(
        self,
        step: TrainStep,
        loader: BatchLoader,
        preprocessing: Preprocessing,
        backend: str = "eager",
        seed: int = 0,
    ) -> None:
        assert backend in BACKENDS
        self.step, self.preprocess, self.seed, self.num_steps_run = step, preprocessing.apply, seed, 0
        self.device, self._batches = step.fabric.device, loader.stream(0)
        self._graph_step: CUDAGraphStep | None = None
        if backend == "cuda-graph":
            self._graph_step = CUDAGraphStep(step, loader, self.preprocess, lambda line: None)
        if backend == "compile":
            compiled = CompiledBackend(step.fabric, step.model, step.method, step.optimizers)
            for players in step.updates:
                compiled.compile(self.preprocess(loader(0)), players)
            step.gradient_fn = compiled

    @classmethod
    def from_setup(cls, setup: Setup) -> StepBenchmark:
        """Return the first steps of a configured run, of a copy of its model; on a GPU as a CUDA graph if the run
        would use one."""
        config, device = setup.config, setup.fabric.device
        loader = BatchLoader(
            setup.data.train,
            config.train.batch_size,
            seed=config.seed,
            device=device,
            workers=config.data.workers,
        )
        step = TrainStep(setup.fabric, copy.deepcopy(setup.model).train(), setup.method, config.train)
        backend: str = config.train.backend
        if backend == "auto":
            backend, _ = auto_backend(step, config.train.steps)
        use_graph = backend == "cuda-graph" and device.type == "cuda"
        return cls(
            step, loader, setup.data.preprocessing, "cuda-graph" if use_graph else "eager", config.seed
        )

    @classmethod
    def on_noise(
        cls, config: Config, shape: tuple[int, ...], device: torch.device, backend: str
    ) -> StepBenchmark:
        """Return a recipe's steps on uniform noise images of a shape; no data set is read."""
        generator = torch.Generator().manual_seed(0)
        with isolated_torch_state(config.seed, device):
            raw = (256 * torch.rand(NUM_NOISE_IMAGES, *shape, generator=generator)).to(torch.uint8)
            split, method = Split("train", raw.to(device)), METHODS.build(config.method)
            fabric = make_fabric(device, find_precision(config.train.precision, device))
            model = to_device(build_model(with_nominal_dim(config.model), shape, method.critics), device)
            step = TrainStep(fabric, model.train(), method, config.train)
            loader = BatchLoader(split, config.train.batch_size, seed=config.seed, device=device)
            preprocessing = make_preprocessing(config.data.preprocessing, split)
            return cls(step, loader, preprocessing, backend, config.seed)

    @property
    def backend(self) -> str:
        """The backend in use; a step to be captured is eager until the capture."""
        if self._graph_step is not None and self._graph_step.graph is not None:
            return "cuda-graph"
        return "compile" if isinstance(self.step.gradient_fn, CompiledBackend) else "eager"

    def run(self, steps: int) -> None:
        """Run steps, seeded as in training."""
        with isolated_torch_state(self.seed, self.device):
            for _ in range(steps):
                reseed(mix_seeds(self.seed, self.num_steps_run, 0), self.device)
                if self._graph_step is not None:
                    self._graph_step(self.num_steps_run, self._batches)
                else:
                    self.step(self.num_steps_run, lambda i: self.preprocess(next(self._batches)))
                self.num_steps_run += 1

    def time(self, steps: int) -> float:
        """Run steps and return their seconds."""
        start = time.perf_counter()
        self.run(steps)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - start

    def warm_up(self) -> None:
        """Run the first steps, which allocate memory or capture a graph."""
        self.run(WARMUP_STEPS + 2 if self._graph_step is not None else 1)


def time_step(setup: Setup) -> float:
    """Return the seconds of a configured run's training step on this machine as it is now; nothing is changed.

    The steps are those of a copy, without compilation: a compiled step is faster.
    """
    with isolated_torch_state(setup.config.seed, setup.fabric.device):
        benchmark = StepBenchmark.from_setup(setup)
        benchmark.warm_up()
        seconds = benchmark.time(1)
        steps = int(min(MAX_TIMED_STEPS, MIN_SECONDS_OF_TIMING / seconds))
        steps = broadcast(setup.fabric, max(1, steps))  # several processes take the same steps
        return float(broadcast(setup.fabric, benchmark.time(steps) / steps))


def steps_in(seconds: float, seconds_per_step: float) -> int:
    """Return how many steps a time is enough for, rounded down to two digits, and at least one.

    >>> steps_in(60, 0.011), steps_in(1, 0.3), steps_in(1, 5)
    (5400, 3, 1)
    """
    steps = int(seconds / seconds_per_step)
    unit = 10 ** max(0, len(str(steps)) - 2)
    return max(1, steps // unit * unit)


@dataclass(frozen=True)
class Throughput:
    """Training throughput next to the peak of matrix products.

    Attributes:
        images_per_second: in training.
        peak_flops: FLOP/s of a product of square float32 matrices.
        flop_per_image: of a step, in the matrix products of linear layers.
        backend: that ran the steps.
    """

    images_per_second: float
    peak_flops: float
    flop_per_image: float
    backend: str

    @property
    def utilization(self) -> float:
        """Fraction of the peak that the step's matrix products amount to."""
        return self.images_per_second * self.flop_per_image / self.peak_flops


def measure_throughput(recipe: str, device: torch.device, seconds: float) -> Throughput:
    """Time steps on MNIST-shaped noise and matrix products, alternating, for about ``seconds`` in total.

    Args:
        recipe: a fully connected one.
        device: where to run.
        seconds: in total.
    """
    rounds, steps_per_call = 5, 5
    matrix_size = 1024 if device.type == "cpu" else 8192
    backend = "cuda-graph" if device.type == "cuda" else "eager"
    config = resolve(recipe, {"train.precision": "fp32"})
    with seeded(0, device):
        benchmark = StepBenchmark.on_noise(config, DATA_SHAPES["mnist"], device, backend)
        benchmark.warm_up()
        a, b = (torch.randn(matrix_size, matrix_size, dtype=torch.float32, device=device) for _ in range(2))
        turn = seconds / (2 * rounds)
        step_rates, product_rates = [], []
        for _ in range(rounds):
            rate = calls_per_second(lambda: benchmark.run(steps_per_call), device, turn)
            step_rates.append(rate * steps_per_call)
            with allow_tf32():
                product_rates.append(calls_per_second(lambda: torch.mm(a, b), device, turn))
    images = median(step_rates) * config.train.batch_size
    peak = median(product_rates) * 2 * matrix_size**3
    return Throughput(images, peak, flop_per_image(benchmark.step.model), benchmark.backend)


def calls_per_second(function: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Return how often per second a function runs, timed for about ``seconds``."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        function()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return calls / (time.perf_counter() - start)


def flop_per_image(model: nn.Module) -> float:
    """Return the FLOP of one image's forward and backward passes through linear layers.

    Each weight is multiplied three times: forward, and backward for inputs and weights. The first layer has no gradient
    with respect to the image.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    products = [module.in_features * module.out_features for module in linear]
    return 2.0 * (3 * sum(products) - products[0])
