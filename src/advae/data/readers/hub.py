"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from advae.data.data_options import DataOptions
from advae.data.dataset import split_from_name
from advae.data.image_tables import open_tables, quiet_datasets
from advae.data.readers.base import IMAGE_OPTIONS, READERS, TABLE_OPTIONS, DataSource, SourceReader
from advae.data.sources import Location
from advae.errors import DataError

FIX = (
    "for local data, check the path: there is no file or folder of this name; for the hub, check the name and the "
    "network, or set HF_HUB_OFFLINE=1 to use the local cache"
)
TIMEOUT_SECONDS = 10.0  # for the hub to say whether a data set exists; its client retries for half a minute


@READERS.register("hub")
class HubReader(SourceReader):
    """Reader of images or tables from the hub, or from its local cache."""

    description = "a data set of the Hugging Face hub, OWNER/NAME"
    options = (*IMAGE_OPTIONS, *TABLE_OPTIONS)

    @classmethod
    def recognizes(cls, location: Location) -> bool:
        return location.kind == "hub"

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        import datasets

        name = location.name
        with quiet_datasets(f"The data set {name} of the hub cannot be read.", FIX):
            if not datasets.config.HF_HUB_OFFLINE:
                from huggingface_hub import HfApi

                HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS)
            tables = datasets.load_dataset(name)
        by_split: dict[str, Any] = {}
        for key, table in tables.items():
            if split := split_from_name(str(key)):
                by_split.setdefault(split, table)
        if "train" not in by_split:
            raise DataError("The data set has no train split.", given=f"{name}: {', '.join(tables)}")
        return open_tables(name, by_split, options)
