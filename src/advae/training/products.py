"""Matrix products and convolutions of float32 while training: in TF32 on a GPU, by the faster library on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advae.networks.products import faster_products


@contextmanager
def fast_products() -> Iterator[None]:
    """Within, float32 factors are read to 10 bits after the point and summed in float32; then as it was before.

    For the networks' own products this is several times as fast and less coarse than bf16. Likelihoods, log ratios and
    the optimisers are no products and stay as they are. On a CPU see :mod:`advae.networks.products`.
    """
    if not torch.cuda.is_available():
        with faster_products():
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
