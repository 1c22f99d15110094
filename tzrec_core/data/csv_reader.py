"""Reads CSV files as byte ranges, so that ranks and threads share one large file."""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from tzrec_core.data.input_files import InputFile
from tzrec_core.data.reader import Part, check_same_columns, check_unique_columns

# Besides the empty field: what Hive, Spark, MySQL and SQL clients write for a missing value. Not
# "NA" or "nan", which are also words and country codes.
NULL_VALUES = ("", "\\N", "NULL", "null")
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".zip", ".xz")
_SAMPLE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_MIN_PARTS, _MIN_PART_BYTES, _MAX_PART_BYTES = 64, 1 << 16, 1 << 23
_CONVERSION_ERROR = re.compile(r"In CSV column #(\d+): Row #(\d+): (.*)", re.DOTALL)


class CsvReader:
    """Reader of CSV files that all have the same columns.

    A part is the rows that *begin* in its byte range, so nothing has to be scanned to cut a file.
    It follows that a newline always ends a row: a quoted field may hold the delimiter, but no
    newline. Empty lines are skipped. ``NULL_VALUES`` are nulls in every column.

    A column without a given type gets it from the beginning of the first file: int64, float64,
    else string. Give the type where that is wrong, as for digits with leading zeros.

    Args:
        files: the files, sorted by name.
        delimiter: one character.
        with_header: whether the first line of each file has the names of its columns.
        names: without a header the names of all columns, in the files' order; else unused.
        types: types of columns by name; those of columns that are not there do not matter.

    Raises:
        ValueError: a file is compressed or no CSV, its columns differ from the first file's, there
            is no row in any file, or a row of the beginning is bad (see ``read``).
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        *,
        delimiter: str,
        with_header: bool,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
    ) -> None:
        if len(delimiter.encode()) != 1:
            raise ValueError(f"delimiter must be one ASCII character, got {delimiter!r}")
        if not with_header and not names:
            raise ValueError("CSV without a header needs the names of all columns in input_fields")
        self._delimiter = delimiter
        self._files = {file.name: file for file in files if file.size}
        self._names: dict[str, list[str]] = {}
        self._starts: dict[str, int] = {}
        for file in self._files.values():
            if file.name.endswith(_COMPRESSED):
                raise ValueError(f"{file.name}: compressed CSV cannot be cut into byte ranges")
            header = self._read_header(file) if with_header else (list(names), 0)
            self._names[file.name], self._starts[file.name] = header
            check_unique_columns(header[0], file.name)
        self.schema, bytes_per_row = self._sample(types)
        types = dict(zip(self.schema.names, self.schema.types, strict=True))
        for file_name, columns in self._names.items():
            fields = [(name, types.get(name, pa.string())) for name in columns]
            check_same_columns(pa.schema(fields), file_name, self.schema, next(iter(self._names)))
        self.parts = tuple(self._cut(bytes_per_row))
        self.num_rows: int | None = None

    def read(self, part: Part, columns: Sequence[str] | None) -> pa.Table:
        """Reads the rows that begin in one byte range; see ``Reader.read``.

        Raises:
            ValueError: a column is not there, a row has too few or too many fields, or a value does
                not have its column's type; names file, line, and what was expected.
        """
        rows, offset = self._read_rows(part.path, part.start, part.stop)
        names = self.schema.names if columns is None else list(columns)
        for name in names:
            if name not in self.schema.names:
                raise ValueError(f"{part.path}: there is no column {name!r}")
        schema = pa.schema([self.schema.field(name) for name in names])
        if not rows.strip():
            return schema.empty_table()
        types = dict(zip(self.schema.names, self.schema.types, strict=True))
        return self._parse(rows, part.path, offset, names, types)

    def _read_header(self, file: InputFile) -> tuple[list[str], int]:
        """Returns the names in the first line and its length in bytes."""
        self._starts[file.name] = 0
        line, _ = self._read_rows(file.name, 0, 1)
        try:
            table = pacsv.read_csv(
                pa.BufferReader(line),
                parse_options=pacsv.ParseOptions(delimiter=self._delimiter),
            )
            return table.column_names, len(line)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file.name}: the header cannot be read (not a CSV file?): {error}"
            ) from error

    def _sample(self, types: Mapping[str, pa.DataType]) -> tuple[pa.Schema, float]:
        """Returns the schema and the mean length of a row in bytes, from a first piece."""
        for name, start in self._starts.items():
            rows, offset = self._read_rows(name, start, start + _SAMPLE_BYTES)
            if rows.strip():
                table = self._parse(rows, name, offset, self._names[name], types)
                found = {field.name: field.type for field in table.schema}
                for column, type_ in found.items():
                    if column not in types and type_ not in (pa.int64(), pa.float64()):
                        found[column] = pa.string()
                return pa.schema(found), len(rows) / table.num_rows
        raise ValueError(
            f"the input has no rows: {', '.join(self._starts) or 'all files are empty'}"
        )

    def _cut(self, bytes_per_row: float) -> Iterator[Part]:
        total = sum(self._files[name].size - start for name, start in self._starts.items())
        step = min(max(total // _MIN_PARTS, _MIN_PART_BYTES), _MAX_PART_BYTES)
        for name, first in self._starts.items():
            size = self._files[name].size
            for start in range(first, size, step):
                stop = min(start + step, size)
                expected = max(1, round((stop - start) / bytes_per_row))
                yield Part(name, start, stop, None, expected)

    def _read_rows(self, name: str, start: int, stop: int) -> tuple[bytes, int]:
        """Returns the rows that begin at bytes start..stop-1, and where the first begins."""
        file = self._files[name]
        # The byte before the range tells whether a row begins at its first byte.
        begin = start if start == self._starts[name] else start - 1
        try:
            with file.filesystem.open_input_file(file.path) as source:
                data = source.read_at(stop - begin, begin)
                skip = 0 if begin == start else data.find(b"\n") + 1
                if skip == len(data) or (skip == 0 and begin < start):
                    return b"", stop  # the whole range lies inside one row
                pieces = [data[skip:]]
                position = begin + len(data)
                while not pieces[-1].endswith(b"\n") and position < file.size:
                    chunk = source.read_at(min(_CHUNK_BYTES, file.size - position), position)
                    if not chunk:
                        raise OSError("the file became shorter")
                    position += len(chunk)
                    pieces.append(chunk[: chunk.find(b"\n") + 1] or chunk)
        except OSError as error:
            raise ValueError(f"{name}: cannot be read: {error}") from error
        return b"".join(pieces), begin + skip

    def _parse(
        self,
        rows: bytes,
        name: str,
        offset: int,
        columns: Sequence[str],
        types: Mapping[str, pa.DataType],
    ) -> pa.Table:
        bad: list[pacsv.InvalidRow] = []

        def refuse(row: pacsv.InvalidRow) -> str:
            bad.append(row)
            return "error"

        try:
            return pacsv.read_csv(
                pa.BufferReader(rows),
                read_options=pacsv.ReadOptions(
                    column_names=self._names[name], use_threads=False, block_size=len(rows) + 1
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=self._delimiter,
                    # PyArrow cannot hand over a row that is not text.
                    invalid_row_handler=refuse if _is_text(rows) else None,
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict(types),
                    include_columns=list(columns),
                    null_values=list(NULL_VALUES),
                    strings_can_be_null=True,
                ),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            if bad:
                line = self._line(name, offset, rows, bad[0].number)
                raise ValueError(
                    f"{name}, line {line}: expected {bad[0].expected_columns} fields, got "
                    f"{bad[0].actual_columns}: {bad[0].text[:200]!r}"
                ) from error
            if found := _CONVERSION_ERROR.fullmatch(str(error)):
                line = self._line(name, offset, rows, int(found[2]))
                column = self._names[name][int(found[1])]
                raise ValueError(
                    f"{name}, line {line}: column {column!r}: {found[3]} (input_fields gives a "
                    "column another type)"
                ) from error
            raise ValueError(
                f"{name}: bytes from {offset} on cannot be read (not a CSV file?): {error}"
            ) from error

    def _line(self, name: str, offset: int, rows: bytes, row: int) -> int:
        """Returns the line number in the file of the row-th (from 1) row that begins at offset."""
        file = self._files[name]
        lines_before = 0
        with file.filesystem.open_input_file(file.path) as source:
            for position in range(0, offset, _MAX_PART_BYTES):
                size = min(_MAX_PART_BYTES, offset - position)
                lines_before += source.read_at(size, position).count(b"\n")
        ends = np.flatnonzero(np.frombuffer(rows + b"\n", np.uint8) == ord("\n"))
        lengths = np.diff(ends, prepend=-1) - 1
        # Empty lines are lines, but not rows; one may still hold the "\r" of a "\r\n".
        is_row = (lengths > 1) | ((lengths == 1) & (np.frombuffer(rows, np.uint8)[ends - 1] != 13))
        return lines_before + int(np.flatnonzero(is_row)[row - 1]) + 1


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
