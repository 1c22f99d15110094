"""State that only fits the plan it was saved with is refused under another plan, by the table."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    ParameterShardingGenerator,
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from tests.distributed.ranks import run
from tests.tzrec_core.small_model import TABLES, SmallModel
from tests.tzrec_core.small_training import ADAGRAD, DENSE, ROWWISE, save, train
from tzrec_core.checkpoints import restoring
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import SparseRule, apply_sparse_optimizer
from tzrec_core.optim.state import named_state

PLANS: dict[str, Callable[[], ParameterShardingGenerator]] = {
    "table_wise": lambda: table_wise(rank=0),
    "row_wise": row_wise,
    "column_wise 2": lambda: column_wise(ranks=[0, 1]),
    "column_wise 4": lambda: column_wise(ranks=[0, 1, 0, 1]),
}


def build(ranks: Ranks, rule: SparseRule, plan: str):
    """Returns the small model, whose table c has 16 columns and is sharded by ``plan``."""
    a, b, _ = TABLES
    c = EmbeddingBagConfig(name="c", num_embeddings=40, embedding_dim=16, feature_names=["fc"])
    torch.manual_seed(0)
    model = SmallModel((a, b, c))
    apply_sparse_optimizer(model, rule)
    tables = construct_module_sharding_plan(
        model.ebc,
        {"a": table_wise(rank=0), "b": table_wise(rank=1), "c": PLANS[plan]()},
        sharder=EmbeddingBagCollectionSharder(),
        world_size=ranks.world_size,
        local_size=ranks.world_size,
        device_type="cpu",
    )
    sharded = DistributedModelParallel(
        model,
        env=ShardingEnv(ranks.world_size, ranks.rank, dist.GroupMember.WORLD, output_dtensor=True),
        device=ranks.device,
        plan=ShardingPlan({"ebc": tables}),
        sharders=[EmbeddingBagCollectionSharder()],
    )
    return sharded, build_optimizer(DENSE["adam"], sharded, rule)


def shards(optimizer) -> dict[tuple[int, ...], Tensor]:
    """Returns by place in the whole what this rank has of table c's state."""
    found = {}
    for name, state in named_state(optimizer).items():
        if name.endswith("c.momentum1"):
            local = state.to_local()
            for offsets, shard in zip(local.local_offsets(), local.local_shards(), strict=False):
                found[tuple(offsets)] = shard.clone()
    return found


def save_and_restore(ranks: Ranks, folder: Path, rule: SparseRule, pairs: list[tuple[str, str]]):
    """Returns for each pair of plans the error, or the table's state before and after."""
    results = []
    for number, (saved_plan, plan) in enumerate(pairs):
        model, optimizer = build(ranks, rule, saved_plan)
        train(ranks, model, optimizer, 0, 8)
        path = save(ranks, folder / str(number), 1, model, optimizer)
        saved = shards(optimizer)
        model, optimizer = build(ranks, rule, plan)
        try:
            restoring.restore(path, ranks, model=model, optimizer=optimizer)
        except ValueError as error:
            results.append(str(error))
        else:
            results.append((saved, shards(optimizer)))
    return results


def whole(of_ranks: list[dict[tuple[int, ...], Tensor]]) -> Tensor:
    """Returns the state from its shards."""
    state = torch.full((40, 16), torch.nan)
    for (row, column), shard in (item for of_rank in of_ranks for item in of_rank.items()):
        state[row : row + shard.shape[0], column : column + shard.shape[1]] = shard
    return state


def test_state_by_weights_can_be_restored_under_any_plan(tmp_path):
    pairs = [
        ("column_wise 2", "table_wise"),
        ("table_wise", "column_wise 4"),
        ("row_wise", "column_wise 2"),
    ]

    for of_ranks in zip(*run(save_and_restore, 2, tmp_path, ADAGRAD, pairs), strict=True):
        saved, restored = (whole([of_rank[i] for of_rank in of_ranks]) for i in (0, 1))
        assert torch.equal(saved, restored)


def test_state_by_rows_of_column_shards_is_refused_under_other_column_shards(tmp_path):
    refused = [
        ("column_wise 2", "table_wise"),
        ("row_wise", "column_wise 2"),
        ("column_wise 4", "column_wise 2"),
    ]
    possible = [("column_wise 2", "column_wise 2"), ("table_wise", "row_wise")]

    of_rank_0, of_rank_1 = run(save_and_restore, 2, tmp_path, ROWWISE, refused + possible)

    assert of_rank_0[:3] == of_rank_1[:3]
    for error, here, before in zip(
        of_rank_0,
        ("not split", "column_wise with 2 column shards", "column_wise with 2 column shards"),
        ("column_wise with 2 column shards", "not split", "column_wise with 4 column shards"),
        strict=False,
    ):
        assert "a rowwise optimizer's state, which cannot be carried over" in error
        assert f": c is {here} here, saved {before}. " in error
    assert not isinstance(of_rank_0[3], str)
    assert not isinstance(of_rank_0[4], str)
