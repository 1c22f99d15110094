"""Scores rows and writes the scores beside columns of the input."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor

from tzrec_core.assembly import assemble
from tzrec_core.batch import Batch
from tzrec_core.checkpoints import restoring
from tzrec_core.data.build import build_reader
from tzrec_core.data.collate import collate, empty_batch
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks, on_rank_0, process_group
from tzrec_core.exporting.directory import MODEL_FILE, load_scripted
from tzrec_core.exporting.inputs import of_batch
from tzrec_core.features.build import build_schema
from tzrec_core.features.schema import BatchSchema
from tzrec_core.features.transforms import encode
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

log = logging.getLogger(__name__)

Scorer = Callable[[Batch], Mapping[str, Tensor]]
ALL_COLUMNS = "ALL_COLUMNS"


def predict_exported(
    config: EasyRecConfig,
    *,
    export_dir: Path,
    input_path: str,
    output_path: Path,
    reserved_columns: Sequence[str],
    output_columns: Sequence[str],
    num_steps: int | None,
) -> int:
    """Scores ``input_path`` with an exported model; returns the number of this rank's rows.

    ``export_dir`` has the model and ``config`` is the one that ``exporting.directory.load_config``
    finds there; the other arguments are ``predict_checkpoint``'s. Ranks started by torchrun share
    the rows and write a file each.
    """
    with process_group() as ranks:
        _check_output(output_path, ranks)
        model = load_scripted(export_dir / MODEL_FILE)

        def score(batch: Batch) -> Mapping[str, Tensor]:
            scores: Mapping[str, Tensor] = model(*of_batch(batch))
            return scores

        rows = _Rows(config, input_path, reserved_columns, ranks)
        batches = islice(rows.batches(), num_steps)
        return _write(rows, batches, score, output_path, output_columns, ranks)


def predict_checkpoint(
    config: EasyRecConfig,
    *,
    checkpoint_path: Path,
    input_path: str,
    output_path: Path,
    reserved_columns: Sequence[str],
    output_columns: Sequence[str],
    num_steps: int | None,
) -> int:
    """Scores ``input_path`` with a checkpoint; returns the number of this rank's rows.

    Args:
        config: The config of the model, with how the input is encoded.
        checkpoint_path: A checkpoint directory.
        input_path: Files to score; needs the columns of the features, not the labels.
        output_path: A folder; each rank writes ``part-<rank>.parquet`` in the order of its rows.
            The files appear when all ranks are done.
        reserved_columns: Columns to copy from the input, or just ``ALL_COLUMNS``.
        output_columns: Outputs of the model to write; empty: all.
        num_steps: At most so many batches a rank; None: all.

    Raises:
        ValueError: A column, an output or the checkpoint is not as asked for, or ``output_path``
            has scores already.
    """
    with process_group() as ranks:
        _check_output(output_path, ranks)
        job = assemble(config, ranks, training=False)
        restoring.restore(checkpoint_path, ranks, model=job.model, optimizer=None)
        job.model.eval()

        def score(batch: Batch) -> Mapping[str, Tensor]:
            _, (_, predictions, _) = job.model(batch.to(ranks.device))
            scores: Mapping[str, Tensor] = predictions
            return scores

        rows = _Rows(config, input_path, reserved_columns, ranks)
        # Sharded tables answer all ranks together, so all must ask equally often.
        batches = agree(
            rows.batches(),
            ranks,
            weigh=None,
            drop_remainder=False,
            empty=empty_batch(rows.schema),
        )
        return _write(rows, islice(batches, num_steps), score, output_path, output_columns, ranks)


class _Rows:
    """This rank's rows: as batches for the model, and their reserved columns for the output."""

    def __init__(
        self,
        config: EasyRecConfig,
        input_path: str,
        reserved_columns: Sequence[str],
        ranks: Ranks,
    ) -> None:
        self.schema: BatchSchema = build_schema(config, training_labels=False)
        data_config = config.data_config
        self._batch_size = data_config.eval_batch_size or data_config.batch_size
        self._reader = build_reader(data_config, input_path)
        self._ranks = ranks
        available = self._reader.schema.names
        if list(reserved_columns) == [ALL_COLUMNS]:
            reserved_columns = available
        for column in reserved_columns:
            if column not in available:
                raise ValueError(
                    f"reserved column {column!r} is not in {input_path}; "
                    f"its columns are {', '.join(available)}"
                )
        self._reserved = list(reserved_columns)
        needed = (*self.schema.raw_columns(available), *self._reserved)
        self._columns = list(dict.fromkeys(needed))
        self.reserved: deque[pa.Table] = deque()

    def batches(self) -> Iterator[Batch]:
        """Yields batches; ``reserved`` gets the reserved columns of each."""
        for part in self._reader.parts[self._ranks.rank :: self._ranks.world_size]:
            raw = self._reader.read(part, self._columns)
            encoded = encode(raw, self.schema).table
            for start in range(0, len(raw), self._batch_size):
                self.reserved.append(raw.slice(start, self._batch_size).select(self._reserved))
                yield collate(encoded.slice(start, self._batch_size), self.schema, {})


def _check_output(output_path: Path, ranks: Ranks) -> None:
    """Raises ValueError, on every rank, if a reader of the folder would find other scores too."""

    def check() -> None:
        found = min(output_path.glob("part-*.parquet"), default=None)
        if found is not None:
            raise ValueError(
                f"{output_path} has scores already ({found.name}); remove them or choose another "
                "folder"
            )

    on_rank_0(ranks, check)


def _write(
    rows: _Rows,
    batches: Iterator[Batch],
    score: Scorer,
    output_path: Path,
    output_columns: Sequence[str],
    ranks: Ranks,
) -> int:
    """Writes this rank's scores aside, then renames the file when all ranks have come so far."""
    output_path.mkdir(parents=True, exist_ok=True)
    target = output_path / f"part-{ranks.rank:05d}.parquet"
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        num_rows = _write_aside(rows, batches, score, aside, output_columns)
        # A rank that fails never gets here, which makes the barrier fail on the others.
        dist.barrier(ranks.control)
        if num_rows:
            aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)
    log.info("Wrote %d rows to %s", num_rows, target if num_rows else "no file")
    return num_rows


def _write_aside(
    rows: _Rows,
    batches: Iterator[Batch],
    score: Scorer,
    aside: Path,
    output_columns: Sequence[str],
) -> int:
    """Writes the scores to ``aside``, unless there are none; returns their number."""
    num_rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        with torch.no_grad():
            for batch in batches:
                scores = score(batch)
                if len(batch) == 0:  # took part for the other ranks' sake
                    continue
                table = _with_scores(rows.reserved.popleft(), scores, output_columns)
                writer = writer or pq.ParquetWriter(aside, table.schema)
                writer.write_table(table)
                num_rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    return num_rows


def _with_scores(
    table: pa.Table, scores: Mapping[str, Tensor], output_columns: Sequence[str]
) -> pa.Table:
    for name in output_columns or sorted(scores):
        if name not in scores:
            raise ValueError(f"output column {name!r} is not one of {', '.join(sorted(scores))}")
        if name in table.column_names:
            raise ValueError(
                f"the input's column {name!r} has the name of an output of the model; "
                "leave it out of the reserved columns"
            )
        values = scores[name].float().cpu()
        if values.dim() == 2 and values.size(1) == 1:
            values = values.squeeze(1)
        column = pa.array(values.flatten().numpy())
        if values.dim() == 2:
            column = pa.FixedSizeListArray.from_arrays(column, values.size(1))
        table = table.append_column(name, column)
    return table
