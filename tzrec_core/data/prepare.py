"""Makes training data of raw data: validates, splits, encodes, shuffles, writes Parquet shards.

``python -m tzrec_core.data.prepare --pipeline_config_path CONFIG --train_input_path INPUT
--output_dir FOLDER``
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tzrec_core.command_line import parser, run
from tzrec_core.config import check, edit, edits_from_json, load
from tzrec_core.data.build import build_reader, encoding_settings, num_threads
from tzrec_core.data.input_files import InputFile, find_files
from tzrec_core.data.publish import published
from tzrec_core.data.read_ahead import read_ahead
from tzrec_core.data.reader import Part, Reader, expected_rows
from tzrec_core.data.shares import Share, encode_parts
from tzrec_core.data.split import SplitRule
from tzrec_core.data.statistics import unknown_value_warnings
from tzrec_core.features.build import build_schema
from tzrec_core.features.schema import BatchSchema
from tzrec_core.features.transforms import encode
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

# Part of every fingerprint: raise it when the same input is encoded or ordered differently.
ENCODING_VERSION = 1
SUCCESS_FILE = "_SUCCESS"
STATS_FILE = "_stats.json"
_SECONDS_BETWEEN_REPORTS = 5.0

# Named, because as a command this module is called __main__.
log = logging.getLogger("tzrec_core.data.prepare")


@dataclass(frozen=True)
class PreparedData:
    """Where prepared data is.

    Attributes:
        path: folder with ``train/``, ``eval/``, ``_stats.json`` and ``_SUCCESS``.
        fingerprint: its name: a digest of the inputs and of all settings that count.
        reused: it was there already.
        stats: content of ``_stats.json``.
    """

    path: Path
    fingerprint: str
    reused: bool
    stats: dict[str, Any]


def prepare(
    config: EasyRecConfig,
    *,
    train_input_path: str,
    eval_input_path: str | None,
    output_dir: Path,
    eval_fraction: float,
    split_by: str,
    seed: int,
    progress: Callable[[str], None],
    max_rows_in_memory: int = 1_000_000,
) -> PreparedData:
    """Validates, splits, encodes and shuffles raw data into ``output_dir/<fingerprint>``.

    What is there already is not made again. The result depends on the rows, their order and the
    settings, not on how files cut the rows into row groups or byte ranges.

    Args:
        config: features, labels and ``data_config`` count.
        train_input_path: raw rows; see ``find_files``.
        eval_input_path: raw rows for evaluation; None: they are taken from the training rows.
        output_dir: local folder. While rows are shuffled, their encoded form is in it twice.
        eval_fraction: see ``SplitRule``; without effect if ``eval_input_path`` is given.
        split_by: likewise.
        seed: of split and order, 0 or more.
        progress: is given a line of text every few seconds.
        max_rows_in_memory: encoded rows to hold at a time; with more, files are used.

    Raises:
        ValueError: an input is missing, empty or damaged; a column is missing or of a wrong type
            (found before the rows are read); a value is not acceptable; the split leaves no rows.
        OSError: the output cannot be written. In every case nothing is left behind.
    """
    rule = SplitRule(split_by, eval_fraction, seed)
    schema = build_schema(config)
    inputs = {"train": find_files(train_input_path)}
    if eval_input_path is not None:
        inputs["eval"] = find_files(eval_input_path)
    name = fingerprint(encoding_settings(config), schema, inputs, rule)
    folder = output_dir / name
    if (folder / SUCCESS_FILE).exists():
        progress(f"Prepared data is there already: {folder}")
        return _finished(folder, schema, reused=True)

    readers = {"train": build_reader(config.data_config, train_input_path)}
    if eval_input_path is None:
        rule.check(readers["train"].schema)
    else:
        readers["eval"] = build_reader(config.data_config, eval_input_path)
    for reader in readers.values():
        # An empty table has the columns and their types.
        encode(reader.schema.empty_table(), schema)
    try:
        if folder.exists():  # without its mark it is not what was published
            shutil.rmtree(folder)
        with published(folder) as aside:
            stats = _fill(
                aside,
                readers,
                rule,
                schema,
                num_threads=num_threads(config),
                max_rows_in_memory=max_rows_in_memory,
                progress=progress,
            )
            (aside / STATS_FILE).write_text(json.dumps(stats, indent=2) + "\n")
            (aside / SUCCESS_FILE).touch()
    except OSError as error:  # what goes wrong with an input is a ValueError
        raise OSError(f"prepared data cannot be written to {output_dir}: {error}") from error
    return _finished(folder, schema, reused=False)


def _finished(folder: Path, schema: BatchSchema, *, reused: bool) -> PreparedData:
    """Returns what is there now, after a warning of each feature with unknown values."""
    stats = json.loads((folder / STATS_FILE).read_text())
    for line in unknown_value_warnings(schema, stats):
        log.warning("%s", line)
    return PreparedData(folder, folder.name, reused, stats)


def fingerprint(
    settings: Mapping[str, Any],
    schema: BatchSchema,
    inputs: Mapping[str, Sequence[InputFile]],
    rule: SplitRule,
) -> str:
    """Returns a digest of all that prepared data depends on.

    Args:
        settings: see ``encoding_settings``.
        schema: its labels, sample weights, grouping keys, sample cost and slices count.
        inputs: files by share; they count by name, size and time of the last change.
        rule: counts if rows for evaluation are no input of their own; its seed always.
    """
    content = {
        "version": ENCODING_VERSION,
        "settings": settings,
        "labels": schema.labels,
        "sample_weights": schema.sample_weights,
        "group_keys": dict(schema.group_keys),
        "sample_cost": schema.sample_cost,
        "slices": schema.slices,
        "inputs": {
            share: [(file.name, file.size, file.mtime_ns) for file in files]
            for share, files in inputs.items()
        },
        "split": None if "eval" in inputs else (rule.by, rule.eval_fraction),
        "seed": rule.seed,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()[:20]


def _fill(
    folder: Path,
    readers: Mapping[str, Reader],
    rule: SplitRule,
    schema: BatchSchema,
    *,
    num_threads: int,
    max_rows_in_memory: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Writes ``train/`` and ``eval/`` and returns their statistics."""
    started = time.monotonic()
    temporary = folder / "tmp"
    temporary.mkdir()
    shares = {
        name: Share(
            name,
            schema,
            folder=temporary / name,
            seed=rule.seed,
            max_rows_in_memory=max_rows_in_memory,
        )
        for name in ("train", "eval")
    }
    report = _Report(progress, sum(expected_rows(reader) for reader in readers.values()))
    for name, reader in readers.items():
        split, column = None, None
        if "eval" not in readers:
            column = rule.column or None
            split = rule.build(_read_column(reader, rule.column, num_threads), temporary)
        for kept, taken in encode_parts(
            reader, schema, split, split_column=column, num_threads=num_threads
        ):
            shares[name].add(kept)
            if taken is not None:
                shares["eval"].add(taken)
            report.rows(sum(share.num_rows for share in shares.values()))
    for share in shares.values():
        if share.num_rows == 0:
            raise ValueError(
                f"no rows for {share.name}: split_by {rule.by!r} with eval_fraction "
                f"{rule.eval_fraction} leaves none"
            )
    stats = {}
    for name, share in shares.items():
        progress(f"Writing {share.num_rows} {name} rows")
        stats[name] = share.write(folder / name, num_threads=num_threads)
    shutil.rmtree(temporary)
    num_rows = sum(share.num_rows for share in shares.values())
    seconds = time.monotonic() - started
    progress(f"Prepared {num_rows} rows in {seconds:.1f} s, {num_rows / seconds:.0f} rows/s")
    return stats


def _read_column(reader: Reader, column: str, num_threads: int) -> Iterable[pa.Table]:
    def read(part: Part) -> pa.Table:
        return reader.read(part, [column])

    return read_ahead(read, reader.parts, num_threads=num_threads)


class _Report:
    """Says now and then how many rows are read."""

    def __init__(self, progress: Callable[[str], None], expected: int) -> None:
        self._progress = progress
        self._expected = expected
        self._started = self._last = time.monotonic()

    def rows(self, count: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_REPORTS:
            self._last = now
            self._progress(
                f"Read {count} of about {self._expected} rows, "
                f"{count / (now - self._started):.0f} rows/s"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and the config, prepares, and says where the data is."""
    flags = parser(__doc__)
    flags.add_argument("--pipeline_config_path", required=True, help="config, as text or JSON")
    flags.add_argument("--train_input_path", required=True, help="file, folder, glob or URI")
    flags.add_argument("--eval_input_path", help="likewise; default: taken from the training rows")
    flags.add_argument("--output_dir", required=True, type=Path, help="local folder")
    flags.add_argument("--eval_fraction", type=float, default=0.1, help="default: %(default)s")
    flags.add_argument(
        "--split_by", default="rows", help="rows, hash:COLUMN or time:COLUMN; default: %(default)s"
    )
    flags.add_argument("--seed", type=int, default=0, help="of split and order")
    flags.add_argument("--edit_config_json", help='edits, {"path.of[0].field": value}')
    args = flags.parse_args(argv)

    config = load(args.pipeline_config_path)
    if args.edit_config_json is not None:
        edit(config, edits_from_json(args.edit_config_json))
    check(config)
    prepared = prepare(
        config,
        train_input_path=args.train_input_path,
        eval_input_path=args.eval_input_path,
        output_dir=args.output_dir,
        eval_fraction=args.eval_fraction,
        split_by=args.split_by,
        seed=args.seed,
        progress=log.info,
    )
    print(prepared.path)


if __name__ == "__main__":
    run(main)
