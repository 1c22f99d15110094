"""Rules of ours under DistributedModelParallel: on any number of ranks, saved and restored."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.distributed import batched_embedding_kernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
)
from torchrec.distributed.types import ShardingEnv, ShardingPlan

from tests.distributed.ranks import RankError, run
from tests.tzrec_core.optim.tables.plain_rules import COMMON, RULES, PlainTable, close
from tests.tzrec_core.small_model import (
    TABLES,
    Rows,
    SmallModel,
    Twin,
    local_weights,
    whole,
)
from tzrec_core.checkpoints import tensor_files
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import apply_sparse_optimizer, kernel_for
from tzrec_core.optim.state import named_state
from tzrec_core.protos import optimizer_pb2

NUM_ROWS = 40
DENSE = optimizer_pb2.DenseOptimizer(sgd_optimizer=optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.0))
STATES = {
    "rowwise_adagrad_l2": {"momentum1"},
    "rowwise_adagrad_decoupled": {"momentum1"},
    "adam": {"momentum1", "exp_avg_sq", "iter"},
    "partial_rowwise_adam": {"momentum1", "exp_avg_sq", "iter"},
    "lamb": {"momentum1", "exp_avg_sq", "iter"},
    "partial_rowwise_lamb": {"momentum1", "exp_avg_sq", "iter"},
    "lars_sgd": {"momentum1"},
    "adadelta": {"momentum1", "acc_delta"},
    "rmsprop": {"momentum1"},
}


def built(ranks: Ranks, name: str, seed: int = 1):
    torch.manual_seed(seed)
    model = SmallModel()
    rule = RULES[name][0](**COMMON)
    apply_sparse_optimizer(model, rule)
    with kernel_for(rule):
        sharded = shard(model, ranks, batch_size=8, seed=seed)
    return sharded, build_optimizer(DENSE, sharded, rule)


def train(ranks: Ranks, model, optimizer, first: int, last: int) -> None:
    """Trains on rows first .. last, 8 a step, shared unevenly; the rate falls after row 16."""
    rows = Rows(NUM_ROWS)
    for start in range(first, last, 8):
        cut = start + 8 if ranks.world_size == 1 else start + 3
        mine = (start, cut) if ranks.rank == 0 else (cut, start + 8)
        normalizer = rows.weight[start : start + 8].sum() / ranks.world_size
        for group in dict(optimizer.optimizers)["sparse"].param_groups:
            group["lr"] = rate_at(start)
        optimizer.zero_grad()
        loss, _ = model(dataclasses.replace(rows.batch(*mine), normalizer=normalizer))
        loss.backward()
        optimizer.step()


def rate_at(row: int) -> float:
    return 0.1 if row < 16 else 0.02


def weights_by_rule(ranks: Ranks) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Returns this rank's weights before and after training with each rule."""
    results = {}
    for name in RULES:
        model, optimizer = built(ranks, name)
        before = local_weights(model)
        train(ranks, model, optimizer, 0, NUM_ROWS)
        results[name] = before, local_weights(model)
    return results


def trained_plainly(name: str, before: dict[str, Tensor]) -> dict[str, PlainTable]:
    twin, rows = Twin(before), Rows(NUM_ROWS)
    plain = {table: PlainTable(bag.detach(), RULES[name][1]) for table, bag in twin.bags.items()}
    dense = torch.optim.SGD([twin.weight, twin.bias], lr=0.3)
    for step, start in enumerate(range(0, NUM_ROWS, 8), start=1):
        dense.zero_grad()
        for table, bag in twin.bags.items():
            bag.data, bag.grad = plain[table].weights.float(), None
        twin.loss(rows, start, start + 8).backward()
        dense.step()
        for table, bag in twin.bags.items():
            ids = torch.cat(rows.ids[f"f{table}"][start : start + 8])
            plain[table].update(ids, bag.grad, lr=rate_at(start), step=step)
    return plain


@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_train_what_a_plain_loop_trains(world_size):
    of_ranks = run(weights_by_rule, world_size)

    for name in RULES:
        before, after = (whole([results[name][i] for results in of_ranks]) for i in (0, 1))
        plain = trained_plainly(name, before)
        for table in TABLES:
            weight = f"ebc.embedding_bags.{table.name}.weight"
            close(after[weight], plain[table.name])
            assert not torch.equal(after[weight], before[weight]), name


def split_tables(ranks: Ranks, name: str, kind: str) -> list[tuple[int, int, Tensor, Tensor]]:
    """Returns row, column, weights before and after of this rank's part of a 9 x 8 table."""
    table = EmbeddingBagConfig(
        name="t", num_embeddings=9, embedding_dim=8, feature_names=["f"], pooling=PoolingType.SUM
    )
    model = nn.Sequential(EmbeddingBagCollection(tables=[table], device=torch.device("meta")))
    rule = RULES[name][0](**COMMON)
    apply_sparse_optimizer(model, rule)
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        model[0],
        {"t": row_wise() if kind == "row_wise" else column_wise(ranks=[0, 1])},
        sharder=sharder,
        local_size=2,
        world_size=2,
        device_type="cpu",
    )
    with kernel_for(rule):
        sharded = DistributedModelParallel(
            model,
            env=ShardingEnv(2, ranks.rank, dist.GroupMember.WORLD, output_dtensor=True),
            device=ranks.device,
            plan=ShardingPlan({"0": plan}),
            sharders=[sharder],
        )
    local = sharded.state_dict()["0.embedding_bags.t.weight"].to_local()
    before = [part.clone() for part in local.local_shards()]
    for step in (1, 2):
        (sharded(ids_of(step, ranks.rank)).values() * slopes_of(step, ranks.rank)).sum().backward()
    return [
        (*offsets, old, new.clone())
        for offsets, old, new in zip(
            local.local_offsets(), before, local.local_shards(), strict=True
        )
    ]


def ids_of(step: int, rank: int) -> KeyedJaggedTensor:
    ids = torch.randint(9, (7,), generator=torch.Generator().manual_seed(10 * step + rank))
    return KeyedJaggedTensor.from_lengths_sync(["f"], ids, torch.tensor([3, 0, 4]).int())


def slopes_of(step: int, rank: int) -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(10 * step + rank))


@pytest.mark.parametrize(("name", "kind"), [("adam", "row_wise"), ("rmsprop", "column_wise")])
def test_tables_that_are_split_over_ranks_are_updated_alike(name, kind):
    of_ranks = run(split_tables, 2, name, kind)

    before, after = torch.zeros(9, 8), torch.zeros(9, 8)
    for row, column, old, new in (part for parts in of_ranks for part in parts):
        part = slice(row, row + old.shape[0]), slice(column, column + old.shape[1])
        before[part], after[part] = old, new
    plain = PlainTable(before, RULES[name][1])
    for step in (1, 2):
        gradients, ids = torch.zeros(9, 8), [ids_of(step, rank).values() for rank in (0, 1)]
        for rank in (0, 1):  # gradients are averaged over ranks
            of_ids = slopes_of(step, rank).repeat_interleave(torch.tensor([3, 0, 4]), dim=0)
            gradients.index_add_(0, ids[rank], of_ids / 2)
        plain.update(torch.cat(ids), gradients, lr=0.1, step=step)
    close(after, plain)


def train_and_save(ranks: Ranks, folder: Path):
    """Returns, for each rule, the names of the states and this rank's weights two steps later."""
    results = {}
    for name in RULES:
        model, optimizer = built(ranks, name)
        train(ranks, model, optimizer, 0, 24)
        states = named_state(optimizer)
        tensor_files.write(folder / name / "model", model.state_dict(), ranks.control)
        tensor_files.write(folder / name / "optimizer", states, ranks.control)
        train(ranks, model, optimizer, 24, NUM_ROWS)
        results[name] = set(states), local_weights(model)
    return results


def restore_and_train(ranks: Ranks, folder: Path) -> dict[str, dict[str, Tensor]]:
    results = {}
    for name in RULES:
        model, optimizer = built(ranks, name, seed=99)
        tensor_files.read(folder / name / "model", model.state_dict(), ranks.control)
        tensor_files.read(folder / name / "optimizer", named_state(optimizer), ranks.control)
        train(ranks, model, optimizer, 24, NUM_ROWS)
        results[name] = local_weights(model)
    return results


def test_a_restored_training_goes_on_to_the_last_bit_and_on_other_ranks(tmp_path):
    (saved,) = run(train_and_save, 1, tmp_path)
    (continued,) = run(restore_and_train, 1, tmp_path)
    on_two = run(restore_and_train, 2, tmp_path)

    for name, (states, expected) in saved.items():
        assert states == {
            f"sparse.ebc.embedding_bags.{table.name}.weight.{table.name}.{state}"
            for table in TABLES
            for state in STATES[name]
        }
        shared = whole([results[name] for results in on_two])
        for weight in expected:
            assert torch.equal(continued[name][weight], expected[weight]), (name, weight)
            torch.testing.assert_close(shared[weight], expected[weight], rtol=1e-5, atol=1e-6)


def test_torchrec_has_its_own_kernel_again_after_sharding():
    original = batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen

    with pytest.raises(KeyError), kernel_for(RULES["adam"][0](**COMMON)):
        raise KeyError

    assert batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen is original


def shard_without_the_kernel(ranks: Ranks) -> None:
    model = SmallModel()
    apply_sparse_optimizer(model, RULES["adam"][0](**COMMON))
    shard(model, ranks, batch_size=8, seed=1)


def test_a_rule_of_ours_never_falls_to_fbgemms_kernel():
    with pytest.raises(RankError, match="unexpected keyword argument 'row_rule'"):
        run(shard_without_the_kernel, 1)
