"""Batch normalisation over the batches of all processes, so that their number changes nothing."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation whose mean and variance are those of all processes' batches, all of one size.

    torch's own runs on GPUs only; this one takes any backend. Two sums are exchanged, the second of squares about the
    common mean, so that nothing is lost where the mean is large. Gradients flow through both.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape with channels in second place."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x, axes = input.float(), [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synced(module: nn.Module) -> nn.Module:
    """``module`` with every batch normalisation in it made one over all processes; weights and buffers are kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _replaced(child))
        else:
            synced(child)
    return module


def _replaced(old: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    known = next((t.device.type for t in old.state_dict().values()), "cpu")
    if known == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(old)
    new = SyncedBatchNorm(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    new.load_state_dict(old.state_dict())
    return new.train(old.training)
