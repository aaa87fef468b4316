"""Handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np

from advae.data.arrays import ArrayExamples
from advae.data.data_options import DataOptions
from advae.data.readers.base import READERS, DataSource, SourceReader
from advae.data.sources import Location


@READERS.register("digits")
class DigitsReader(SourceReader):
    """1,797 gray images of 8 × 8; the stored values 0..16 become 0..255."""

    description = "'digits'"
    builtin_names = ("digits",)

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return DataSource("digits", {"train": ArrayExamples(images, 1)}, {"train": digits.target})
