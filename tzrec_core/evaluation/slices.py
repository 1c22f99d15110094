"""Slices: parts of the evaluation rows by the values of a column."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

OTHERS = "all others"
MISSING = "missing"
_EXACT = 2**53  # below it, float64 has every integer


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        column: What the slices are made by.
        name: Which one it is: a value, a range of numbers, ``OTHERS`` or ``MISSING``; quoted if it
            is a value of one of these two names. Names differ.
        rows: [m] int64, ascending.
    """

    column: str
    name: str
    rows: npt.NDArray[np.int64]


def cut(
    column: str, values: pa.ChunkedArray, *, boundaries: Sequence[float], max_parts: int
) -> list[Slice]:
    """Returns the slices of a column, which share the rows among them; none is empty.

    Numbers with ``boundaries`` become the ranges between them, each with its lower end. Values that
    are at most ``max_parts`` different ones become a slice each. Of more, numbers become ranges of
    about equal numbers of rows, and text its most frequent values and ``OTHERS``. Rows without a
    value, null or NaN, are a slice of their own, beyond ``max_parts``.

    Args:
        column: Its name.
        values: [n] text or numbers.
        boundaries: Ascending; empty if there are none.
        max_parts: 1 or more.

    Raises:
        ValueError: There are boundaries, but the values are text.
    """
    values = values.combine_chunks()
    is_number = not types.is_string(values.type)
    if boundaries and not is_number:
        raise ValueError(f"slices of {column!r} have boundaries, but its values are text")
    if types.is_floating(values.type):
        values = pc.add(values, 0.0)  # makes -0.0 the 0.0 that it equals
    is_missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    present = np.flatnonzero(~is_missing)
    of_present = values.take(pa.array(present))
    counts = pc.value_counts(of_present)
    if boundaries:
        part, names = _ranges(of_present.to_numpy(), np.asarray(boundaries, np.float64))
    elif is_number and len(counts) > max_parts:
        numbers = of_present.to_numpy()
        part, names = _ranges(numbers, _quantiles(numbers, max_parts))
    else:
        part, names = _values(of_present, counts, max_parts)
    slices = [
        Slice(column, name, rows)
        for index, name in enumerate(names)
        if len(rows := present[part == index])
    ]
    if is_missing.any():
        slices.append(Slice(column, MISSING, np.flatnonzero(is_missing)))
    return slices


def _values(
    values: pa.Array, counts: pa.StructArray, max_parts: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Returns each row's part, and the names of the parts: frequent values, in their own order."""
    different, how_often = counts.flatten()
    named = different
    if len(different) > max_parts:
        # Ties in the order of the values, so that another run names the same ones.
        table = pa.table({"value": different, "count": how_often})
        order = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        named = different.take(order[: max_parts - 1])
    named = named.take(pc.sort_indices(named))
    part = pc.index_in(values, named).fill_null(len(named)).to_numpy().astype(np.int64)
    return part, [*(_quoted(str(value)) for value in named.to_pylist()), OTHERS]


def _quoted(name: str) -> str:
    return f"'{name}'" if name.strip("'") in (OTHERS, MISSING) else name


def _quantiles(numbers: npt.NDArray[Any], num_parts: int) -> npt.NDArray[np.float64]:
    """Returns the boundaries of ranges of about equal numbers of rows, each one of the values."""
    places = np.arange(1, num_parts) * len(numbers) // num_parts
    edges = np.unique(np.sort(numbers)[places])
    above_the_lowest: npt.NDArray[np.float64] = edges[edges > numbers.min()].astype(np.float64)
    return above_the_lowest


def _ranges(
    numbers: npt.NDArray[Any], boundaries: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Returns each row's part, and the names of the parts between boundaries."""
    boundaries = np.unique(boundaries)  # large integers may have become the same float64
    ends = _edge_names(boundaries.tolist())
    names = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    names = [f"< {ends[0]}", *names, f">= {ends[-1]}"] if ends else ["all"]
    return np.searchsorted(boundaries, numbers, side="right"), names


def _edge_names(edges: list[float]) -> list[str]:
    """Returns different names of different numbers, with no more digits than that needs."""
    for digits in range(6, 18):
        names = [
            f"{edge:.0f}" if edge.is_integer() and abs(edge) < _EXACT else f"{edge:.{digits}g}"
            for edge in edges
        ]
        if len(set(names)) == len(names):
            return names
    raise AssertionError(f"17 digits do not tell {edges} apart")
