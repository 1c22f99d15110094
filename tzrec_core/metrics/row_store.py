"""Metrics that need every row at once, and the rows that they share."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.exchange import by_key, own_rank, to_rank_0, together
from tzrec_core.metrics.group_sums import GroupSums
from tzrec_core.metrics.row_files import RowFiles


@dataclass(frozen=True)
class RowFormula:
    """A metric of all rows at once.

    Attributes:
        name: What it is called in messages.
        function: (preds [n], target [n]) -> 0-d float64.
        on_disk: (files, column of preds, column of target) -> the same value in bounded memory;
            None if there is no such way.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    on_disk: Callable[[RowFiles, str, str], float] | None = None


@dataclass(frozen=True)
class GroupFormula:
    """A metric of groups of rows, such as users.

    Attributes:
        name: What it is called in messages.
        function: (preds [n], target [n], keys [n] int64) -> sums over the groups, each of which
            has all its rows there.
        no_value: The reason if no group has a value.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], GroupSums]
    no_value: str = "no group has a value"


@dataclass(frozen=True)
class JudgedRows:
    """A formula, what its result is called, and the columns that it is given."""

    name: str
    formula: RowFormula
    preds: str
    label: str


@dataclass(frozen=True)
class JudgedGroups:
    """A formula, what its result is called, and the columns that it is given."""

    name: str
    formula: GroupFormula
    preds: str
    label: str
    key: str


class RowStore(Metric):
    """The rows that several formulas judge, each column kept once, in memory.

    A row takes 4 bytes for a prediction, 8 for a key, and what the label itself takes. ``update``
    copies and does nothing else. To compute, the rows of one key meet on one rank, which takes the
    same memory again for a while; formulas of all rows take the rows of all ranks to rank 0.
    """

    def __init__(self, rows: Sequence[JudgedRows], groups: Sequence[JudgedGroups]) -> None:
        super().__init__(sync_on_compute=False)
        self._of_rows = tuple(rows)
        self._by_key = by_key_column(groups)
        self._columns = kept_columns(rows, groups)
        # Columns may have any name, attributes may not.
        self._states = {column: f"column_{i}" for i, column in enumerate(self._columns)}
        for state in self._states.values():
            self.add_state(state, [])

    def update(self, columns: Mapping[str, Tensor]) -> None:
        """Takes [B] of every column that a formula is given."""
        for column, values in copies(columns, self._columns).items():
            getattr(self, self._states[column]).append(values)

    def compute(self) -> dict[str, float]:
        """Returns the values over the rows of all ranks, each of which must call.

        Groups also give ``<name>_group_coverage`` and ``<name>_row_coverage``.

        Raises:
            ValueError: As the formulas do; on every rank alike.
        """
        columns = self._joined()
        results = {}
        if self._of_rows:
            results.update(_judge_rows(self._of_rows, columns))
        for groups in self._by_key:
            results.update(_judge_groups(groups, columns))
        return results

    def _joined(self) -> dict[str, Tensor]:
        """Returns each column in one piece, in a type that is the same on all ranks."""
        parts: dict[str, list[Tensor]] = {
            column: getattr(self, state) for column, state in self._states.items()
        }
        own_dtypes = {column: {part.dtype for part in parts[column]} for column in parts}
        dtypes = together(lambda: own_dtypes)
        columns = {}
        for column, pieces in parts.items():
            dtype = common_dtype(set().union(*(by_column[column] for by_column in dtypes)))
            if pieces:
                # One column is there twice at a time, not all of them.
                pieces[:] = [torch.cat([piece.to(dtype) for piece in pieces])]
            columns[column] = (
                pieces[0] if pieces else torch.empty(0, dtype=dtype, device=self.device)
            )
        return columns


def kept_columns(
    rows: Sequence[JudgedRows], groups: Sequence[JudgedGroups]
) -> dict[str, torch.dtype | None]:
    """Returns the columns that formulas are given, each with its type, None for a label's own."""
    used = [(judged.preds, judged.label) for judged in rows]
    used += [(judged.preds, judged.label) for judged in groups]
    preds = dict.fromkeys((preds for preds, _ in used), torch.float32)
    labels = dict.fromkeys((label for _, label in used), None)
    return {**preds, **labels, **{judged.key: torch.int64 for judged in groups}}


def copies(
    columns: Mapping[str, Tensor], kept: Mapping[str, torch.dtype | None]
) -> dict[str, Tensor]:
    """Returns the ``kept`` columns, in memory of their own that holds nothing else."""
    return {
        column: columns[column].detach().to(dtype or columns[column].dtype, copy=True)
        for column, dtype in kept.items()
    }


def common_dtype(dtypes: set[torch.dtype]) -> torch.dtype:
    """Returns the type in which values of all ``dtypes`` can be: float64 unless there is one."""
    if not dtypes:
        return torch.float32
    return next(iter(dtypes)) if len(dtypes) == 1 else torch.float64


def by_key_column(groups: Sequence[JudgedGroups]) -> list[list[JudgedGroups]]:
    """Returns formulas that group by one column together."""
    by_column: dict[str, list[JudgedGroups]] = {}
    for judged in groups:
        by_column.setdefault(judged.key, []).append(judged)
    return list(by_column.values())


def group_results(groups: Sequence[JudgedGroups], sums: Sequence[GroupSums]) -> dict[str, float]:
    """Returns the value of each formula, and its coverage; rank 0 warns if there is no value."""
    results = {}
    for judged, total in zip(groups, sums, strict=True):
        if math.isnan(total.value) and own_rank() == 0:
            warnings.warn(f"{judged.formula.name} is NaN: {judged.formula.no_value}", stacklevel=2)
        results[judged.name] = total.value
        results[f"{judged.name}_group_coverage"] = total.group_coverage
        results[f"{judged.name}_row_coverage"] = total.row_coverage
    return results


def _judge_rows(rows: Sequence[JudgedRows], columns: Mapping[str, Tensor]) -> dict[str, float]:
    names = list(kept_columns(rows, ()))
    gathered = dict(zip(names, to_rank_0([columns[name] for name in names]), strict=True))

    def evaluate() -> dict[str, float]:
        if own_rank() != 0:
            return {}
        return {
            judged.name: float(
                judged.formula.function(gathered[judged.preds], gathered[judged.label])
            )
            for judged in rows
        }

    return together(evaluate)[0]


def _judge_groups(
    groups: Sequence[JudgedGroups], columns: Mapping[str, Tensor]
) -> dict[str, float]:
    names = [name for name in kept_columns((), groups) if name != groups[0].key]
    received, keys = by_key([columns[name] for name in names], columns[groups[0].key])
    whole = dict(zip(names, received, strict=True))

    def evaluate() -> list[GroupSums]:
        return [
            judged.formula.function(whole[judged.preds], whole[judged.label], keys)
            for judged in groups
        ]

    by_rank = together(evaluate)
    return group_results(groups, [reduce(add, sums) for sums in zip(*by_rank, strict=True)])
