"""The sharding plan as the log shows it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from torchrec.distributed.model_parallel import DistributedModelParallel


class Table(NamedTuple):
    """An embedding table and where it is.

    Attributes:
        name: With the path of the module that holds it.
        rows: Of the whole table.
        dim: Likewise its columns.
        kind: How it is sharded, and what computes it.
        bytes_of_ranks: Of the weights that each rank has, without the optimizer's state.
    """

    name: str
    rows: int
    dim: int
    kind: str
    bytes_of_ranks: dict[int, int]


def tables(model: DistributedModelParallel) -> list[Table]:
    """Returns the tables of a sharded model."""
    weights = model.state_dict()
    found = []
    for path, plans in model.plan.plan.items():
        for name, plan in plans.items():
            weight = weights[f"{path}.embedding_bags.{name}.weight".lstrip(".")]
            rows, dim = weight.shape
            sizes: defaultdict[int, int] = defaultdict(int)
            if plan.sharding_spec is None:  # replicated
                sizes |= dict.fromkeys(plan.ranks, rows * dim * weight.itemsize)
            else:
                for shard in plan.sharding_spec.shards:
                    sizes[shard.placement.rank()] += math.prod(shard.shard_sizes) * weight.itemsize
            kind = f"{plan.sharding_type}/{plan.compute_kernel}"
            found.append(Table(f"{path}.{name}".lstrip("."), rows, dim, kind, dict(sizes)))
    return found


def listed(found: Sequence[Table], world_size: int) -> str:
    """Returns a line of sums, and one for each table in columns."""
    of_ranks = [sum(t.bytes_of_ranks.get(r, 0) for t in found) for r in range(world_size)]
    lines = [
        [
            table.name,
            f"{table.rows} x {table.dim}",
            table.kind,
            f"rank {', '.join(map(str, sorted(table.bytes_of_ranks)))}",
            _size(sum(table.bytes_of_ranks.values())),
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


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"
