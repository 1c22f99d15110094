"""The rows that several formulas judge, kept on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tzrec_core.metrics.exchange import together
from tzrec_core.metrics.on_disk import GroupedColumns, group_sums
from tzrec_core.metrics.row_files import RowFiles
from tzrec_core.metrics.row_store import (
    JudgedGroups,
    JudgedRows,
    by_key_column,
    common_dtype,
    copies,
    group_results,
    kept_columns,
)

_ROWS_PER_FILE = 2**20


class RowStoreOnDisk:
    """As ``RowStore``, with the rows in Parquet files and bounded memory.

    Args:
        rows: Formulas that have ``on_disk``.
        groups: Any formulas.
        folder: Shared by all ranks, and empty; it is the caller's to remove.
        max_rows_in_memory: That a rank holds and computes at a time; but groups stay whole.
    """

    def __init__(
        self,
        rows: Sequence[JudgedRows],
        groups: Sequence[JudgedGroups],
        *,
        folder: Path,
        max_rows_in_memory: int,
    ) -> None:
        self._of_rows = tuple(rows)
        self._by_key = by_key_column(groups)
        self._columns = kept_columns(rows, groups)
        self._files = RowFiles(folder, max_rows_in_memory=max_rows_in_memory)
        self._buffer: list[dict[str, Tensor]] = []
        self._num_buffered = 0

    def to(self, device: torch.device) -> None:
        """Chooses where formulas are computed."""
        self._files.device = device

    def update(self, columns: Mapping[str, Tensor]) -> None:
        """Takes [B] of every column that a formula is given."""
        rows = copies(columns, self._columns)
        self._buffer.append(rows)
        self._num_buffered += len(next(iter(rows.values())))
        if self._num_buffered >= min(_ROWS_PER_FILE, self._files.max_rows_in_memory):
            self._flush()

    def compute(self) -> dict[str, float]:
        """Returns what ``RowStore.compute`` returns; all ranks must call."""
        together(self._flush)
        results = {}
        for judged in self._of_rows:
            assert judged.formula.on_disk is not None
            value = judged.formula.on_disk(self._files, judged.preds, judged.label)
            results[judged.name] = value
        for groups in self._by_key:
            formulas = [
                GroupedColumns(judged.formula.function, judged.preds, judged.label)
                for judged in groups
            ]
            results.update(group_results(groups, group_sums(self._files, groups[0].key, formulas)))
        return results

    def reset(self) -> None:
        """Forgets all rows."""
        self._buffer, self._num_buffered = [], 0
        self._files.remove()

    def _flush(self) -> None:
        """Writes the buffered rows into a file."""
        buffer, self._buffer, self._num_buffered = self._buffer, [], 0
        if buffer:
            dtypes = {
                name: common_dtype({rows[name].dtype for rows in buffer}) for name in buffer[0]
            }
            self._files.append(
                {
                    name: torch.cat([rows[name].to(dtype) for rows in buffer])
                    for name, dtype in dtypes.items()
                }
            )
