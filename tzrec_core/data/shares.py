"""Encodes an input and deals its rows to the shares (training, evaluation), each shuffled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tzrec_core.data.read_ahead import read_ahead
from tzrec_core.data.reader import Part, Reader, naming
from tzrec_core.data.shards import cut, group_rows, write_shards
from tzrec_core.data.shuffle import KEY_COLUMN, KeySorter, random_keys
from tzrec_core.data.split import Split
from tzrec_core.data.statistics import ColumnSummary, describe, summarize
from tzrec_core.features.schema import BatchSchema, FeatureCounts, cost_column
from tzrec_core.features.transforms import Encoded, encode


class Share:
    """The encoded rows of training or of evaluation.

    Args:
        name: of the share.
        schema: what the rows were encoded with.
        folder: for temporary files.
        seed: of the order.
        max_rows_in_memory: see ``KeySorter``.
    """

    def __init__(
        self, name: str, schema: BatchSchema, *, folder: Path, seed: int, max_rows_in_memory: int
    ) -> None:
        self.name = name
        self.num_rows = 0
        self._schema = schema
        self._seed = seed
        self._counts: dict[str, FeatureCounts] = {}
        self._sorter = KeySorter(folder, max_rows_in_memory=max_rows_in_memory)

    def add(self, encoded: Encoded) -> None:
        """Adds the next rows of the input."""
        table, counts = encoded
        keys = random_keys(self._seed, self.name, self.num_rows, table.num_rows)
        self._sorter.add(table.append_column(KEY_COLUMN, pa.array(keys)))
        self.num_rows += table.num_rows
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, FeatureCounts()) + count

    def write(self, folder: Path, *, num_threads: int) -> dict[str, Any]:
        """Writes all rows in random order as shards and returns their statistics."""
        numbers = {feature.name for feature in self._schema.dense_features}
        numbers |= {*self._schema.labels, *self._schema.sample_weights}
        if self._schema.sample_cost is not None:
            numbers.add(cost_column(self._schema.sample_cost))
        summaries: dict[str, ColumnSummary] = {}

        def summarize_all(table: pa.Table) -> tuple[pa.Table, dict[str, ColumnSummary]]:
            return table, {
                name: summarize(table[name], is_number=name in numbers)
                for name in table.column_names
            }

        def groups() -> Iterator[pa.Table]:
            tables = cut(self._sorter.sorted(), group_rows(self.num_rows))
            for table, columns in read_ahead(summarize_all, tables, num_threads=num_threads):
                for name, column in columns.items():
                    summaries[name] = summaries[name] + column if name in summaries else column
                yield table

        num_shards = write_shards(groups(), folder)
        return self._statistics(summaries, num_shards)

    def _statistics(self, summaries: dict[str, ColumnSummary], num_shards: int) -> dict[str, Any]:
        described = {name: describe(summary) for name, summary in summaries.items()}
        for feature in self._schema.features:
            column, counts = described[feature.name], self._counts[feature.name]
            # Encoding may have put a default in place of a null.
            column["nulls"] = counts.nulls
            column["null_share"] = counts.nulls / self.num_rows
            if feature.table is not None:
                column["out_of_vocabulary"] = counts.out_of_vocabulary
                column["out_of_vocabulary_share"] = counts.out_of_vocabulary / max(counts.values, 1)
                column["num_embeddings"] = feature.table.num_embeddings
        return {
            "rows": self.num_rows,
            "shards": num_shards,
            "label_means": {name: described[name]["mean"] for name in self._schema.labels},
            "columns": described,
        }


def encode_parts(
    reader: Reader,
    schema: BatchSchema,
    split: Split | None,
    *,
    split_column: str | None,
    num_threads: int,
) -> Iterator[tuple[Encoded, Encoded | None]]:
    """Yields the encoded rows of each part: those for training and those for evaluation.

    Args:
        reader: the input.
        schema: what to encode.
        split: decides which rows are for evaluation; None: no row.
        split_column: the column that ``split`` needs.
        num_threads: to read with, and as many to encode with.
    """
    needed = schema.raw_columns(reader.schema.names)
    columns = list(dict.fromkeys([*needed, *([split_column] if split_column else [])]))

    def read(part: Part) -> tuple[Part, pa.Table]:
        return part, reader.read(part, columns)

    def number() -> Iterator[tuple[Part, pa.Table, int]]:
        start = 0
        for part, raw in read_ahead(read, reader.parts, num_threads=num_threads):
            yield part, raw, start
            start += raw.num_rows

    def encode_both(rows: tuple[Part, pa.Table, int]) -> tuple[Encoded, Encoded | None]:
        part, raw, start = rows
        with naming(part.path):
            if split is None:
                return encode(raw, schema), None
            is_eval = split(raw, start)
            return encode(raw.filter(~is_eval), schema), encode(raw.filter(is_eval), schema)

    return read_ahead(encode_both, number(), num_threads=num_threads)
