"""Cuts the rows of consecutive windows into batches, by their number and by what they cost."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tzrec_core.data.reader import Part

ALL_ROWS: Final = 2**62
"""The position of a finished window of which only reading tells the number of rows."""


@dataclass(frozen=True)
class Window:
    """Parts that are shuffled together; the unit that is dealt over the ranks.

    Attributes:
        index: place in the epoch's order; the key of ``Batch.position``.
        parts: read one after the other.
        num_rows: None if unknown.
    """

    index: int
    parts: tuple[Part, ...]
    num_rows: int | None


class Rows(NamedTuple):
    """Rows of a window, from one of them to its end."""

    window: Window
    start: int
    """Rows of the window that come before ``table``."""
    table: pa.Table
    costs: npt.NDArray[np.float64] | None
    """[rows of ``table``], 0 or more; None if only their number counts."""


def cut_batches(
    loaded: Iterable[Rows],
    *,
    batch_size: int,
    batch_cost_size: int | None,
    drop_remainder: bool,
) -> Iterator[tuple[pa.Table, dict[int, int]]]:
    """Yields the rows of each batch, with its position (see ``Dataset.batches``).

    A batch is as many of the next rows as there may be: at most ``batch_size``, and their costs,
    added up one after the other, at most ``batch_cost_size``. A row that alone costs more is a
    batch of its own. So where a batch ends depends on no row before it.

    Args:
        loaded: the windows, in order.
        batch_size: at least 1.
        batch_cost_size: None if only the number of rows counts.
        drop_remainder: leave out a last batch that could take another row: which has neither
            ``batch_size`` rows nor costs ``batch_cost_size``.
    """
    pieces: list[pa.Table] = []
    position: dict[int, int] = {}
    num_rows, cost = 0, 0.0
    for window, start, table, costs in loaded:
        taken = 0
        while True:
            fitting = min(batch_size - num_rows, table.num_rows - taken)
            if costs is not None and batch_cost_size is not None:
                fitting, cost = _fitting(costs[taken : taken + fitting], cost, batch_cost_size)
                if num_rows == 0 and fitting == 0 and taken < table.num_rows:
                    fitting, cost = 1, float(costs[taken])
            pieces.append(table.slice(taken, fitting))
            taken += fitting
            num_rows += fitting
            finished = taken == table.num_rows
            if fitting or finished:
                unknown = window.num_rows is None
                position[window.index] = ALL_ROWS if finished and unknown else start + taken
            if num_rows == batch_size or not finished:
                yield pa.concat_tables(pieces), position
                pieces, position, num_rows, cost = [], {}, 0, 0.0
            if finished:
                break
    is_full = batch_cost_size is not None and cost >= batch_cost_size
    if num_rows and (is_full or not drop_remainder):
        yield pa.concat_tables(pieces), position


def _fitting(costs: npt.NDArray[np.float64], cost: float, limit: float) -> tuple[int, float]:
    """Returns how many of the first rows fit beside what costs ``cost``, and the cost with them."""
    fitting, step = 0, 64
    while fitting < len(costs):
        sums = np.cumsum(np.append(cost, costs[fitting : fitting + step]))
        count = int(np.searchsorted(sums[1:], limit, side="right"))
        fitting, cost = fitting + count, float(sums[count])
        if count < len(sums) - 1:
            break
        step *= 2
    return fitting, cost
