"""Several processes that train one model, as ``torchrun`` starts them: what they share, and who writes.

Every process holds the whole model and takes a batch of its own. After the backward passes of a move the gradients of
all its players lie side by side in one vector, with the terms to record, and one collective averages it: all processes
then make the same update, see the same figures, and stop together at one that is not finite.

DistributedDataParallel's wrappers are not used. They expect one forward and one backward pass of a module in turn; here
a critic runs twice in one move and is passed through by two backward passes, of which only one is its own, and a
compiled step has no hooks to wait for. What they would gain is to send some gradients while others are computed.
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

from advae.errors import AdvaeError
from advae.training.gradients import Taken


class LostProcess(AdvaeError):
    """Another process of the job is gone."""

    exit_code = 1


def started_by_torchrun() -> bool:
    """Whether this is one of several processes of a job."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def first_process() -> bool:
    """Whether this is the only process, or the one that writes."""
    return not started_by_torchrun() or os.environ.get("RANK", "0") == "0"


def make_fabric(device: torch.device, precision: str) -> Fabric:
    """The device and arithmetic of this process and, under torchrun, its place among the others, who have joined."""
    arithmetic: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    if not started_by_torchrun():
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=arithmetic)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local,
        strategy=DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"),
        precision=arithmetic,
    )
    fabric.launch()
    return fabric


def leave() -> None:
    """Part from the other processes, at the end of all work."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def agreed(fabric: Fabric, value: Any) -> Any:
    """What the first process says."""
    return value if fabric.world_size == 1 else fabric.broadcast(value, src=0)


def any_of(fabric: Fabric, value: int) -> int:
    """The largest of all processes' values."""
    if fabric.world_size == 1:
        return value
    found = torch.tensor(value, device=fabric.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def summed(fabric: Fabric, totals: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums over all processes of scalars of the same names."""
    if fabric.world_size == 1 or not totals:
        return totals
    values = torch.stack(list(totals.values()))
    dist.all_reduce(values)
    return dict(zip(totals, values.unbind(), strict=True))


def one_model(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the first one's weights."""
    if fabric.world_size > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def averaged(fabric: Fabric, taken: Taken, parameters: Sequence[nn.Parameter]) -> Taken:
    """A move as the mean over all processes, its gradients left in the parameters.

    Raises:
        LostProcess: another process does not answer any more.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    terms = torch.stack(list(taken.terms.values()))
    flat = torch.cat([terms, *(g.detach().flatten() for g in gradients)])
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        raise LostProcess(
            "training stopped: another process of the job ended",
            given=str(error).splitlines()[0][:200],
            remedy="the last checkpoint stands: go on with --resume, on as many processes as there are",
        ) from None
    flat /= fabric.world_size
    parts = flat.split([len(terms), *(g.numel() for g in gradients)])
    for gradient, mean in zip(gradients, parts[1:], strict=True):
        gradient.copy_(mean.view_as(gradient))
    return Taken(dict(zip(taken.terms, parts[0].unbind(), strict=True)))
