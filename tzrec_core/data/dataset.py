"""Batches of an input in an order that one can resume from, whatever the number of ranks."""

import hashlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tzrec_core.batch import Batch
from tzrec_core.data.batching import ALL_ROWS, Rows, Window, cut_batches
from tzrec_core.data.collate import ROW_COLUMN, collate
from tzrec_core.data.location import WindowRows, described
from tzrec_core.data.read_ahead import read_ahead
from tzrec_core.data.reader import Part, Reader, expected_rows, naming
from tzrec_core.features.schema import BatchSchema, FeatureCounts, cost_column
from tzrec_core.features.transforms import encode

log = logging.getLogger(__name__)

# However large the shuffle buffer, so many windows are there to be dealt, so that small data
# reaches every rank in about equal shares.
_MIN_WINDOWS = 32
_BITS_IN_WINDOW = 32  # of a row's number


class Dataset:
    """The rows of an input as batches, dealt over ranks.

    The order is a function of ``seed`` and the epoch alone: parts (row groups) are permuted if
    ``shuffle``, grouped into windows, and rows permuted within their window. Window ``w`` belongs
    to rank ``w % world_size``. Batches run across the borders of windows, so all but a rank's last
    are full (see ``cut_batches``). Without ``shuffle`` a window is one part, in the input's order.

    Args:
        reader: the input.
        schema: what batches contain.
        batch_size: rows of a batch on this rank, at most.
        shuffle: permute parts and rows, differently each epoch.
        shuffle_buffer_size: a window has about so many batches of rows, but at least one part; in
            small inputs it has less, so that there are enough windows for all ranks.
        drop_remainder: leave out the last batch of an epoch if it is not full.
        num_workers: threads that read, encode and shuffle windows ahead; one more makes the
            batches. 0: everything in the caller's thread. About ``num_workers + 2`` windows are
            in memory.
        seed: of the order; not negative.
        rank: this process, ``0 <= rank < world_size``.
        world_size: number of processes that share the input.
        pin_memory: put batches into page-locked memory; needs a GPU.
        batch_cost_size: what the rows of a batch may cost together; needs a schema with
            ``sample_cost``. None: only their number counts.
        number_rows: fill ``Batch.rows``.
    """

    def __init__(
        self,
        reader: Reader,
        schema: BatchSchema,
        *,
        batch_size: int,
        shuffle: bool,
        shuffle_buffer_size: int,
        drop_remainder: bool,
        num_workers: int,
        seed: int,
        rank: int,
        world_size: int,
        pin_memory: bool = False,
        batch_cost_size: int | None = None,
        number_rows: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if batch_cost_size is not None and batch_cost_size < 1:
            raise ValueError(f"batch_cost_size must be at least 1, got {batch_cost_size}")
        self._reader = reader
        self._schema = schema
        self._columns = schema.raw_columns(reader.schema.names)
        self._batch_size = batch_size
        self._batch_cost_size = batch_cost_size
        self._shuffle = shuffle
        self._drop_remainder = drop_remainder
        self._num_workers = num_workers
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory
        self._number_rows = number_rows
        self._warned: set[str] = set()
        self._warned_of_dear_rows = False
        self._window_rows = min(
            shuffle_buffer_size * batch_size, math.ceil(expected_rows(reader) / _MIN_WINDOWS)
        )
        # A column of the wrong type is found here, before anything is read.
        encode(reader.schema.empty_table().select(self._columns), schema)

    @property
    def num_rows(self) -> int | None:
        """Rows of the whole input, all ranks together; None if unknown."""
        return self._reader.num_rows

    @property
    def num_batches(self) -> int | None:
        """Batches of this rank in epoch 0; None if unknown, as it is where rows have costs.

        Another epoch may have a few more or less, because windows differ in size and are dealt
        anew.
        """
        counts = [window.num_rows for window in self._dealt(0)]
        rows = sum(count for count in counts if count is not None)
        if None in counts or self._batch_cost_size is not None:
            return None
        return rows // self._batch_size if self._drop_remainder else -(-rows // self._batch_size)

    @property
    def signature(self) -> str:
        """Digest of all that the order depends on: a position is only good for the same one."""
        parts = [
            (part.start, part.stop, part.skip, part.expected_rows) for part in self._reader.parts
        ]
        order = (self._seed, self._shuffle, self._window_rows, parts)
        return hashlib.sha256(repr(order).encode()).hexdigest()[:16]

    def batches(self, epoch: int, consumed: Mapping[int, int] | None = None) -> Iterator[Batch]:
        """Yields this rank's batches of an epoch.

        ``Batch.position`` holds the windows that the batch has rows of and how many rows of each
        are consumed with it (``ALL_ROWS`` once a window of unknown length is finished). The union
        over the batches of an epoch, later ones first, and over the ranks is where to go on.

        Args:
            epoch: counts from 0.
            consumed: such a union, the same on all ranks, of a run with the same ``signature``;
                the number of ranks may have been another. Finished windows are not read again.

        Raises:
            ValueError: a file is damaged or holds a bad value (names the file), or ``consumed``
                is not a position in this input.
        """
        batches = self._batches(epoch, consumed or {})
        if self._num_workers == 0:
            return batches
        # Making batches is a sequence, hence a single thread.
        ahead = read_ahead(lambda _: next(batches, None), itertools.repeat(None), num_threads=1)
        return _until_none(ahead)

    def windows(self, epoch: int) -> list[Window]:
        """Returns all windows of an epoch in their order."""
        parts: Iterable[Part] = self._reader.parts
        if self._shuffle:
            order = self._generator(epoch).permutation(len(self._reader.parts))
            parts = [self._reader.parts[i] for i in order]
        limit = self._window_rows if self._shuffle else 0
        groups: list[list[Part]] = []
        rows = 0
        for part in parts:
            # A part goes where more than half of it fits.
            if not groups or rows + part.expected_rows / 2 > limit:
                groups.append([])
                rows = 0
            groups[-1].append(part)
            rows += part.expected_rows
        return [_window(index, group) for index, group in enumerate(groups)]

    def where(self, epoch: int, rows: Mapping[int, tuple[int, int]]) -> str:
        """Says in words which rows of which files were used.

        Args:
            epoch: of which the windows are.
            rows: by the index of a window the first row and one past the last, as positions count.
        """
        windows = self.windows(epoch)
        used = []
        for index, (start, stop) in rows.items():
            num_rows = windows[index].num_rows
            order = None if num_rows is None else self._order(epoch, index, num_rows)
            used.append(WindowRows(windows[index], order, start, stop))
        return described(used, self._reader.parts)

    def _dealt(self, epoch: int) -> list[Window]:
        return self.windows(epoch)[self._rank :: self._world_size]

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _batches(self, epoch: int, consumed: Mapping[int, int]) -> Iterator[Batch]:
        windows = self.windows(epoch)
        for index, rows in consumed.items():
            known = windows[index].num_rows if 0 <= index < len(windows) else 0
            if known is not None and rows > known:
                raise ValueError(
                    f"cannot resume: the input is not the one of the checkpoint (row {rows} of "
                    f"window {index}, which has {known} rows)"
                )

        def load(window: Window) -> Rows:
            return self._load(epoch, window, consumed.get(window.index, 0))

        todo = [
            window
            for window in windows[self._rank :: self._world_size]
            if consumed.get(window.index, 0) < (window.num_rows or ALL_ROWS)
        ]
        loaded = read_ahead(load, todo, num_threads=self._num_workers)
        for table, position in cut_batches(
            loaded,
            batch_size=self._batch_size,
            batch_cost_size=self._batch_cost_size,
            drop_remainder=self._drop_remainder,
        ):
            batch = collate(table, self._schema, position)
            yield batch.pin_memory() if self._pin_memory else batch

    def _load(self, epoch: int, window: Window, skip: int) -> Rows:
        tables = []
        for part in window.parts:
            raw = self._reader.read(part, self._columns)
            with naming(part.path):
                encoded = encode(raw, self._schema)
            self._warn_of_unknown_ids(encoded.counts, part.path)
            self._warn_of_dear_rows(encoded.table, part.path)
            tables.append(encoded.table)
        table = pa.concat_tables(tables).combine_chunks()
        order = self._order(epoch, window.index, table.num_rows)
        if order is not None:
            table = table.take(pa.array(order))
        if self._number_rows:
            # Windows are the same on any number of ranks, as is a row's place in its window.
            first = window.index << _BITS_IN_WINDOW
            numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
            table = table.append_column(ROW_COLUMN, pa.array(numbers))
        table = table.slice(skip)
        return Rows(window, skip, table, self._costs(table))

    def _order(self, epoch: int, index: int, num_rows: int) -> npt.NDArray[np.int64] | None:
        """Returns which row of a window comes first, second, ...; None: as they are."""
        if not self._shuffle:
            return None
        return self._generator(epoch, index).permutation(num_rows)

    def _costs(self, table: pa.Table) -> npt.NDArray[np.float64] | None:
        if self._batch_cost_size is None:
            return None
        assert self._schema.sample_cost is not None
        costs: npt.NDArray[np.float64] = table[cost_column(self._schema.sample_cost)].to_numpy()
        return costs

    def _warn_of_dear_rows(self, table: pa.Table, path: str) -> None:
        """Says once that there are rows which alone cost more than a batch may."""
        costs, limit = self._costs(table), self._batch_cost_size
        if costs is None or limit is None or self._warned_of_dear_rows:
            return
        dear = costs[costs > limit]
        if dear.size:
            self._warned_of_dear_rows = True
            log.warning(
                "%s: %d of %d rows cost more than batch_cost_size %d (%s up to %g); each of them "
                "is a batch of its own, here and in what follows",
                path,
                dear.size,
                costs.size,
                limit,
                self._schema.sample_cost,
                dear.max(),
            )

    def _warn_of_unknown_ids(self, counts: Mapping[str, FeatureCounts], path: str) -> None:
        """Says of each feature once that it has ids outside its range or vocabulary."""
        for name, count in counts.items():
            if count.out_of_vocabulary and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "%s: %d of %d values of feature %s are outside its range or vocabulary; "
                    "they become its default or are left out, here and in what follows",
                    path,
                    count.out_of_vocabulary,
                    count.values,
                    name,
                )


def _window(index: int, parts: list[Part]) -> Window:
    counts = [part.num_rows for part in parts]
    known = [count for count in counts if count is not None]
    return Window(index, tuple(parts), sum(known) if len(known) == len(counts) else None)


def _until_none(batches: Iterator[Batch | None]) -> Iterator[Batch]:
    for batch in batches:
        if batch is None:
            return
        yield batch
