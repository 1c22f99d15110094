"""Rows in files: those of an evaluation as Parquet, and sorted into parts that fit into memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tzrec_core.metrics.exchange import num_ranks, own_rank, together

Columns = dict[str, npt.NDArray[Any]]

_CHUNK_ROWS = 2**18


class RowFiles:
    """This rank's rows in Parquet files, and a folder in which all ranks put rows in order.

    Args:
        folder: Shared by all ranks; it is there, and it and its files are somebody else's to
            remove.
        max_rows_in_memory: That formulas should take at a time.
        paths: Parquet files of this rank that are there already.
    """

    def __init__(
        self, folder: Path, *, max_rows_in_memory: int, paths: Sequence[Path] = ()
    ) -> None:
        self.max_rows_in_memory = max_rows_in_memory
        self.device = torch.device("cpu")
        self._folder = folder
        self._paths = list(paths)
        self._num_written = 0
        self._num_partitionings = 0

    def append(self, columns: Mapping[str, Tensor]) -> None:
        """Writes rows, [n] each column, into a new file."""
        table = pa.table({name: values.cpu().numpy() for name, values in columns.items()})
        path = self._folder / f"rank-{own_rank()}-{self._num_written:06}.parquet"
        # Predictions hardly repeat, and what is read once or twice need not be small.
        pq.write_table(
            table, path, row_group_size=_CHUNK_ROWS, compression="none", use_dictionary=False
        )
        self._num_written += 1
        self._paths.append(path)

    def remove(self) -> None:
        """Deletes this rank's files."""
        for path in self._paths:
            path.unlink()
        self._paths.clear()

    def count(self) -> int:
        """Returns the number of rows of all ranks, each of which must call."""
        counts = together(lambda: sum(pq.read_metadata(path).num_rows for path in self._paths))
        return sum(counts)

    def dtypes(self, columns: Sequence[str]) -> dict[str, np.dtype[Any]]:
        """Returns the type of each column on all ranks, each of which must call.

        Where files differ it is float64, and float32 where there are none.
        """

        def own() -> list[set[np.dtype[Any]]]:
            schemas = [pq.read_schema(path) for path in self._paths]
            return [
                {np.dtype(schema.field(name).type.to_pandas_dtype()) for schema in schemas}
                for name in columns
            ]

        found = [set().union(*by_rank) for by_rank in zip(*together(own), strict=True)]
        return {
            name: next(iter(types)) if len(types) == 1 else np.dtype("f8" if types else "f4")
            for name, types in zip(columns, found, strict=True)
        }

    def chunks(self, dtypes: Mapping[str, np.dtype[Any]]) -> Iterator[Columns]:
        """Yields this rank's rows, some at a time, of the given columns in the given types."""
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_CHUNK_ROWS, columns=list(dtypes)):
                    yield {
                        name: batch.column(name).to_numpy(zero_copy_only=False).astype(dtype)
                        for name, dtype in dtypes.items()
                    }

    def partitioning(self, dtypes: Mapping[str, np.dtype[Any]]) -> "Partitioning":
        """Returns where to put rows of the given columns in order; all ranks must call."""
        folder = self._folder / f"partitioning-{self._num_partitionings}"
        self._num_partitionings += 1
        return Partitioning(folder, dtypes, device=self.device)


class Partitioning:
    """Rows in numbered partitions, to which all ranks add and which one rank each takes.

    Between adding and taking all ranks must have met.
    """

    def __init__(
        self, folder: Path, dtypes: Mapping[str, np.dtype[Any]], *, device: torch.device
    ) -> None:
        self._folder = folder
        self._record = np.dtype(list(dtypes.items()))
        self._device = device

    def add(self, columns: Columns, partition: npt.NDArray[np.integer[Any]]) -> None:
        """Appends each row, [n] each column, to the partition [n] of its number, if not below 0."""
        assert len(partition) == 0 or partition.max() < 2**15
        # Of 16 bits, numpy sorts by radix.
        order = np.argsort(partition.astype(np.int16), kind="stable")
        records = np.empty(len(order), self._record)
        for name, values in columns.items():
            records[name] = values[order]
        numbers, starts = np.unique(partition[order], return_index=True)
        self._folder.mkdir(exist_ok=True)
        for number, rows in zip(numbers.tolist(), np.split(records, starts[1:]), strict=True):
            if number >= 0:
                with self._path(number, own_rank()).open("ab") as file:
                    rows.tofile(file)

    def take(self, partition: int) -> dict[str, Tensor]:
        """Returns the rows of a partition, which are then gone."""
        paths = [self._path(partition, rank) for rank in range(num_ranks())]
        found = [path for path in paths if path.exists()]
        parts = [np.fromfile(path, self._record) for path in found]
        for path in found:
            path.unlink()
        records = np.concatenate([np.empty(0, self._record), *parts])
        assert self._record.names is not None
        return {
            name: torch.from_numpy(records[name].copy()).to(self._device)
            for name in self._record.names
        }

    def _path(self, partition: int, rank: int) -> Path:
        return self._folder / f"{partition}-{rank}"
