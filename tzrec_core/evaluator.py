"""Scores evaluation rows with a model and computes the configured metrics."""

import logging
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from tzrec_core import checkpoint, eval_result
from tzrec_core.assembly import assemble, eval_data
from tzrec_core.batch import Batch
from tzrec_core.data.collate import empty_batch
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed import Ranks, agree, process_group
from tzrec_core.features.schema import BatchSchema
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import Task, TaskMetrics, checked

log = logging.getLogger(__name__)


def evaluate(
    model: nn.Module,
    data: Dataset,
    metrics: TaskMetrics,
    *,
    schema: BatchSchema,
    task: Task,
    ranks: Ranks,
    num_steps: int | None,
    log_every: int,
) -> dict[str, float]:
    """Returns the metrics of ``model`` over the rows of ``data``, the same on every rank.

    Every row counts once, however unevenly ranks share them. The model comes back in the mode
    it was in.

    Args:
        model: A sharded ``TaskModel``.
        data: This rank's share of the rows.
        metrics: What to compute; left empty.
        schema: What a batch is made of.
        task: Whose sample weight the losses use.
        ranks: All of them must call.
        num_steps: Evaluate at most so many batches a rank; None: all.
        log_every: Batches between two progress lines; 0: none.

    Raises:
        ValueError: There is not a single row, or a label that the losses cannot take.
    """
    batches: Iterator[Batch] = agree(
        checked(data.batches(0), task),
        ranks,
        loss_weight=task.sample_weight,
        drop_remainder=False,
        empty=empty_batch(schema),
    )
    was_training = model.training
    model.eval()
    started = time.perf_counter()
    num_batches = 0
    with torch.no_grad():
        for batch in islice(batches, num_steps):
            _, (_, predictions, scored) = model(batch.to(ranks.device))
            if len(scored):
                metrics.update(predictions, scored)
            num_batches += 1
            if log_every and num_batches % log_every == 0 and ranks.rank == 0:
                rate = num_batches / (time.perf_counter() - started)
                log.info("Evaluating: %dit [%.2fit/s]", num_batches, rate)
    model.train(was_training)
    if num_batches == 0:
        raise ValueError("there is no row to evaluate: the evaluation input is empty")
    results = metrics.compute()
    metrics.reset()
    return results


def evaluate_checkpoint(
    config: EasyRecConfig, *, checkpoint_path: Path, result_path: Path
) -> dict[str, float]:
    """Evaluates one checkpoint on ``config.eval_input_path`` and appends a line to a file.

    Runs on every rank that torchrun starts, or alone.

    Raises:
        ValueError: A mistake in the config or the data, or the checkpoint is unusable.
    """
    with process_group() as ranks:
        job = assemble(config, ranks)
        restored = checkpoint.restore(checkpoint_path, ranks, model=job.model, optimizer=None)
        results = evaluate(
            job.model,
            eval_data(config, job.schema, ranks),
            TaskMetrics(config).to(ranks.device),
            schema=job.schema,
            task=job.task,
            ranks=ranks,
            num_steps=config.eval_config.num_steps or None,
            log_every=config.eval_config.log_step_count_steps,
        )
        if ranks.rank == 0:
            result_path.parent.mkdir(parents=True, exist_ok=True)
            eval_result.append(result_path, restored.step, results)
            log.info("Eval Result model-%d: %s", restored.step, listed(results))
    return results


def listed(results: Mapping[str, float]) -> str:
    """Returns metrics as the log line shows them."""
    return " ".join(f"{name}:{value:.6f}" for name, value in sorted(results.items()))
