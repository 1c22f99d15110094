"""Two ranks train what one rank and plain torch train; ranks agree, end together, and fail fast."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.distributed.ranks import RankError, run, spawn
from tests.tzrec_core.small_model import (
    TABLES,
    Rows,
    SmallModel,
    Twin,
    local_weights,
    number_of,
    weight_of,
    whole,
)
from tzrec_core.batch import Batch
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks, on_rank_0, process_group
from tzrec_core.distributed.sharding import shard
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.machine import available_memory
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import (
    SparseRule,
    adagrad,
    apply_sparse_optimizer,
    rowwise_adagrad,
    sgd,
)
from tzrec_core.protos import optimizer_pb2

Slices = list[tuple[int, int]]

NUM_ROWS = 24
# The rows of each step, per rank: the same 8, 8 and 8 rows however they are shared.
ONE_RANK: list[Slices] = [[(0, 8), (8, 16), (16, 24)]]
HALVES: list[Slices] = [[(0, 4), (8, 12), (16, 20)], [(4, 8), (12, 16), (20, 24)]]
UNEVEN: list[Slices] = [[(0, 2), (8, 15), (16, 24)], [(2, 8), (15, 16)]]  # rank 1 ends early
NOTHING_AT_ALL: list[Slices] = [[], [(0, 8), (8, 16), (16, 24)]]


def sharded_model(ranks: Ranks, rule: SparseRule, batch_size: int = 8):
    torch.manual_seed(0)
    model = SmallModel()
    apply_sparse_optimizer(model, rule)
    return shard(model, ranks, batch_size=batch_size, seed=1)


def dense_sgd() -> optimizer_pb2.DenseOptimizer:
    sgd_config = optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.9)
    return optimizer_pb2.DenseOptimizer(sgd_optimizer=sgd_config)


def train_on(ranks: Ranks, rule: SparseRule, shares: list[Slices]) -> tuple[dict, dict, int]:
    """Returns this rank's parameters before and after training, and the number of steps."""
    model = sharded_model(ranks, rule)
    optimizer = build_optimizer(dense_sgd(), model, rule)
    before = local_weights(model)
    rows = Rows(NUM_ROWS)
    batches = agree(
        iter([rows.batch(*share) for share in shares[ranks.rank]]),
        ranks,
        weigh=weight_of,
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    pipeline = train_pipeline(model, optimizer, ranks)
    num_steps = sum(1 for _ in iterate(pipeline, batches))
    return before, local_weights(model), num_steps


def iterate(pipeline, batches: Iterator[Batch]) -> Iterator[object]:
    while True:
        try:
            output = pipeline.progress(batches)
        except StopIteration:
            return
        yield output


def update_rows(kind: str, weight: Tensor, sums: Tensor, lr: float) -> None:
    """One step of a sparse rule on a dense gradient, which is 0 in the rows not looked up."""
    gradient = weight.grad
    with torch.no_grad():
        if kind == "sgd":
            weight -= lr * gradient
        elif kind == "adagrad":
            sums += gradient**2
            weight -= lr * gradient / (sums.sqrt() + 1e-8)
        else:
            sums += (gradient**2).mean(dim=1, keepdim=True)
            weight -= lr * gradient / (sums.sqrt() + 1e-8)


def twin_after_training(before: dict[str, Tensor], kind: str, accumulator: float):
    twin, rows = Twin(before), Rows(NUM_ROWS)
    sums = {name: torch.full_like(bag, accumulator) for name, bag in twin.bags.items()}
    if kind == "rowwise_adagrad":
        sums = {name: total[:, :1].clone() for name, total in sums.items()}
    dense = torch.optim.SGD([twin.weight, twin.bias], lr=0.3, momentum=0.9)
    for start, stop in ONE_RANK[0]:
        dense.zero_grad()
        for bag in twin.bags.values():
            bag.grad = None
        twin.loss(rows, start, stop).backward()
        dense.step()
        for name, bag in twin.bags.items():
            update_rows(kind, bag, sums[name], lr=0.5)
    return twin.weights()


RULES = {
    "sgd": sgd(lr=0.5, gradient_clipping=False, max_gradient=1.0),
    "adagrad": adagrad(
        lr=0.5, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.1
    ),
    "rowwise_adagrad": rowwise_adagrad(lr=0.5, gradient_clipping=False, max_gradient=1.0),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(
    "shares",
    [ONE_RANK, HALVES, UNEVEN, NOTHING_AT_ALL],
    ids=["one rank", "halves", "uneven", "one rank of two has no rows"],
)
def test_ranks_train_the_model_that_plain_torch_trains_on_all_their_rows(kind, shares):
    results = run(train_on, len(shares), RULES[kind], shares)

    before = whole([result[0] for result in results])
    after = whole([result[1] for result in results])
    assert [result[2] for result in results] == [3] * len(shares)
    expected = twin_after_training(before, kind, RULES[kind].initial_accumulator_value)
    assert after.keys() == expected.keys()
    for name, weight in after.items():
        assert not torch.equal(weight, before[name])
        torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-5, atol=1e-6, msg=name)


def initial_weights(ranks: Ranks, consume: int) -> tuple[dict, float]:
    torch.rand(consume * (ranks.rank + 1))  # each rank's stream of random numbers is elsewhere
    model = sharded_model(ranks, RULES["sgd"])
    return local_weights(model), float(torch.rand(1))


def test_initial_weights_do_not_depend_on_the_number_of_ranks():
    (alone,) = run(initial_weights, 1, 0)
    together = run(initial_weights, 2, 7)

    one, two = alone[0], whole([weights for weights, _ in together])
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    # The random numbers that follow do not depend on which tables a rank has initialised.
    assert alone[1] == together[0][1] == together[1][1]
    tables = [one[f"ebc.embedding_bags.{table.name}.weight"] for table in TABLES]
    assert not torch.equal(tables[0][:, 0], tables[1][:5, 0])  # each table has its own stream


def plan_of(ranks: Ranks) -> list[tuple[str, str, tuple[int, ...]]]:
    model = sharded_model(ranks, RULES["sgd"])
    return [
        (sharding.sharding_type, sharding.compute_kernel, tuple(sharding.ranks))
        for sharding in model.plan.plan["ebc"].values()
    ]


def test_every_table_is_fused_and_whole_on_one_rank_and_all_ranks_plan_alike():
    first, second = run(plan_of, 2)

    assert first == second
    assert len(first) == len(TABLES)
    assert {(kind, kernel) for kind, kernel, _ in first} == {("table_wise", "fused")}
    assert {held_by for _, _, held_by in first} == {(0,), (1,)}


def shard_with_less_memory_on_rank_1(ranks: Ranks) -> None:
    # Rank 1 believes that 20 ranks share its machine: its part of the memory is a twentieth.
    ranks = dataclasses.replace(ranks, local_world_size=20 if ranks.rank == 1 else 1)
    table = EmbeddingBagConfig(
        name="large",
        num_embeddings=available_memory() // 256 // 3,  # a third of the memory
        embedding_dim=64,
        feature_names=["f"],
    )
    model = SmallModel((table,))
    apply_sparse_optimizer(model, RULES["sgd"])
    with pytest.raises(ValueError, match="do not fit into memory: 1 tables"):
        shard(model, ranks, batch_size=8, seed=0)


def test_all_ranks_plan_with_the_memory_of_the_poorest_and_fail_together():
    run(shard_with_less_memory_on_rank_1, 2, timeout=60)


def look_up_a_row_that_is_not_there(ranks: Ranks) -> None:
    model = sharded_model(ranks, RULES["sgd"])
    batch = Rows(2).batch(0, 2)
    batch.sparse.values().fill_(1000)
    model(batch)


def test_an_id_outside_its_table_is_an_error():
    with pytest.raises(RankError, match="idx < num_rows"):
        run(look_up_a_row_that_is_not_there, 1)


def forget_the_sparse_optimizer(ranks: Ranks) -> None:
    shard(SmallModel(), ranks, batch_size=2, seed=0)


def test_a_table_without_sparse_optimizer_is_refused():
    with pytest.raises(RankError, match=r"without sparse optimizer: \['ebc.embedding_bags.a"):
        run(forget_the_sparse_optimizer, 1)


class NoTables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.linear(batch.dense)
        return logits.mean(), logits


def shard_without_tables(ranks: Ranks) -> Tensor:
    torch.manual_seed(ranks.rank)
    model = shard(NoTables(), ranks, batch_size=4, seed=0)
    rule = RULES["sgd"]
    optimizer = build_optimizer(dense_sgd(), model, rule)
    train_pipeline(model, optimizer, ranks).progress(iter([Rows(4).batch(0, 4)]))
    return model.module.linear.weight.detach()


def test_a_model_without_tables_trains():
    first, second = run(shard_without_tables, 2)

    torch.testing.assert_close(first, second, rtol=0, atol=0)


# agree


def numbers_of_rows(ranks: Ranks, shares: list[Slices], drop_remainder: bool, weigh):
    rows = Rows(NUM_ROWS)
    batches = agree(
        iter([rows.batch(*share) for share in shares[ranks.rank]]),
        ranks,
        weigh=weigh,
        drop_remainder=drop_remainder,
        empty=rows.batch(0, 0),
    )
    return [(len(batch), float(batch.normalizer)) for batch in batches]


def test_a_rank_that_runs_out_goes_on_with_empty_batches():
    first, second = run(numbers_of_rows, 2, UNEVEN, False, weight_of)

    assert [rows for rows, _ in first] == [2, 7, 8]
    assert [rows for rows, _ in second] == [6, 1, 0]
    weight = Rows(NUM_ROWS).weight
    expected = [float(weight[start:stop].sum()) / 2 for start, stop in ONE_RANK[0]]
    for of_rank in (first, second):
        assert [normalizer for _, normalizer in of_rank] == pytest.approx(expected, rel=1e-6)


def test_rows_may_weigh_1_each():
    (alone,) = run(numbers_of_rows, 1, ONE_RANK, False, number_of)
    first, second = run(numbers_of_rows, 2, UNEVEN, False, number_of)

    assert alone == [(8, 8.0)] * 3
    assert [normalizer for _, normalizer in first] == [4.0] * 3
    assert [normalizer for _, normalizer in second] == [4.0] * 3


def test_with_drop_remainder_all_end_with_the_first_rank_that_runs_out():
    first, second = run(numbers_of_rows, 2, UNEVEN, True, number_of)

    assert [rows for rows, _ in first] == [2, 7]
    assert [rows for rows, _ in second] == [6, 1]


def weights_of_two_tasks(batch: Batch) -> Tensor:
    """The second task takes the first row of all only."""
    return torch.stack([weight_of(batch), (batch.dense[:, 0] == Rows(NUM_ROWS).dense[0, 0]).sum()])


def agreed_weights(ranks: Ranks, weigh):
    rows = Rows(NUM_ROWS)
    batches = agree(
        iter([rows.batch(*share) for share in UNEVEN[ranks.rank]]),
        ranks,
        weigh=weigh,
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    return [(batch.normalizer, batch.share) for batch in batches]


def test_each_of_several_tasks_has_its_own_normalizer():
    weight = Rows(NUM_ROWS).weight
    sums = [weight[start:stop].sum() for start, stop in ONE_RANK[0]]
    for of_rank in run(agreed_weights, 2, weights_of_two_tasks):
        for (normalizer, share), total, of_second in zip(of_rank, sums, [1, 0, 0], strict=True):
            torch.testing.assert_close(
                normalizer, torch.stack([total / 2, torch.tensor(0.5 if of_second else 1.0)])
            )
            assert share.tolist() == [1.0, of_second]


def test_without_losses_there_is_nothing_to_normalize():
    assert run(agreed_weights, 2, None) == [[(None, None)] * 3] * 2


def normalizers_of_weightless_rows(ranks: Ranks) -> list[float]:
    batch = Rows(4).batch(0, 4)
    batch.sample_weights["w"].zero_()
    agreed = agree(
        iter([batch]), ranks, weigh=weight_of, drop_remainder=False, empty=Rows(4).batch(0, 0)
    )
    return [float(batch.normalizer) for batch in agreed]


def test_a_step_without_any_weight_divides_by_one():
    assert run(normalizers_of_weightless_rows, 2) == [[1.0], [1.0]]


# pipelines


def losses_of_pipeline(ranks: Ranks, overlapping: bool, leave_in_the_middle: bool):
    """Returns what two epochs give, and how many batches each had."""
    model = sharded_model(ranks, RULES["adagrad"])
    optimizer = build_optimizer(dense_sgd(), model, RULES["adagrad"])
    if overlapping:
        pipeline = TrainPipelineSparseDist(model, optimizer, ranks.device)
    else:
        pipeline = train_pipeline(model, optimizer, ranks)
    rows = Rows(NUM_ROWS)
    logits: list[Tensor] = []
    lengths = []
    for _ in range(2):
        share = [rows.batch(*share) for share in HALVES[ranks.rank]]
        batches = agree(
            iter(share), ranks, weigh=weight_of, drop_remainder=False, empty=rows.batch(0, 0)
        )
        outputs = []
        for output, batch in iterate(pipeline, batches):
            outputs.append(output)
            assert len(batch) == len(output)
            if leave_in_the_middle:
                detached = pipeline.detach().eval()
                with torch.no_grad():
                    detached(
                        next(
                            agree(
                                iter([rows.batch(0, 3)]),
                                ranks,
                                weigh=number_of,
                                drop_remainder=False,
                                empty=rows.batch(0, 0),
                            )
                        )
                    )
                detached.train()
                pipeline.attach()
        logits += outputs
        lengths.append(len(outputs))
    return torch.cat(logits), lengths


@pytest.mark.parametrize("leave_in_the_middle", [False, True])
def test_the_plain_and_the_overlapping_pipeline_train_alike_for_two_epochs(leave_in_the_middle):
    plain = run(losses_of_pipeline, 2, False, leave_in_the_middle)
    overlapping = run(losses_of_pipeline, 2, True, leave_in_the_middle)

    for (logits, lengths), (expected, expected_lengths) in zip(overlapping, plain, strict=True):
        assert lengths == expected_lengths == [3, 3]
        torch.testing.assert_close(logits, expected)


# process groups and failures


def members(ranks: Ranks) -> tuple[int, int, int, int, str]:
    return (
        ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size, ranks.device.type
    )  # fmt: skip


def test_ranks_know_their_place():
    assert run(members, 2) == [(0, 2, 0, 2, "cpu"), (1, 2, 1, 2, "cpu")]


def groups_one_after_the_other() -> list[int]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        del os.environ[name]
    sizes = []
    for _ in range(2):
        with process_group() as ranks:
            sharded_model(ranks, RULES["sgd"])(
                next(
                    agree(
                        iter([Rows(4).batch(0, 4)]),
                        ranks,
                        weigh=number_of,
                        drop_remainder=False,
                        empty=Rows(4).batch(0, 0),
                    )
                )
            )
            sizes.append(ranks.world_size)
    with pytest.raises(KeyError), process_group():
        raise KeyError
    assert not dist.is_initialized()
    return sizes


def test_a_process_alone_needs_no_torchrun_and_can_form_groups_again():
    assert spawn(groups_one_after_the_other, 1) == [[1, 1]]


def num_threads(set_by_user: bool) -> int:
    if set_by_user:
        torch.set_num_threads(1)
    else:
        del os.environ["OMP_NUM_THREADS"]
    with process_group():
        return torch.get_num_threads()


def test_ranks_of_a_machine_share_its_cores_unless_the_user_decides():
    cores = len(os.sched_getaffinity(0))

    assert spawn(num_threads, 1, False)[0] <= cores
    assert spawn(num_threads, 2, False) == [max(1, cores // 2)] * 2
    assert spawn(num_threads, 2, True) == [1, 1]


def result_of_rank_0(ranks: Ranks) -> str:
    return on_rank_0(ranks, lambda: f"from {ranks.rank}")


def failure_of_rank_0(ranks: Ranks) -> str:
    def fail() -> None:
        raise PermissionError(13, "not here", "model_dir")

    with pytest.raises(PermissionError, match="model_dir") as caught:
        on_rank_0(ranks, fail)
    return str(caught.value)


def test_what_rank_0_returns_or_raises_comes_to_every_rank():
    assert run(result_of_rank_0, 2) == ["from 0", "from 0"]
    first, second = run(failure_of_rank_0, 2)
    assert first == second


def meet(seconds: float, started: list[float]) -> None:
    with process_group(timeout=timedelta(seconds=1)) as ranks:
        started.append(time.monotonic())
        if ranks.rank == 1:
            time.sleep(seconds)
        dist.barrier(ranks.control)


def wait_for_a_rank_that_does_not_come(seconds: float) -> float:
    started: list[float] = []
    with pytest.raises(RuntimeError):
        meet(seconds, started)
    return time.monotonic() - started[0]


def test_the_timeout_ends_the_wait_for_a_rank_that_does_not_come():
    waited, _ = spawn(wait_for_a_rank_that_does_not_come, 2, 6.0)

    assert waited < 5


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
FAILING_TRAINING = """
import torch.distributed as dist
from tzrec_core.distributed.ranks import process_group

with process_group() as ranks:
    if ranks.rank == 1:
        raise ValueError("column 'price' is missing")
    dist.barrier()  # of the group that the model trains with
"""


def test_a_failing_rank_ends_the_job_with_its_error(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(FAILING_TRAINING)
    started = time.monotonic()

    root = str(Path(__file__).parents[3])
    job = subprocess.run(
        [sys.executable, *TORCHRUN, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root},
    )

    assert job.returncode != 0
    assert "ValueError: column 'price' is missing" in job.stderr
    assert time.monotonic() - started < 100  # the default timeout is 30 minutes


def test_the_rank_helper_reports_the_traceback_of_a_rank(tmp_path):
    with pytest.raises(RankError, match="ZeroDivisionError"):
        run(divide_by_rank, 2)


def divide_by_rank(ranks: Ranks) -> float:
    return 1 / ranks.rank


def test_the_rank_helper_does_not_wait_for_ever():
    with pytest.raises(RankError, match=r"ranks \[1\] did not end in time"):
        spawn(sleep_on_rank_1, 2, timeout=4.0)


def sleep_on_rank_1() -> None:
    if os.environ["RANK"] == "1":
        time.sleep(60)
