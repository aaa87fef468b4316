"""Sheets of sample images, written while training goes on."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from advae.io import write_atomically

GAP = 1  # pixels between images
SHEET = 640  # pixels across, about


def write_sheet(path: Path, gray: Tensor) -> None:
    """Write images as one PNG, nearly square.

    Args:
        path: where to.
        gray: ``[n, C, H, W]`` in gray levels, 0 to 255; channels other than 3 are shown by their mean.
    """
    images = gray.clamp(0, 255).round().byte().cpu().numpy()
    if images.shape[1] != 3:
        images = images.mean(1, keepdims=True).astype(np.uint8).repeat(3, 1)
    n, _, h, w = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + GAP) + GAP, columns * (w + GAP) + GAP, 3), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    zoom = max(1, SHEET // sheet.shape[1])
    picture = Image.fromarray(sheet).resize(
        (sheet.shape[1] * zoom, sheet.shape[0] * zoom), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, buffer.getvalue())
