"""Scored rows in files: all that is said of a model on its evaluation rows is computed from them.

A folder has a Parquet file of each rank that had rows, with these columns:

    @row                  int64, which row of the evaluation data it is
    <label>, <weight>     as in the data
    <key>@id              int64, the group that the row is in; null if none is known
    <column>@slice        text or numbers, what slices of the evaluation are made by
    probs, y, ...         float32, the predictions that metrics judge, or a list of them per row
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID, Batch
from tzrec_core.data.collate import ROW_COLUMN
from tzrec_core.features.schema import id_column, slice_column
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import judged_metrics
from tzrec_core.tasks import build_tasks

log = logging.getLogger(__name__)

MAX_ROWS = 20_000_000
"""How many rows are looked at together: intervals and slices of more come from a part of them."""
_HASH_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: D. Knuth, TAOCP 3, 6.4


class PredictionsWriter:
    """Writes the scored rows of one rank; a context manager."""

    def __init__(self, folder: Path, config: EasyRecConfig, *, rank: int) -> None:
        """Writes into ``folder``, which must be there.

        Args:
            folder: Shared by all ranks.
            config: Says which predictions are judged.
            rank: This one's.
        """
        self._path = folder / f"part-{rank:05d}.parquet"
        self._outputs = judged_outputs(config)
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "PredictionsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(
        self,
        predictions: Mapping[str, Tensor],
        batch: Batch,
        *,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Writes the rows of a batch, which has some, and whose rows are numbered.

        Args:
            predictions: Of the batch.
            batch: What they are of.
            mask: [n] which rows to write; None: all.
        """
        assert batch.rows is not None
        columns = {ROW_COLUMN: _array(batch.rows)}
        columns |= {name: _array(values) for name, values in batch.sample_weights.items()}
        columns |= {name: _array(values) for name, values in batch.labels.items()}
        for key, ids in batch.group_ids.items():
            known = ids.cpu().numpy()
            columns[id_column(key)] = pa.array(known, mask=known == NULL_ID)
        columns |= {slice_column(name): values for name, values in batch.slices.items()}
        columns |= {name: _array(predictions[name]) for name in self._outputs}
        table = pa.table(columns)
        if mask is not None:
            table = table.filter(pa.array(mask))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


def judged_outputs(config: EasyRecConfig) -> list[str]:
    """Returns the names of the predictions that metrics judge, and of each task's main one."""
    names = {judged.output for judged in judged_metrics(config)}
    for task in build_tasks(config):
        names.add(task.probability or f"{'probs' if task.is_classifier else 'y'}{task.suffix}")
    return sorted(names)


@dataclass(frozen=True)
class Predictions:
    """Scored rows in the order of the evaluation data.

    Attributes:
        table: Their columns, without ``@row``.
        share: The part of all rows that they are; 1 if they are all.
    """

    table: pa.Table
    share: float

    def tensor(self, name: str) -> Tensor:
        """Returns [n] numbers, or [n, k] of lists."""
        column = self.table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy()
            return torch.from_numpy(values.reshape(len(column), column.type.list_size).copy())
        return torch.from_numpy(column.to_numpy(zero_copy_only=False).copy())

    def ids(self, key: str) -> Tensor:
        """Returns [n] int64 groups of a grouping key, ``NULL_ID`` where none is known."""
        column = self.table[id_column(key)].fill_null(NULL_ID).combine_chunks()
        return torch.from_numpy(column.to_numpy().copy())

    def slices(self, column: str) -> pa.ChunkedArray:
        """Returns [n] values of the data's column."""
        return self.table[slice_column(column)]

    def is_of_the_same_rows_as(self, other: "Predictions", columns: Sequence[str]) -> bool:
        """Returns whether both have the same values in ``columns``, row for row."""
        return all(
            name in self.table.column_names
            and name in other.table.column_names
            and self.table[name].equals(other.table[name])
            for name in columns
        )


def read_predictions(folder: Path, *, key: str | None, max_rows: int = MAX_ROWS) -> Predictions:
    """Reads the scored rows of all ranks.

    Of more than ``max_rows`` rows only some groups are taken, whole and the same ones for every
    model, so that metrics within groups and intervals stay what they are, if less exact. Of the
    rows without a group about the same share is taken.

    Args:
        folder: Written by ``PredictionsWriter``.
        key: The grouping key whose groups stay together; None: rows are taken.
        max_rows: How many rows may be in memory.

    Raises:
        ValueError: There are no predictions.
    """
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} has no predictions; run evaluate first")
    files = ds.dataset(folder, format="parquet")
    num_rows = files.count_rows()
    chosen, num_parts = None, math.ceil(num_rows / max_rows)
    if num_parts > 1:
        log.warning(
            "%s has %d rows: confidence intervals and slices are of 1 / %d of them",
            folder,
            num_rows,
            num_parts,
        )
        chosen = id_column(key) if key is not None else ROW_COLUMN
    tables = []
    for batch in files.to_batches():
        table = pa.Table.from_batches([batch])
        if chosen is not None:
            ids = pc.coalesce(table[chosen], table[ROW_COLUMN]).to_numpy().view(np.uint64)
            mixed = (ids * np.uint64(_HASH_MULTIPLIER)) >> np.uint64(32)
            table = table.filter(pa.array(mixed % num_parts == 0))
        tables.append(table)
    table = pa.concat_tables(tables)
    table = table.take(pc.sort_indices(table[ROW_COLUMN])).drop_columns([ROW_COLUMN])
    return Predictions(table.combine_chunks(), len(table) / num_rows)


def read_rows(folder: Path) -> npt.NDArray[np.int64]:
    """Returns which rows of the evaluation data are scored in ``folder``, ascending."""
    rows = ds.dataset(folder, format="parquet").to_table(columns=[ROW_COLUMN])[ROW_COLUMN]
    return np.sort(rows.to_numpy())


def _array(values: Tensor) -> pa.Array:
    """Returns [n] numbers as they are, [n, k] as lists."""
    numbers = values.float() if values.is_floating_point() else values
    flat = pa.array(numbers.cpu().flatten().numpy())
    return flat if values.dim() == 1 else pa.FixedSizeListArray.from_arrays(flat, values.size(1))
