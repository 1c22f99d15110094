"""Writes click logs in Criteo's style, made by a planted model, and the best scores possible.

``python -m tzrec_core.data.synthetic --output FOLDER --rows N --eval_rows M``

A row is a pure function of the seed and its number: it does not depend on how many rows are made,
in what chunks, or by how many threads. The evaluation rows are those that follow the training rows.

Given its columns, a row is clicked with probability sigmoid(utility), and its watch time is
exp(level + slope * utility + noise); half a minute is a long view. All are ordered by nothing but
the utility, so no score is expected to reach a higher AUC, AUC within users, or X-AUC of the watch
time than the utility itself; sample weights play no part. ``best_possible.json`` says what it
reaches on the evaluation rows that were written.
"""

import json
import logging
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import csv, parquet

from tzrec_core import command_line
from tzrec_core.data.draws import Index, Numbers, bits, scrambled, stream_key, uniform
from tzrec_core.data.planted import (
    CATEGORICAL,
    NUMERIC,
    USER,
    PlantedModel,
    draw,
    plant,
    sigmoid,
    utility,
)
from tzrec_core.data.publish import published
from tzrec_core.data.read_ahead import read_ahead
from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.xauc import xauc

CHUNK_ROWS = 1 << 15  # a row group
FILE_ROWS = 1 << 20
BEST_POSSIBLE_FILE = "best_possible.json"
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("session_id", pa.string()),
        ("event_time", pa.int64()),
        *((column.name, pa.float32()) for column in NUMERIC),
        *((column.name, pa.string()) for column in CATEGORICAL),
        ("click", pa.int64()),
        ("watch_time", pa.float32()),
        ("long_view", pa.int64()),
        ("sample_weight", pa.float32()),
    ]
)

_FIRST_EVENT = 1_735_689_600  # seconds; 2025-01-01 00:00 UTC
_SECONDS_BETWEEN_EVENTS = 3
_LOG_WATCH_TIME = math.log(30.0)
_WATCH_TIME_SLOPE = 0.5
_WATCH_TIME_NOISE = 0.6
_LONG_VIEW = 30.0
_HEX_PAIRS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)

log = logging.getLogger(__name__)


def make_rows(model: PlantedModel, start: int, stop: int) -> tuple[pa.Table, pa.Array]:
    """Makes rows ``start`` to ``stop`` - 1.

    Returns:
        The rows, in ``SCHEMA``, and the utility of each, float64.
    """
    rows = np.arange(start, stop, dtype=np.uint64)
    draws = draw(model.seed, rows)
    utilities = utility(model, draws)
    noise = _uniform(model, "watch_time", rows)
    log_watch_time = _LOG_WATCH_TIME + _WATCH_TIME_SLOPE * utilities
    log_watch_time += _WATCH_TIME_NOISE * np.log(noise / (1.0 - noise))
    jitter = bits(stream_key(model.seed, "event_time"), rows) % np.uint64(_SECONDS_BETWEEN_EVENTS)
    columns: dict[str, pa.Array] = {
        USER.name: scrambled(draws.ids[USER.name], _salt(USER.name)).astype(np.int64),
        "session_id": _hex_text(bits(stream_key(model.seed, "session_id"), draws.sessions)),
        "event_time": _FIRST_EVENT + (rows * _SECONDS_BETWEEN_EVENTS + jitter).astype(np.int64),
        "click": (_uniform(model, "click", rows) < sigmoid(utilities)).astype(np.int64),
        "watch_time": np.exp(log_watch_time).astype(np.float32),
        "long_view": (log_watch_time > math.log(_LONG_VIEW)).astype(np.int64),
        "sample_weight": (0.5 + _uniform(model, "sample_weight", rows)).astype(np.float32),
    }
    for number in NUMERIC:
        values = draws.counts[number.name].astype(np.float32)
        columns[number.name] = pa.array(values, mask=np.isnan(values))
    for column in CATEGORICAL:
        ids = draws.ids[column.name]
        columns[column.name] = _hex_text(scrambled(ids, _salt(column.name)), null=ids == 0)
    return pa.table(columns, schema=SCHEMA), pa.array(utilities)


def make_chunks(
    model: PlantedModel, start: int, stop: int, *, chunk_rows: int, num_workers: int
) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Yields what ``make_rows`` returns for ``chunk_rows`` rows at a time, in order.

    Args:
        model: see ``make_rows``.
        start: the first row.
        stop: the row after the last.
        chunk_rows: rows of all chunks but the last.
        num_workers: threads that make chunks ahead; 0 makes one when it is asked for.
    """

    def chunk(first: int) -> tuple[pa.Table, pa.Array]:
        return make_rows(model, first, min(first + chunk_rows, stop))

    yield from read_ahead(chunk, range(start, stop, chunk_rows), num_threads=num_workers)


def write(
    output: Path, *, rows: int, eval_rows: int, seed: int, file_format: str, num_workers: int
) -> dict[str, float | None]:
    """Writes ``train/``, ``eval/`` and ``best_possible.json`` into a new folder.

    Memory does not grow with ``rows``. Of each of the ``eval_rows`` 28 bytes are kept, from which
    the best possible scores are computed at the end.

    Args:
        output: must not be there, or be empty. It appears when everything is written.
        rows: training rows, at least 1.
        eval_rows: evaluation rows, at least 1.
        seed: another one is another model, other rows.
        file_format: "parquet", or "csv" with a header, nulls as nothing between the commas.
        num_workers: see ``make_chunks``.

    Returns:
        What ``best_possible.json`` holds: see ``best_possible``.

    Raises:
        ValueError: a number is too small, or the folder is not empty.
        OSError: the folder cannot be written; nothing is left behind.
    """
    for name, number, least in (
        ("rows", rows, 1), ("eval_rows", eval_rows, 1), ("num_workers", num_workers, 0)
    ):  # fmt: skip
        if number < least:
            raise ValueError(f"{name} must be {least} or more, got {number}")
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"output folder {output} is not empty")
    started = time.perf_counter()
    with published(output) as aside:
        model = plant(seed)
        write_split = partial(_write_split, model, file_format=file_format, num_workers=num_workers)
        for _ in write_split(aside / "train", 0, rows):
            pass
        kept = list(write_split(aside / "eval", rows, rows + eval_rows))
        utilities = np.concatenate([of_chunk.to_numpy() for _, of_chunk in kept])
        best = best_possible(pa.concat_tables([table for table, _ in kept]), utilities)
        (aside / BEST_POSSIBLE_FILE).write_text(json.dumps(best, indent=2) + "\n")
    seconds = time.perf_counter() - started
    log.info("Wrote %d + %d rows to %s in %.1f s", rows, eval_rows, output, seconds)
    return best


def best_possible(rows: pa.Table, utilities: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Returns what scoring by the utility reaches on these rows.

    Args:
        rows: with the columns user_id, click and watch_time.
        utilities: [rows].

    Returns:
        auc, grouped_auc (by user_id) and xauc (of watch_time), by the metrics' definitions; None
        where there is none, as where all rows are of one class.
    """
    scores = torch.tensor(utilities)
    click, user, watch_time = (
        torch.tensor(rows[name].to_numpy()) for name in ("click", "user_id", "watch_time")
    )
    values = {
        "auc": float(exact_auc(scores, click)),
        "grouped_auc": grouped_auc_sums(scores, click, user, weighting="groups").value,
        "xauc": float(xauc(scores, watch_time)),
    }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Writes click logs as the command line says."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--rows", type=int, required=True, help="training rows")
    parser.add_argument("--eval_rows", type=int, required=True, help="evaluation rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--num_workers", type=int, default=0, help="threads that make rows ahead")
    arguments = parser.parse_args(argv)
    write(
        arguments.output,
        rows=arguments.rows,
        eval_rows=arguments.eval_rows,
        seed=arguments.seed,
        file_format=arguments.format,
        num_workers=arguments.num_workers,
    )


def _write_split(
    model: PlantedModel,
    folder: Path,
    start: int,
    stop: int,
    *,
    file_format: str,
    num_workers: int,
) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Writes rows to files of ``FILE_ROWS`` rows, a chunk whenever one is asked for.

    Yields of each chunk what ``best_possible`` takes.
    """
    folder.mkdir()
    for number, first in enumerate(range(start, stop, FILE_ROWS)):
        path = folder / f"part-{number:05d}.{file_format}"
        chunks = make_chunks(
            model,
            first,
            min(first + FILE_ROWS, stop),
            chunk_rows=CHUNK_ROWS,
            num_workers=num_workers,
        )
        with _writer(path, file_format) as writer:
            for table, utilities in chunks:
                writer.write_table(table)
                yield table.select(["user_id", "click", "watch_time"]), utilities


def _writer(path: Path, file_format: str) -> parquet.ParquetWriter | csv.CSVWriter:
    match file_format:
        case "parquet":
            return parquet.ParquetWriter(path, SCHEMA)
        case "csv":
            return csv.CSVWriter(path, SCHEMA)
    raise ValueError(f"format must be parquet or csv, got {file_format!r}")


def _uniform(model: PlantedModel, name: str, rows: Index) -> Numbers:
    return uniform(stream_key(model.seed, name), rows)


def _salt(name: str) -> int:
    """Returns a number that makes equal ids look different in different columns."""
    return zlib.crc32(name.encode())


def _hex_text(
    numbers: npt.NDArray[np.uint32] | Index, null: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """Returns each number as hexadecimal digits, all of them, as a string."""
    big_endian = numbers.astype(numbers.dtype.newbyteorder(">"))
    text = _HEX_PAIRS[big_endian.view(np.uint8)]
    width = 2 * numbers.itemsize
    offsets = np.arange(0, width * len(numbers) + 1, width, dtype=np.int32)
    valid = None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.StringArray.from_buffers(
        len(numbers), pa.py_buffer(offsets), pa.py_buffer(text), valid
    )


if __name__ == "__main__":
    command_line.run(main)
