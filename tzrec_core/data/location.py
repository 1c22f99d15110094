"""Says in words where rows come from: files and the numbers of rows in them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tzrec_core.data.batching import Window
from tzrec_core.data.reader import Part

_MAX_RANGES = 8  # of rows in a file
_MAX_FILES = 4


class WindowRows(NamedTuple):
    """Some of the rows of a window, in the order in which they are used.

    Attributes:
        window: Which one.
        order: [rows of the window] What row is used first, second, ...; None if they are in order,
            or if that cannot be told without reading.
        start: The first of the rows, by that order.
        stop: One past the last.
    """

    window: Window
    order: npt.NDArray[np.int64] | None
    start: int
    stop: int


def described(rows: Iterable[WindowRows], parts: Sequence[Part]) -> str:
    """Returns the files of rows, each with the numbers of its rows from 0 up.

    Where only reading tells how many rows a part has, its place in the file is named instead.

    Args:
        rows: At least one.
        parts: All parts of the input, by file and place in it.
    """
    starts = _starts(parts)
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    texts: dict[str, None] = {}
    for some in rows:
        if some.window.num_rows is None:
            texts |= dict.fromkeys(_without_numbers(some))
            continue
        stop = min(some.stop, some.window.num_rows)
        used = np.arange(some.start, stop) if some.order is None else some.order[some.start : stop]
        begin = 0
        for part in some.window.parts:
            assert part.num_rows is not None
            inside = used[(used >= begin) & (used < begin + part.num_rows)]
            numbers[part.path] += (inside - begin + starts[part]).tolist()
            begin += part.num_rows
    found = [f"{path} rows {_ranges(sorted(of))}" for path, of in numbers.items() if of] + [*texts]
    more = f" and {len(found) - _MAX_FILES} more" if len(found) > _MAX_FILES else ""
    return "; ".join(found[:_MAX_FILES]) + more


def _starts(parts: Sequence[Part]) -> dict[Part, int]:
    """Returns how many rows of its file come before each part whose file tells."""
    starts: dict[Part, int] = {}
    counts: defaultdict[str, int] = defaultdict(int)
    for part in parts:
        starts[part] = counts[part.path]
        counts[part.path] += part.num_rows or 0
    return starts


def _without_numbers(rows: WindowRows) -> list[str]:
    which = f"rows {rows.start} on of the" if rows.start else "of the"
    return [f"{part.path} {which} bytes {part.start}-{part.stop - 1}" for part in rows.window.parts]


def _ranges(numbers: list[int]) -> str:
    """Returns ascending numbers as ranges, 3-5, 9; the first ones of many."""
    bounds = np.flatnonzero(np.diff(numbers) > 1) + 1
    runs = np.split(np.asarray(numbers), bounds)
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:_MAX_RANGES]]
    rest = sum(len(run) for run in runs[_MAX_RANGES:])
    more = f" and {rest} more up to {numbers[-1]}" if rest else ""
    return ", ".join(shown) + more
