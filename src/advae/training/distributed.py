"""Data-parallel training under ``torchrun``.

Each process has the whole model and its own batches. After the backward passes of an update, the gradients of its
players and its metrics are averaged by one collective. All processes then apply the same update, see the same metrics,
and stop together at a non-finite value.

DistributedDataParallel is not used. It expects alternating forward and backward passes of a module; here a critic runs
twice in one update, two backward passes go through it of which only one is its own, and a compiled step has no hooks.
It would overlap communication with computation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from advae.errors import AdvaeError, ConfigError
from advae.training.gradients import GradientOutput


class ProcessLostError(AdvaeError):
    """Another process of the job has ended."""

    exit_code = 1


def launched_by_torchrun() -> bool:
    """Return whether this is one of several processes of a job."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def is_first_process() -> bool:
    """Return whether this process writes: the only one, or the one of rank 0."""
    return not launched_by_torchrun() or os.environ.get("RANK", "0") == "0"


def make_fabric(device: torch.device, precision: str) -> Fabric:
    """Return this process's device and precision; under torchrun, join the other processes."""
    fabric_precision: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    if not launched_by_torchrun():
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=fabric_precision)
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    fabric = Fabric(
        accelerator=device.type,
        devices=local_world_size,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local_world_size,
        strategy=DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"),
        precision=fabric_precision,
    )
    fabric.launch()
    return fabric


def destroy_process_group() -> None:
    """Leave the other processes, at the end of all work."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def prepare_model(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the first one's weights, and synchronize batch normalization over GPUs.

    Raises:
        ConfigError: batch normalization over several CPU processes, which PyTorch cannot synchronize.
    """
    if fabric.world_size == 1:
        return
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        if fabric.device.type != "cuda":
            raise ConfigError(
                "Batch normalization over several processes needs GPUs.",
                given=f"{fabric.world_size} processes on {fabric.device.type}",
                fix="use one process, or networks with norm: layer or norm: none",
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # replaces submodules in place
    broadcast_model(fabric, model)


def broadcast_model(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the first one's weights."""
    for tensor in model.state_dict().values() if fabric.world_size > 1 else ():
        dist.broadcast(tensor, 0)


def broadcast(fabric: Fabric, value: Any) -> Any:
    """Return the first process's value."""
    return value if fabric.world_size == 1 else fabric.broadcast(value, src=0)


def all_reduce_max(fabric: Fabric, value: int) -> int:
    """Return the maximum over all processes."""
    if fabric.world_size == 1:
        return value
    result = torch.tensor(value, device=fabric.device)
    dist.all_reduce(result, dist.ReduceOp.MAX)
    return int(result)


def all_reduce_sum(fabric: Fabric, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of named scalars over all processes."""
    if fabric.world_size == 1 or not totals:
        return totals
    values = torch.stack(list(totals.values()))
    dist.all_reduce(values)
    return dict(zip(totals, values.unbind(), strict=True))


def all_reduce_gradients(
    fabric: Fabric, output: GradientOutput, parameters: Sequence[nn.Parameter]
) -> GradientOutput:
    """Average an update's metrics and the parameters' gradients over all processes.

    Raises:
        ProcessLostError: another process has ended.
    """
    if fabric.world_size == 1:
        return output
    gradients = [p.grad for p in parameters if p.grad is not None]
    metrics = torch.stack(list(output.metrics.values()))
    flat = torch.cat([metrics, *(gradient.detach().flatten() for gradient in gradients)])
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise ProcessLostError(
            "Training stopped: another process of the job has ended.",
            given=str(error).splitlines()[0][:200],
            fix="continue from the last checkpoint with --resume, on any number of processes",
        ) from None
    flat /= fabric.world_size
    means = flat.split([len(metrics), *(gradient.numel() for gradient in gradients)])
    for gradient, mean in zip(gradients, means[1:], strict=True):
        gradient.copy_(mean.view_as(gradient))
    return GradientOutput(dict(zip(output.metrics, means[0].unbind(), strict=True)))
