"""What every reader of input files offers: parts of known order, each readable on its own."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Part:
    """A piece of one file that is read at once.

    Attributes:
        path: name of the file.
        start: Parquet: index of the row group. CSV: byte at which the range begins.
        stop: one past the last row group or byte.
        num_rows: rows in it, None if only reading can tell (CSV).
        expected_rows: ``num_rows``, or an estimate of it; decides how parts are grouped, so it is
            the same in every process.
        skip: Parquet: rows of the row group that come before the part's.
    """

    path: str
    start: int
    stop: int
    num_rows: int | None
    expected_rows: int
    skip: int = 0


class Reader(Protocol):
    """Input files of one format.

    Attributes:
        schema: columns and types, the same in every file.
        parts: all parts, sorted by file name and place in the file.
        num_rows: rows in all parts, None if unknown.
    """

    schema: pa.Schema
    parts: tuple[Part, ...]
    num_rows: int | None

    def read(self, part: Part, columns: Sequence[str] | None) -> pa.Table:
        """Reads a part, safe to call from several threads.

        Args:
            part: one of ``parts``.
            columns: names of the columns to read, in this order; None for all.

        Raises:
            ValueError: the file is damaged or a value has the wrong type; names the file.
        """
        ...


def expected_rows(reader: Reader) -> int:
    """Returns the number of rows, estimated where the format does not count them."""
    return sum(part.expected_rows for part in reader.parts)


def check_same_columns(schema: pa.Schema, name: str, first: pa.Schema, first_name: str) -> None:
    """Raises ValueError, naming file and column, unless both schemas have the same columns.

    The order of the columns may differ.
    """
    check_unique_columns(schema.names, name)
    for field in first:
        if field.name not in schema.names:
            raise ValueError(f"{name}: column {field.name!r} is missing, but is in {first_name}")
        if (found := schema.field(field.name).type) != field.type:
            raise ValueError(
                f"{name}: column {field.name!r} has type {found}, but {field.type} in {first_name}"
            )
    extra = sorted(set(schema.names) - set(first.names))
    if extra:
        raise ValueError(f"{name}: column {extra[0]!r} is not in {first_name}")


def check_unique_columns(names: Sequence[str], source: str) -> None:
    """Raises ValueError if two columns of a file have the same name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{source}: column {twice[0]!r} is there more than once")


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Puts a file's name in front of what a ValueError says about its rows."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
