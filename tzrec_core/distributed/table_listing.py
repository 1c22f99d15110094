"""The sharding plan as the log shows it."""

from collections.abc import Sequence
from typing import NamedTuple

from torchrec.distributed.model_parallel import DistributedModelParallel

_ITEM = 4
"""Bytes of a weight."""


class Part(NamedTuple):
    """What one rank has of a table: all of it, some of its rows, or some of its columns."""

    rank: int
    rows: int
    dim: int


class Table(NamedTuple):
    """An embedding table and where it is.

    Attributes:
        name: With the path of the module that holds it.
        rows: Of the whole table.
        dim: Likewise its columns.
        kind: How it is sharded, and what computes it.
        parts: What ranks have of it.
    """

    name: str
    rows: int
    dim: int
    kind: str
    parts: tuple[Part, ...]

    def bytes_of(self, rank: int) -> int:
        """Returns the bytes of the rank's weights, without the optimizer's state."""
        return sum(_ITEM * part.rows * part.dim for part in self.parts if part.rank == rank)


def tables(model: DistributedModelParallel) -> list[Table]:
    """Returns the tables of a sharded model."""
    weights = model.state_dict()
    found = []
    for path, plans in model.plan.plan.items():
        for name, plan in plans.items():
            rows, dim = weights[f"{path}.embedding_bags.{name}.weight".lstrip(".")].shape
            parts = tuple(
                Part(shard.placement.rank(), *shard.shard_sizes)
                for shard in plan.sharding_spec.shards
            )
            kind = f"{plan.sharding_type}/{plan.compute_kernel}"
            found.append(Table(f"{path}.{name}".lstrip("."), rows, dim, kind, parts))
    return found


def listed(found: Sequence[Table], world_size: int) -> str:
    """Returns a line of sums, and one for each table in columns."""
    of_ranks = [sum(table.bytes_of(rank) for table in found) for rank in range(world_size)]
    lines = [
        [
            table.name,
            f"{table.rows} x {table.dim}",
            table.kind,
            _size(_ITEM * table.rows * table.dim),
            _places(table),
        ]
        for table in found
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head = (
        f"{len(found)} embedding tables, {_size(sum(of_ranks))} without the optimizer's state; "
        + ", ".join(f"rank {rank}: {_size(size)}" for rank, size in enumerate(of_ranks))
    )
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n  ".join([head, *rows])


def _places(table: Table) -> str:
    """Returns which ranks have the table, and of a split one what: those with equal parts at once.

    Ranks that have nothing of it are left out.
    """
    of_ranks: dict[int, list[str]] = {}
    for part in table.parts:
        if part.rows:
            of_ranks.setdefault(part.rank, []).append(f"{part.rows} x {part.dim}")
    ranks_of: dict[str, list[int]] = {}
    for rank in sorted(of_ranks):
        ranks_of.setdefault(" + ".join(of_ranks[rank]), []).append(rank)
    is_whole = len(table.parts) == 1
    return "; ".join(
        f"rank {', '.join(map(str, ranks))}" + ("" if is_whole else f": {sizes}")
        for sizes, ranks in ranks_of.items()
    )


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
