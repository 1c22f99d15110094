"""Trains the small model for a few steps, and saves it."""

from pathlib import Path

import torch
from torch import nn

from tests.tzrec_core.small_model import Rows, weight_of
from tzrec_core.checkpoints import writer as checkpoint_writer
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import (
    SparseRule,
    adagrad,
    apply_sparse_optimizer,
    rowwise_adagrad,
    sgd,
)
from tzrec_core.protos import optimizer_pb2

ADAGRAD = adagrad(lr=0.5, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.1)
ROWWISE = rowwise_adagrad(lr=0.5, gradient_clipping=False, max_gradient=1.0)
SGD = sgd(lr=0.5, gradient_clipping=False, max_gradient=1.0)
DENSE = {
    "adam": optimizer_pb2.DenseOptimizer(adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.1)),
    "adamw": optimizer_pb2.DenseOptimizer(
        adamw_optimizer=optimizer_pb2.AdamWOptimizer(lr=0.1, weight_decay=0.5, amsgrad=True)
    ),
    "fused": optimizer_pb2.DenseOptimizer(
        adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.1, fused=True)
    ),
    "momentum": optimizer_pb2.DenseOptimizer(
        sgd_optimizer=optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.9, weight_decay=0.1)
    ),
    "adagrad": optimizer_pb2.DenseOptimizer(
        adagrad_optimizer=optimizer_pb2.AdagradOptimizer(lr=0.1, initial_accumulator_value=0.2)
    ),
    "plain": optimizer_pb2.DenseOptimizer(
        sgd_optimizer=optimizer_pb2.SGDOptimizer(lr=0.3, momentum=0.0)
    ),
}


def build(ranks: Ranks, rule: SparseRule, dense: str, model: nn.Module, seed: int = 1):
    torch.manual_seed(seed)
    apply_sparse_optimizer(model, rule)
    sharded = shard(model, ranks, batch_size=8, seed=seed)
    return sharded, build_optimizer(DENSE[dense], sharded, rule)


def train(ranks: Ranks, model, optimizer, first: int, last: int) -> None:
    """Trains on rows first .. last, 8 a step, each rank on its share of every 8."""
    rows = Rows(48)
    share = 8 // ranks.world_size
    starts = [start + ranks.rank * share for start in range(first, last, 8)]
    batches = agree(
        iter([rows.batch(start, start + share) for start in starts]),
        ranks,
        weigh=weight_of,
        drop_remainder=False,
        empty=rows.batch(0, 0),
    )
    pipeline = train_pipeline(model, optimizer, ranks)
    for _ in starts:
        pipeline.progress(batches)


def save(ranks: Ranks, model_dir: Path, step: int, model, optimizer, **changes) -> Path:
    position = {"epoch": 0, "consumed": {}, "state": {}, **changes}
    content = checkpoint_writer.collect(step, ranks, model=model, optimizer=optimizer, **position)
    return checkpoint_writer.write(model_dir, content, ranks)
