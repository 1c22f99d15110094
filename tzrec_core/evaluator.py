"""Scores evaluation rows with a model and computes the configured metrics."""

import logging
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch

from tzrec_core import checkpoint, eval_result
from tzrec_core.assembly import Job, assemble, share_of_rows
from tzrec_core.batch import Batch
from tzrec_core.data.collate import empty_batch
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed import Ranks, agree, process_group
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import TaskMetrics, checked

log = logging.getLogger(__name__)


def evaluate(config: EasyRecConfig, job: Job, data: Dataset, ranks: Ranks) -> dict[str, float]:
    """Returns the metrics of the job's model over the rows of ``data``, the same on every rank.

    Every row counts once, however unevenly ranks share them. The model comes back in the mode
    it was in.

    Args:
        config: Its metrics and ``eval_config`` count.
        job: A model and its task.
        data: This rank's share of the rows.
        ranks: All of them must call.

    Raises:
        ValueError: There is not a single row, or a label that the losses cannot take.
    """
    metrics = TaskMetrics(config).to(ranks.device)
    batches: Iterator[Batch] = agree(
        checked(data.batches(0), job.task),
        ranks,
        loss_weight=job.task.sample_weight,
        drop_remainder=False,
        empty=empty_batch(job.schema),
    )
    log_every = config.eval_config.log_step_count_steps
    was_training = job.model.training
    job.model.eval()
    started = time.perf_counter()
    num_batches = 0
    with torch.no_grad():
        for batch in islice(batches, config.eval_config.num_steps or None):
            _, (_, predictions, scored) = job.model(batch.to(ranks.device))
            if len(scored):
                metrics.update(predictions, scored)
            num_batches += 1
            if log_every and num_batches % log_every == 0 and ranks.rank == 0:
                rate = num_batches / (time.perf_counter() - started)
                log.info("Evaluating: %dit [%.2fit/s]", num_batches, rate)
    job.model.train(was_training)
    if num_batches == 0:
        raise ValueError(f"there is no row to evaluate in {config.eval_input_path}")
    return metrics.compute()


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
        rows = share_of_rows(config, job.schema, ranks, training=False)
        results = evaluate(config, job, rows, ranks)
        if ranks.rank == 0:
            result_path.parent.mkdir(parents=True, exist_ok=True)
            eval_result.append(result_path, restored.step, results)
            log.info("Eval Result model-%d: %s", restored.step, listed(results))
    return results


def listed(results: Mapping[str, float]) -> str:
    """Returns metrics as the log line shows them."""
    return " ".join(f"{name}:{value:.6f}" for name, value in sorted(results.items()))
