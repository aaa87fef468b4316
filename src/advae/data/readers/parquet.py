"""Parquet files of numbers, or of encoded images in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

from advae.data.data_options import DataOptions
from advae.data.image_tables import open_tables, quiet_datasets
from advae.data.readers.base import IMAGE_OPTIONS, READERS, TABLE_OPTIONS, DataSource, SourceReader
from advae.data.sources import Location, files_by_split
from advae.errors import DataError

PARQUET_MAGIC = b"PAR1"  # the first and the last four bytes of every Parquet file
# Encoded images hardly compress. A row group, which is read as a whole, may expand to this size, or by this factor.
MAX_EXPANDED_BYTES, MAX_EXPANSION = 2**28, 100


@READERS.register("parquet")
class ParquetReader(SourceReader):
    """Reader of one file, or of files named after splits."""

    description = "Parquet (a file, a folder or a pattern)"
    suffixes = (".parquet",)
    reads_many_files = True
    priority = 1  # a folder with Parquet files and images is read as Parquet
    options = (*IMAGE_OPTIONS, *TABLE_OPTIONS)

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        import datasets

        files = location.with_suffix(cls.suffixes)
        for file in files:
            _check_parquet(file)
        paths = {
            split: [str(file.resolve()) for file in part] for split, part in files_by_split(files).items()
        }
        with quiet_datasets(f"Parquet files next to {files[0]} cannot be read."):
            tables = {  # one at a time, as their columns can differ
                split: datasets.load_dataset("parquet", data_files=part, split="train")
                for split, part in paths.items()
            }
        return open_tables(location.name, tables, options)


def _check_parquet(file: Path) -> None:
    with file.open("rb") as handle:
        head = handle.read(4)
        handle.seek(max(0, file.stat().st_size - 4))
        complete = head == handle.read(4) == PARQUET_MAGIC
    if not complete:
        raise DataError(
            "The file is not a Parquet file, or is truncated.", given=file, fix="download or write it again"
        )
    with quiet_datasets(f"Parquet file {file} cannot be read."):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(file) as parquet:
            metadata = parquet.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            sizes = [group.total_byte_size for group in groups]
            stored = [sum(g.column(i).total_compressed_size for i in range(g.num_columns)) for g in groups]
            # Equal values are stored once, whatever their size, and declared once.
            first_row = next(parquet.iter_batches(batch_size=1), None)
            sizes.append(metadata.num_rows * (first_row.nbytes if first_row is not None else 0))
            stored.append(sum(stored))
    for size, compressed in zip(sizes, stored, strict=True):
        if size > max(MAX_EXPANDED_BYTES, MAX_EXPANSION * compressed):
            raise DataError(
                "Parquet file expands to far more than encoded images do.",
                given=f"{file}: {size:,} bytes from {compressed:,}",
                expected=f"up to {MAX_EXPANDED_BYTES:,} bytes, or {MAX_EXPANSION} times the stored ones, per row group",
            )
