"""Vocabularies: which id an entry has."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

DEFAULT_ID = 0
"""The id of the default value where no id is configured for unknown values."""
UNKNOWN_ID = 1
"""The id of every value that is not an entry, where none is configured."""
FIRST_ID = 2
"""The id of the first entry behind those two."""


def number(entries: Iterable[str], *, start: int) -> dict[str, int]:
    """Returns consecutive ids from ``start`` by entry.

    Raises:
        ValueError: An entry occurs twice.
    """
    ids: dict[str, int] = {}
    for entry in entries:
        if entry in ids:
            raise ValueError(f"the vocabulary has the entry {entry!r} twice")
        ids[entry] = start + len(ids)
    return ids


def read(path: str, *, start: int) -> dict[str, int]:
    """Reads a vocabulary file of UTF-8 text and returns the ids by entry.

    Lines are entries, with consecutive ids from ``start``; or, in every line, an entry and its
    own id with one space between. Empty lines are skipped.

    Raises:
        ValueError: The file is missing, empty or not text, an entry occurs twice, or a line has
            a space but is not an entry and an id.
    """
    try:
        lines = [line for line in Path(path).read_text("utf-8").split("\n") if line.strip("\r")]
    except FileNotFoundError:
        raise ValueError(f"vocab_file {path!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"vocab_file {path!r} cannot be read: {error}") from None
    lines = [line.removesuffix("\r") for line in lines]
    if not lines:
        raise ValueError(f"vocab_file {path!r} has no entries")
    if not any(" " in line for line in lines):
        return number(lines, start=start)
    ids: dict[str, int] = {}
    for line in lines:
        entry, _, value = line.partition(" ")
        if not (entry and value.isascii() and value.isdigit()):
            raise ValueError(
                f"vocab_file {path!r} has the line {line!r}; every line must be an entry without "
                "spaces, or every line an entry, a space and its id"
            )
        if entry in ids:
            raise ValueError(f"vocab_file {path!r} has the entry {entry!r} twice")
        ids[entry] = int(value)
    return ids


def look_up(values: pa.Array, ids: Mapping[str, int]) -> pa.Array:
    """Returns the id of each value, null for null and for what is not an entry.

    Args:
        values: Strings or integers, an integer counting as its decimal digits; as such or
            dictionary-encoded.
        ids: Id by entry.
    """
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    entries = values.dictionary.cast(pa.large_string()).to_pylist()
    return pa.array([ids.get(entry) for entry in entries], pa.int64()).take(values.indices)
