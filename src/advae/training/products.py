"""Matrix products and convolutions of float32 while training: in TF32 on a GPU, by the faster library on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning_fabric import Fabric

from advae.networks.products import faster_products


@contextmanager
def fast_products(fabric: Fabric | None = None) -> Iterator[None]:
    """Within, float32 factors are read to 10 bits after the point and summed in float32; then as it was before.

    For the networks' own products this is several times as fast and less coarse than bf16. Likelihoods, log ratios and
    the optimisers are no products and stay as they are. On a CPU see :mod:`advae.networks.products`.

    Args:
        fabric: whose networks run within; where they do in bf16 there is no product of float32 to look for on a CPU.
    """
    if not torch.cuda.is_available():
        with nullcontext() if fabric is not None and _in_bf16(fabric) else faster_products():
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _in_bf16(fabric: Fabric) -> bool:
    with fabric.autocast():
        return torch.is_autocast_enabled("cpu")
