"""Puts any number of rows into a random order with bounded memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

KEY_COLUMN = "__order__"
_BITS = 7  # 128 files are open at a time


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns well-mixed 64-bit hashes, a bijection: the finaliser of SplitMix64.

    G. L. Steele, D. Lea, C. H. Flood: Fast Splittable Pseudorandom Number Generators, 2014.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def random_keys(seed: int, stream: str, start: int, num_rows: int) -> npt.NDArray[np.uint64]:
    """Returns the random numbers of rows ``start`` to ``start + num_rows - 1``.

    A row's number depends on nothing but the seed, the stream's name and the row's index, so it is
    the same however the rows are cut into chunks.
    """
    state: npt.NDArray[np.uint64] = np.array([seed], np.uint64)
    for byte in stream.encode():
        state = mix64(state ^ np.uint64(byte))
    rows: npt.NDArray[np.uint64] = np.arange(start, start + num_rows, dtype=np.uint64)
    return mix64(rows + state)


class KeySorter:
    """Sorts tables by their column ``KEY_COLUMN`` (uint64), on disk if they are large.

    Keys must be spread evenly over all 64 bits, as random ones are: rows are scattered to files by
    the leading bits of their keys, and each file is sorted in memory, or scattered again if it is
    still too large. Rows with equal keys stay in the order in which they were added. The result
    does not depend on ``max_rows_in_memory``.

    Args:
        folder: for the files; created when first needed, its files are removed as they are read.
        max_rows_in_memory: rows that are held at a time, copies included.
    """

    def __init__(self, folder: Path, *, max_rows_in_memory: int, level: int = 0) -> None:
        self._folder = folder
        self._max_rows_in_memory = max_rows_in_memory
        # Both scattering and sorting make one copy.
        self._max_rows = max(1, max_rows_in_memory // 2)
        self._level = level
        self._shift = np.uint64(64 - _BITS * (level + 1))
        self._buffer: list[pa.Table] = []
        self._buffered_rows = 0
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def add(self, table: pa.Table) -> None:
        """Adds rows; all tables have the same columns."""
        self._buffer.append(table)
        self._buffered_rows += table.num_rows
        if self._buffered_rows > self._max_rows:
            self._scatter()

    def sorted(self) -> Iterator[pa.Table]:
        """Yields all rows in the order of their keys, without the key column; call it once."""
        if not self._writers:
            yield from self._sort_buffer()
            return
        self._scatter()
        for writer in self._writers.values():
            writer.close()
        for bucket in sorted(self._writers):
            path = self._path(bucket)
            child = KeySorter(
                path.with_suffix(""),
                max_rows_in_memory=self._max_rows_in_memory,
                level=self._level + 1,
            )
            with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    child.add(pa.Table.from_batches([batch]))
            path.unlink()
            yield from child.sorted()
        shutil.rmtree(self._folder)

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket:03}.arrow"

    def _sort_buffer(self) -> Iterator[pa.Table]:
        if not self._buffer:
            return
        table = pa.concat_tables(self._buffer).combine_chunks()
        self._buffer = []
        order = np.argsort(table.column(KEY_COLUMN).to_numpy(), kind="stable")
        yield table.drop_columns(KEY_COLUMN).take(pa.array(order))

    def _scatter(self) -> None:
        """Appends the buffered rows to the files that their keys' leading bits choose."""
        if not self._buffer:
            return
        table = pa.concat_tables(self._buffer).combine_chunks()
        self._buffer, self._buffered_rows = [], 0
        keys = table.column(KEY_COLUMN).to_numpy()
        buckets = ((keys >> self._shift) & np.uint64(2**_BITS - 1)).astype(np.uint8)
        table = table.take(pa.array(np.argsort(buckets, kind="stable")))
        stops = np.cumsum(np.bincount(buckets, minlength=2**_BITS)).tolist()
        self._folder.mkdir(exist_ok=True)
        start = 0
        for bucket, stop in enumerate(stops):
            if start < stop:
                if bucket not in self._writers:
                    path = str(self._path(bucket))
                    self._writers[bucket] = pa.ipc.new_stream(path, table.schema)
                self._writers[bucket].write_table(table.slice(start, stop - start))
            start = stop
