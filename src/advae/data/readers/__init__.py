"""Readers of data sources, one file per format."""

from advae.data.readers.base import READERS, DataSource, SourceReader, find_reader, open_source

__all__ = ["READERS", "DataSource", "SourceReader", "find_reader", "open_source"]
