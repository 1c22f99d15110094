"""From the config to what trains: the sharded model, its optimizer, and the data of each split."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core import checkpoint
from tzrec_core.batch import Batch
from tzrec_core.data.build import build_dataset
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed import Ranks, shard
from tzrec_core.features.build import build_schema
from tzrec_core.features.schema import BatchSchema
from tzrec_core.models.build import build_model
from tzrec_core.models.rank_model import RankModel
from tzrec_core.optim.build import build_dense_factory, build_optimizer, build_sparse_rule
from tzrec_core.optim.sparse import apply_sparse_optimizer
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import (
    Task,
    TaskMetrics,
    TrainMetrics,
    build_task,
    predictions,
    task_losses,
)

SEED = 0
"""Of initial values and of the order of rows."""

Losses = dict[str, Tensor]
Predictions = dict[str, Tensor]
StepOutput = tuple[Losses, Predictions, Batch]


class Scoring(nn.Module):
    """What a task makes of logits; a module because the GPU's train pipeline traces the model.

    Tracing stops at modules without embedding tables, so nothing in here needs to be traceable.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, logits: Tensor, batch: Batch) -> tuple[Tensor, StepOutput]:
        # Rows that are only to be scored come without their label.
        losses = task_losses(self.task, logits, batch) if self.task.label in batch.labels else {}
        total = sum(losses.values(), logits.new_zeros(()))
        detached = {name: loss.detach() for name, loss in losses.items()}
        return total, (detached, predictions(self.task, logits.detach()), batch)


class TaskModel(nn.Module):
    """A model with its task: scores a batch and says how wrong it was."""

    def __init__(self, model: RankModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.scoring = Scoring(task)

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Returns the 0-d loss to minimise and, detached, (losses, predictions, batch)."""
        total, output = self.scoring(self.model(batch), batch)
        return total, output


@dataclass(frozen=True)
class Job:
    """What a training or evaluation works on.

    Attributes:
        model: The sharded ``TaskModel``.
        optimizer: Of sparse and dense parameters.
        schema: What a batch is made of.
    """

    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    schema: BatchSchema
    task: Task


def assemble(config: EasyRecConfig, ranks: Ranks) -> Job:
    """Builds and shards the model and its optimizer on every rank.

    Raises:
        ValueError: The config asks for what cannot be built, or the tables do not fit.
    """
    schema = build_schema(config)
    task = build_task(config)
    torch.manual_seed(SEED)
    model = TaskModel(
        build_model(config.model_config, schema.features, device=torch.device("meta")), task
    )
    rule = build_sparse_rule(config.train_config.sparse_optimizer)
    apply_sparse_optimizer(model, rule)
    sharded = shard(model, ranks, batch_size=config.data_config.batch_size, seed=SEED)
    optimizer = build_optimizer(config.train_config.dense_optimizer, sharded, rule)
    return Job(model=sharded, optimizer=optimizer, schema=schema, task=task)


def unsharded(config: EasyRecConfig, path: Path) -> TaskModel:
    """Returns the model of checkpoint ``path`` on the CPU, in evaluation mode, whole in memory.

    Raises:
        ValueError: The checkpoint is damaged or of another model.
    """
    schema = build_schema(config)
    model = TaskModel(
        build_model(config.model_config, schema.features, device=torch.device("cpu")),
        build_task(config),
    )
    checkpoint.load_unsharded(path, model)
    return model.eval()


def check_model(config: EasyRecConfig) -> None:
    """Builds the model, its task and metrics and its optimizers' rules, without memory for weights.

    A mistake that only building finds, such as an activation that does not exist, shows up here
    before anything expensive has been done.

    Raises:
        ValueError: The config asks for what cannot be built.
    """
    schema = build_schema(config)
    TaskMetrics(config)
    TrainMetrics(config)
    build_sparse_rule(config.train_config.sparse_optimizer)
    build_dense_factory(config.train_config.dense_optimizer)
    meta = torch.device("meta")
    with meta:
        build_model(config.model_config, schema.features, device=meta)


def share_of_rows(
    config: EasyRecConfig, schema: BatchSchema, ranks: Ranks, *, training: bool
) -> Dataset:
    """Returns this rank's share of the training rows, or of the evaluation rows."""
    return build_dataset(
        config,
        schema,
        input_path=config.train_input_path if training else config.eval_input_path,
        training=training,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
