"""Training with schedules, parts, clipping, accumulation and scaled losses is what torch does."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from google.protobuf import text_format
from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.distributed.ranks import RankError, run
from tests.tzrec_core.small_model import (
    Rows,
    SmallModel,
    Twin,
    local_weights,
    weight_of,
    whole,
)
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.modules.gradient_gate import GradientGate
from tzrec_core.optim.accumulation import accumulated
from tzrec_core.optim.build import build_loss_scale, build_optimizer, build_stepper
from tzrec_core.optim.sparse import apply_sparse_optimizer, kernel_for
from tzrec_core.optim.tables.build import build_sparse_rule
from tzrec_core.protos import optimizer_pb2, train_pb2

NUM_ROWS = 24
SGD = "sparse_optimizer { sgd_optimizer { lr: 0.5 } }"
FROZEN = "sparse_optimizer { sgd_optimizer { lr: 0 } }"


class Top(nn.Module):
    """The small model's head, with what the trainer's model does to losses and gradients."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.gate = GradientGate()
        self.head = head
        self.loss_scale = None

    def forward(self, embeddings, batch):
        (embeddings,) = self.gate([embeddings])
        loss, output = self.head(embeddings, batch)
        share = 1.0 if batch.share is None else batch.share
        scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
        return loss * share * scale, output


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        small = SmallModel()
        self.ebc = small.ebc
        self.top = Top(small.head)

    def forward(self, batch):
        loss, output = self.top(self.ebc(batch.sparse), batch)
        return loss, output


class DistinctRows(Rows):
    """Row i looks up id i of every table, for the first rows."""

    def __init__(self, num_rows: int) -> None:
        super().__init__(num_rows)
        self.ids = {key: [torch.tensor([row % 5]) for row in range(num_rows)] for key in self.ids}


@dataclasses.dataclass
class Run:
    """What a rank saw: its parameters before and after, and what was logged at each batch."""

    before: dict
    after: dict
    values: list
    averages: dict | None
    state: dict


def train(
    ranks: Ranks, text: str, slices, *, num_batches=1, spoiled=(), rows=Rows, ahead=False
) -> Run:
    """Trains on slices of rows, shared evenly among ranks; NaN in the rows that are ``spoiled``."""
    config = text_format.Parse(text, train_pb2.TrainConfig())
    torch.manual_seed(0)
    model = Scaled()
    model.top.loss_scale = build_loss_scale(config)
    rule = build_sparse_rule(config.sparse_optimizer, device_type=ranks.device.type)
    apply_sparse_optimizer(model, rule)
    with kernel_for(rule):
        sharded = shard(model, ranks, batch_size=8, seed=1)
    optimizer = build_optimizer(config.dense_optimizer, sharded, rule)
    stepper = build_stepper(
        config, sharded, optimizer, ranks, gate=model.top.gate, loss_scale=model.top.loss_scale
    )
    before = local_weights(sharded)
    rows = rows(NUM_ROWS)
    rows.dense[list(spoiled)] = math.nan
    shares = [share_of(ranks, *piece) for piece in slices]
    batches = agree(
        iter([rows.batch(*share) for share in shares]),
        ranks,
        weigh=weight_of,
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    batches = stepper.expected(accumulated(batches, num_batches=num_batches, limit=None))
    pipeline = train_pipeline(sharded, stepper, ranks)
    if ahead:
        pipeline = TrainPipelineSparseDist(sharded, stepper, ranks.device)
    values = []
    while True:
        stepper.schedule(step=len(values), epoch=len(values) // 2)
        try:
            pipeline.progress(batches)
        except StopIteration:
            break
        values.append(stepper.values())
    averages = None if stepper.averages is None else stepper.averages.values
    return Run(before, local_weights(sharded), values, averages, stepper.state())


def share_of(ranks: Ranks, start: int, stop: int) -> tuple[int, int]:
    size = (stop - start) / ranks.world_size
    return start + round(ranks.rank * size), start + round((ranks.rank + 1) * size)


def trained(world_size, text, slices, **arguments):
    """Returns all parameters before and after, and the run of rank 0."""
    runs = run(train_with, world_size, text, slices, arguments)
    before = unprefixed(whole([of_rank.before for of_rank in runs]))
    after = unprefixed(whole([of_rank.after for of_rank in runs]))
    return before, after, runs[0]


def train_with(ranks: Ranks, text, slices, arguments) -> Run:
    return train(ranks, text, slices, **arguments)


def unprefixed(weights):
    return {name.removeprefix("top."): weight for name, weight in weights.items()}


def pieces(*bounds):
    return list(pairwise(bounds))


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name].detach(), **tolerance)


class Reference:
    """The twin, with SGD for its tables and a torch optimizer for each dense parameter."""

    def __init__(self, before, make_weight, make_bias, *, table_lr=0.5) -> None:
        self.twin = Twin(before)
        self.rows = Rows(NUM_ROWS)
        self.optimizers = [
            torch.optim.SGD(list(self.twin.bags.values()), lr=table_lr),
            make_weight([self.twin.weight]),
            make_bias([self.twin.bias]),
        ]

    def step(self, start, stop, *, clip=None):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.twin.loss(self.rows, start, stop).backward()
        if clip is not None:
            clip([self.twin.weight, self.twin.bias])
        for optimizer in self.optimizers:
            optimizer.step()

    def weights(self):
        return self.twin.weights()


OPTIMIZERS = {
    "sgd_optimizer { lr: 0.1 weight_decay: 0.01 dampening: 0.1 }": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.01, dampening=0.1
    ),
    "sgd_optimizer { lr: 0.1 nesterov: true }": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True
    ),
    "adagrad_optimizer { lr: 0.1 initial_accumulator_value: 0.1 }": lambda p: torch.optim.Adagrad(
        p, lr=0.1, initial_accumulator_value=0.1
    ),
    "adam_optimizer { lr: 0.1 beta1: 0.8 amsgrad: true }": lambda p: torch.optim.Adam(
        p, lr=0.1, betas=(0.8, 0.999), amsgrad=True
    ),
    "adam_optimizer { lr: 0.1 fused: true }": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw_optimizer { lr: 0.1 weight_decay: 0.1 }": lambda p: torch.optim.AdamW(
        p, lr=0.1, weight_decay=0.1
    ),
    "adadelta_optimizer { lr: 0.5 rho: 0.8 }": lambda p: torch.optim.Adadelta(p, lr=0.5, rho=0.8),
    "rmsprop_optimizer { lr: 0.1 alpha: 0.8 }": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.8),
}
DECAY = "exponential_decay_learning_rate { decay_size: 1 decay_factor: 0.5 }"


@pytest.mark.parametrize("text", OPTIMIZERS)
def test_each_dense_optimizer_trains_as_torchs_with_the_rates_of_its_schedule(text):
    slices = pieces(0, 8, 16, 24)
    config = f"{SGD} dense_optimizer {{ {text} {DECAY} }}"

    before, after, _ = trained(1, config, slices)

    make = OPTIMIZERS[text]
    reference = Reference(before, make, make)
    for piece in slices:
        reference.step(*piece)
        for optimizer in reference.optimizers[1:]:
            optimizer.param_groups[0]["lr"] *= 0.5
    assert_same(after, reference.weights(), atol=1e-6, rtol=1e-5)


PARTS = """
dense_optimizer {
  sgd_optimizer { lr: 0.1 }
  part_optimizers { regex_pattern: ".*weight" adam_optimizer { lr: 0.05 }
    manual_step_learning_rate { schedule_sizes: 1 learning_rates: 0.01 by_epoch: true } }
}
"""


@pytest.mark.parametrize("world_size", [1, 2])
def test_parts_have_their_own_optimizer_and_rates_which_are_logged_with_the_step(world_size):
    slices = pieces(0, 6, 12, 18, 24)  # an epoch is two steps

    before, after, rank_0 = trained(world_size, SGD + PARTS, slices)

    reference = Reference(
        before,
        lambda p: torch.optim.Adam(p, lr=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    )
    for step, piece in enumerate(slices):
        if step == 2:
            reference.optimizers[1].param_groups[0]["lr"] = 0.01
        reference.step(*piece)
    assert_same(after, reference.weights(), atol=1e-6, rtol=1e-5)
    assert [values["lr/g2"] for values in rank_0.values] == pytest.approx([0.05, 0.05, 0.01, 0.01])
    assert [values["lr/g1"] for values in rank_0.values] == pytest.approx([0.1] * 4)
    assert [values["lr/g0"] for values in rank_0.values] == pytest.approx([0.5] * 4)


SPARSE_DECAY = f"sparse_optimizer {{ sgd_optimizer {{ lr: 0.5 }} {DECAY} }}"
PLAIN = "dense_optimizer { sgd_optimizer { lr: 0.1 } }"


@pytest.mark.parametrize("world_size", [1, 2])
def test_tables_are_trained_with_the_rate_of_their_step(world_size):
    slices = pieces(0, 8, 16, 24)

    before, after, rank_0 = trained(world_size, SPARSE_DECAY + PLAIN, slices)

    def sgd(p):
        return torch.optim.SGD(p, lr=0.1, momentum=0.9)

    reference = Reference(before, sgd, sgd)
    for step, piece in enumerate(slices):
        reference.optimizers[0].param_groups[0]["lr"] = [0.5, 0.25, 0.125][step]
        reference.step(*piece)
    assert_same(after, reference.weights(), atol=1e-6, rtol=1e-5)
    assert [values["lr/g0"] for values in rank_0.values] == [0.5, 0.25, 0.125]


SPARSE = optimizer_pb2.SparseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields
STOPS = "manual_step_learning_rate { schedule_sizes: 1 learning_rates: 0 }"


def tables_after_one_and_two_steps(ranks: Ranks, kind: str) -> list[bool]:
    # The velocity of LARS has the rate in it and outlives it.
    momentum = "momentum: 0" if kind == "lars_sgd_optimizer" else ""
    text = f"sparse_optimizer {{ {kind} {{ lr: 0.5 {momentum} }} {STOPS} }} {PLAIN}"
    one, two = (train(ranks, text, pieces(0, *ends)) for ends in ((8,), (8, 16)))
    tables = [name for name in one.before if "ebc" in name]
    assert tables
    return [
        any(not torch.equal(one.after[name], one.before[name]) for name in tables),
        any(not torch.equal(two.after[name], one.after[name]) for name in tables),
    ]


@pytest.mark.parametrize("field", SPARSE, ids=lambda field: field.name)
def test_every_sparse_optimizer_takes_the_rate_of_its_step(field):
    assert run(tables_after_one_and_two_steps, 1, field.name) == [[True, False]]


CLIPS = {
    'clipping_type: "norm" max_gradient: 0.05': lambda p: nn.utils.clip_grad_norm_(p, 0.05),
    'clipping_type: "norm" max_gradient: 0.05 norm_type: inf': lambda p: nn.utils.clip_grad_norm_(
        p, 0.05, math.inf
    ),
    'clipping_type: "value" max_gradient: 0.01': lambda p: nn.utils.clip_grad_value_(p, 0.01),
    'clipping_type: "none"': None,
}


@pytest.mark.parametrize("text", CLIPS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_gradient_over_all_ranks_and_parts_is_clipped(world_size, text):
    slices = pieces(0, 8, 24)
    config = f"{SGD} {PARTS} grad_clipping {{ {text} enable_global_grad_clip: true }}"

    before, after, _ = trained(world_size, config, slices)

    reference = Reference(
        before,
        lambda p: torch.optim.Adam(p, lr=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    )
    for piece in slices:
        reference.step(*piece, clip=CLIPS[text])
    assert_same(after, reference.weights(), atol=1e-6, rtol=1e-5)


ADAM = "dense_optimizer { adam_optimizer { lr: 0.05 } ema { decay: 0.75 } }"


# Batches of different sizes, hence weights; the last step has only one.
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_accumulate_to_one_batch_for_the_dense_parameters(world_size):
    small = pieces(0, 2, 9, 14, 20, 24)

    before, after, rank_0 = trained(world_size, FROZEN + ADAM, small, num_batches=2)

    def adam(p):
        return torch.optim.Adam(p, lr=0.05)

    reference = Reference(before, adam, adam, table_lr=0.0)
    for piece in pieces(0, 9, 20, 24):
        reference.step(*piece)
    assert_same(after, reference.weights(), atol=1e-6, rtol=1e-5)
    assert rank_0.state["num_updates"] == rank_0.state["num_averaged"] == 3


@pytest.mark.parametrize("rule", ["sgd_optimizer { lr: 0.5 }", "adagrad_optimizer { lr: 0.5 }"])
def test_rows_that_only_one_of_the_batches_looks_up_are_trained_as_by_one_batch(rule):
    config = f"sparse_optimizer {{ {rule} }} {ADAM}"

    before, ours, _ = trained(1, config, pieces(0, 2, 5), num_batches=2, rows=DistinctRows)
    _, together, _ = trained(1, config, pieces(0, 5), rows=DistinctRows)

    assert_same(ours, together, atol=1e-6, rtol=1e-5)
    table = "ebc.embedding_bags.a.weight"
    assert (together[table] != before[table]).all()


ADAGRAD = "sparse_optimizer { adagrad_optimizer { lr: 0.5 } }"


@pytest.mark.parametrize("rule", [SGD, ADAGRAD])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_scaled_loss_trains_the_same_model_to_the_bit(world_size, rule):
    slices = pieces(0, 4, 8, 12, 16, 20, 24)
    clip = 'grad_clipping { clipping_type: "norm" max_gradient: 0.1 }'
    scaler = "grad_scaler { init_scale: 1024 growth_interval: 2 }"

    _, plain, _ = trained(world_size, rule + ADAM + clip, slices, num_batches=2)
    _, scaled, rank_0 = trained(world_size, rule + ADAM + clip + scaler, slices, num_batches=2)

    assert_same(scaled, plain, atol=0, rtol=0)
    assert [values["loss_scale"] for values in rank_0.values] == [1024] * 3 + [2048] * 3
    assert rank_0.state["loss_scale"] == [2048, 1]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_that_overflows_on_any_rank_is_left_out_everywhere(world_size):
    scaler = "grad_scaler { init_scale: 1024 }"
    kept = pieces(0, 8) + pieces(16, 24)

    _, without, _ = trained(world_size, ADAGRAD + ADAM + scaler, kept)
    _, with_, rank_0 = trained(
        world_size, ADAGRAD + ADAM + scaler, pieces(0, 8, 16, 24), spoiled=[15]
    )

    assert_same(with_, without, atol=0, rtol=0)
    assert [values["loss_scale"] for values in rank_0.values] == [1024, 512, 512]
    assert rank_0.state["num_updates"] == rank_0.state["num_averaged"] == 2


def test_an_overflow_leaves_out_the_rest_of_an_accumulated_step():
    config = ADAGRAD + ADAM + "grad_scaler { init_scale: 1024 }"

    _, without, _ = trained(1, config, pieces(0, 4) + pieces(12, 16, 20), num_batches=3)
    before, with_, rank_0 = trained(1, config, pieces(0, 4, 8, 12), num_batches=3, spoiled=[5])

    # The first batch has been used for the tables before; nothing else has.
    for name in ("head.linear.weight", "head.linear.bias"):
        assert torch.equal(with_[name], before[name])
    assert rank_0.state["num_updates"] == 0
    table = "ebc.embedding_bags.c.weight"
    changed = (with_[table] != before[table]).any(dim=1)
    assert changed.any()
    assert set(changed.nonzero().flatten().tolist()) <= set(
        torch.cat(Rows(NUM_ROWS).ids["fc"][0:4]).tolist()
    )
    assert not torch.equal(without[table], before[table])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pipeline_that_reads_ahead_makes_the_same_steps(world_size):
    config = f"""
        sparse_optimizer {{ adagrad_optimizer {{ lr: 0.5 }} {DECAY} }}
        dense_optimizer {{ adam_optimizer {{ lr: 0.05 }} {DECAY} ema {{ decay: 0.75 }} }}
        grad_scaler {{ init_scale: 1024 growth_interval: 1 }}"""
    slices = pieces(0, 4, 8, 12, 16, 20, 22, 24)

    runs = [
        trained(world_size, config, slices, num_batches=2, spoiled=[9], ahead=ahead)
        for ahead in (False, True)
    ]

    (_, plain, of_plain), (_, overlapping, of_overlapping) = runs
    assert_same(overlapping, plain, atol=0, rtol=0)
    assert of_overlapping.values == of_plain.values
    assert of_overlapping.state == of_plain.state
    assert of_plain.state["num_updates"] == 3  # of four steps, the last of one batch


def test_gradients_that_are_never_finite_end_the_training():
    scaler = "grad_scaler { init_scale: 1e-7 }"

    with pytest.raises(RankError, match="FloatingPointError: gradients are NaN or infinite even"):
        run(train_with, 1, SGD + ADAM + scaler, pieces(0, 8, 16), {"spoiled": [0, 8]})


def test_averages_are_of_all_dense_parameters_on_every_rank():
    slices = pieces(0, 8, 16, 24)

    runs = run(
        train_with,
        2,
        SGD + PARTS.replace("{ lr: 0.1 }", "{ lr: 0.1 } ema { decay: 0.75 }"),
        slices,
        {},
    )
    history = [run(train_with, 2, SGD + PARTS, slices[:end], {})[0].after for end in (1, 2, 3)]

    for of_rank in runs:
        assert set(of_rank.averages) == {"top.head.linear.weight", "top.head.linear.bias"}
        for name, average in of_rank.averages.items():
            first, second, third = (then[name] for then in history)
            expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
            torch.testing.assert_close(average, expected)
