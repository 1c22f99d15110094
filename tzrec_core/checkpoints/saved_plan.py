"""What a checkpoint keeps of the sharding plan, and which optimizer state cannot change plans."""

from typing import Any

from torchrec.distributed.model_parallel import DistributedModelParallel

from tzrec_core.checkpoints.tensor_files import Shapes

TablePlan = dict[str, Any]
SavedPlan = dict[str, dict[str, TablePlan]]


def describe(model: DistributedModelParallel) -> SavedPlan:
    """Returns how each table is sharded, as JSON, by the path of its module and its name."""
    return {
        path: {
            table: {
                "sharding_type": sharding.sharding_type,
                "compute_kernel": sharding.compute_kernel,
                "ranks": sharding.ranks,
                "column_offsets": _column_offsets(sharding),
            }
            for table, sharding in tables.items()
        }
        for path, tables in model.plan.plan.items()
    }


def fixed_tables(saved: SavedPlan, ours: SavedPlan, optimizer: Shapes) -> list[str]:
    """Returns the tables whose saved optimizer state only fits the plan that it was saved with.

    A rowwise optimizer has one number for each row. Where a table's columns are split, each split
    has its own, made of the gradients of its columns: nothing can be computed from them for columns
    that are split otherwise, nor for whole rows.

    Args:
        saved: Of the checkpoint.
        ours: Of the model that is to be restored.
        optimizer: The shapes of the checkpoint's optimizer state.

    Returns:
        What is wrong with each table, by name.
    """
    problems = []
    for path, tables in saved.items():
        for table, plan in tables.items():
            here = ours.get(path, {}).get(table)
            if here is None or here["column_offsets"] == plan["column_offsets"]:
                continue
            of_table = f"{path}.embedding_bags.{table}.weight.{table}.".lstrip(".")
            is_rowwise = any(
                len(shape) == 1 and of_table in name for name, shape in optimizer.items()
            )
            if is_rowwise:
                problems.append(f"{table} is {_listed(here)} here, saved {_listed(plan)}")
    return problems


def _listed(plan: TablePlan) -> str:
    splits = len(plan["column_offsets"])
    return f"{plan['sharding_type']} with {splits} column shards" if splits > 1 else "not split"


def _column_offsets(sharding: Any) -> list[int]:
    return sorted({shard.shard_offsets[1] for shard in sharding.sharding_spec.shards})
