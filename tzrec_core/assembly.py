"""From the config to what trains: the sharded model, its optimizer, and the data of each split."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.checkpoints import restoring
from tzrec_core.data.build import build_dataset
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed.build import build_constraints
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.features.build import build_schema
from tzrec_core.features.schema import BatchSchema
from tzrec_core.machine import keep_freed_memory
from tzrec_core.models.build import build_model
from tzrec_core.optim.build import (
    build_dense_factory,
    build_loss_scale,
    build_optimizer,
    build_stepper,
)
from tzrec_core.optim.dense import assign, dense_parameters
from tzrec_core.optim.pareto import ParetoBalance
from tzrec_core.optim.precision import autocast_dtype
from tzrec_core.optim.sparse import apply_sparse_optimizer, kernel_for, sgd
from tzrec_core.optim.stepping import Stepper
from tzrec_core.optim.tables.build import build_sparse_rule
from tzrec_core.protos import eval_pb2, export_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TaskMetrics, TrainMetrics
from tzrec_core.task_model import TaskModel
from tzrec_core.tasks import Task, build_tasks

SEED = 0
"""Of initial values and of the order of rows."""


@dataclass(frozen=True)
class Job:
    """What a training or evaluation works on.

    Attributes:
        model: The sharded ``TaskModel``.
        optimizer: Of sparse and dense parameters.
        stepper: What trains them with it.
        schema: What a batch is made of.
        tasks: What the model is trained for.
        balance: What weighs the tasks while training, beside their own weights; None: nothing.
    """

    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    stepper: Stepper
    schema: BatchSchema
    tasks: tuple[Task, ...]
    balance: ParetoBalance | None


def assemble(config: EasyRecConfig, ranks: Ranks, *, training: bool = True) -> Job:
    """Builds and shards the model and its optimizer on every rank.

    Args:
        config: Of the model.
        ranks: From ``process_group``.
        training: False spares the memory of the sparse optimizer's state, and takes a sparse
            optimizer and compute kernels that this kind of device does not have.

    Raises:
        ValueError: The config asks for what cannot be built, or the tables do not fit.
    """
    keep_freed_memory()
    schema, train_config = build_schema(config), config.train_config
    tasks = build_tasks(config)
    torch.manual_seed(SEED)
    model = TaskModel(
        build_model(config.model_config, schema.features, device=torch.device("meta")), tasks
    )
    head = model.model.head
    head.training_dtype = autocast_dtype(train_config.mixed_precision)
    model.scoring.loss_scale = build_loss_scale(train_config)
    rule = sgd(lr=0.0, gradient_clipping=False, max_gradient=1.0)
    if training:
        rule = build_sparse_rule(train_config.sparse_optimizer, device_type=ranks.device.type)
    apply_sparse_optimizer(model, rule)
    constraints = build_constraints(
        config, schema.features, device_type=ranks.device.type, training=training
    )
    with kernel_for(rule):
        sharded = shard(
            model,
            ranks,
            batch_size=config.data_config.batch_size,
            seed=SEED,
            constraints=constraints,
        )
    balance = None
    if config.model_config.use_pareto_loss_weight:
        bounds = [task.least_share for task in tasks]
        balance = ParetoBalance(list(dense_parameters(sharded).values()), bounds, ranks)
    model.scoring.balance = balance
    optimizer = build_optimizer(train_config.dense_optimizer, sharded, rule)
    stepper = build_stepper(
        train_config,
        sharded,
        optimizer,
        ranks,
        gate=head.gate,
        loss_scale=model.scoring.loss_scale,
    )
    return Job(
        model=sharded,
        optimizer=optimizer,
        stepper=stepper,
        schema=schema,
        tasks=tasks,
        balance=balance,
    )


def uses_averages(
    config: EasyRecConfig, purpose: eval_pb2.EvalConfig | export_pb2.ExportConfig
) -> bool:
    """Returns whether averages take the place of dense parameters in evaluation or export."""
    if purpose.HasField("use_dense_ema"):
        return bool(purpose.use_dense_ema)
    return bool(config.train_config.dense_optimizer.HasField("ema"))


def unsharded(config: EasyRecConfig, path: Path, *, averaged: bool = False) -> TaskModel:
    """Returns the model of checkpoint ``path`` on the CPU, in evaluation mode, whole in memory.

    Args:
        config: Of the model.
        path: A checkpoint's folder.
        averaged: Take the averages of dense parameters in their place.

    Raises:
        ValueError: The checkpoint is damaged or of another model.
    """
    schema = build_schema(config)
    model = TaskModel(
        build_model(config.model_config, schema.features, device=torch.device("cpu")),
        build_tasks(config),
    )
    restoring.load_unsharded(path, model)
    if averaged:
        restoring.load_averages(path, dict(model.named_parameters()), None)
    return model.eval()


def check_model(config: EasyRecConfig) -> None:
    """Builds the model, its tasks, metrics and optimizers' rules, without memory for weights.

    A mistake that only building finds, such as an activation that does not exist, shows up here
    before anything expensive has been done.

    Raises:
        ValueError: The config asks for what cannot be built.
    """
    schema = build_schema(config)
    TaskMetrics(config)
    TrainMetrics(config)
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    rule = build_sparse_rule(config.train_config.sparse_optimizer, device_type=device_type)
    build_constraints(config, schema.features, device_type=device_type)
    dense = config.train_config.dense_optimizer
    for optimizer in (dense, *dense.part_optimizers):
        build_dense_factory(optimizer)
    meta = torch.device("meta")
    with meta:
        model = TaskModel(
            build_model(config.model_config, schema.features, device=meta), build_tasks(config)
        )
    apply_sparse_optimizer(model, rule)
    assign(dense_parameters(model), [part.regex_pattern for part in dense.part_optimizers])


def share_of_rows(
    config: EasyRecConfig,
    schema: BatchSchema,
    ranks: Ranks,
    *,
    training: bool,
    told_apart: bool = False,
) -> Dataset:
    """Returns this rank's share of the training rows, or of the evaluation rows.

    Args:
        config: Says where the rows are.
        schema: What a batch is made of.
        ranks: From ``process_group``.
        training: The training rows.
        told_apart: With the numbers of rows and what slices are made by.
    """
    return build_dataset(
        config,
        schema if told_apart else dataclasses.replace(schema, slices=()),
        input_path=config.train_input_path if training else config.eval_input_path,
        training=training,
        rank=ranks.rank,
        world_size=ranks.world_size,
        number_rows=told_apart,
    )
