"""Reads Parquet files, a row group at a time, or a slice of one where there are only a few."""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from tzrec_core.data.input_files import InputFile
from tzrec_core.data.reader import Part, check_same_columns, check_unique_columns

# Opening a file on an object store is waiting for the network.
_NUM_OPENING_THREADS = 8
# Parts are what ranks share. Small inputs often are a single row group; reading it several times
# costs less than ranks without work. The number is fixed so that the order of rows is.
_MIN_PARTS = 8


class ParquetReader:
    """Reader of Parquet files that all have the same columns.

    Decoding uses the caller's thread only, so that the number of loader threads is the number of
    busy cores.

    Args:
        files: the files, sorted by name.

    Raises:
        ValueError: a file is damaged or not Parquet, its columns differ from the first file's, or
            there is no row in any of them.
    """

    def __init__(self, files: Sequence[InputFile]) -> None:
        with ThreadPoolExecutor(_NUM_OPENING_THREADS) as pool:
            footers = list(pool.map(_read_footer, files))
        self._files = {file.name: file for file in files}
        self._footers = {file.name: footer for file, footer in zip(files, footers, strict=True)}
        self.schema: pa.Schema = footers[0].schema.to_arrow_schema().remove_metadata()
        check_unique_columns(self.schema.names, files[0].name)
        for file, footer in zip(files[1:], footers[1:], strict=True):
            check_same_columns(
                footer.schema.to_arrow_schema(), file.name, self.schema, files[0].name
            )
        groups = [
            (file.name, group, rows)
            for file, footer in zip(files, footers, strict=True)
            for group in range(footer.num_row_groups)
            if (rows := footer.row_group(group).num_rows)
        ]
        if not groups:
            raise ValueError(f"the input has no rows: {', '.join(self._files)}")
        num_slices = math.ceil(_MIN_PARTS / len(groups))
        self.parts = tuple(part for group in groups for part in _slices(*group, num_slices))
        self.num_rows: int | None = sum(rows for _, _, rows in groups)

    def read(self, part: Part, columns: Sequence[str] | None) -> pa.Table:
        """Reads one row group, or a slice of it; see ``Reader.read``."""
        file = self._files[part.path]
        try:
            with file.filesystem.open_input_file(file.path) as source:
                parquet = pq.ParquetFile(source, metadata=self._footers[part.path])
                names = None if columns is None else list(columns)
                table = parquet.read_row_group(part.start, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{part.path}: row group {part.start} cannot be read (damaged file?): {error}"
            ) from error
        table = table.slice(part.skip, part.num_rows)
        return table if names is None else table.select(names)


def _slices(path: str, group: int, num_rows: int, num_slices: int) -> list[Part]:
    """Cuts a row group into slices of about equal size, none of them empty."""
    num_slices = min(num_slices, num_rows)
    bounds = [num_rows * i // num_slices for i in range(num_slices + 1)]
    return [
        Part(path, group, group + 1, stop - start, stop - start, skip=start)
        for start, stop in itertools.pairwise(bounds)
    ]


def _read_footer(file: InputFile) -> pq.FileMetaData:
    try:
        with file.filesystem.open_input_file(file.path) as source:
            return pq.read_metadata(source)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.name}: not a readable Parquet file: {error}") from error
