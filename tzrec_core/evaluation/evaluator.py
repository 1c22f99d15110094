"""Scores evaluation rows with a model and computes the configured metrics."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist

from tzrec_core import eval_result
from tzrec_core.assembly import Job, assemble, share_of_rows, uses_averages
from tzrec_core.batch import Batch
from tzrec_core.checkpoints import restoring
from tzrec_core.data.collate import empty_batch
from tzrec_core.data.dataset import Dataset
from tzrec_core.data.publish import published, set_aside
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import Ranks, on_rank_0, process_group
from tzrec_core.distributed.stop_signal import StopRequest
from tzrec_core.evaluation.predictions import PredictionsWriter
from tzrec_core.metrics.exchange import together
from tzrec_core.optim.dense import dense_parameters
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TaskMetrics
from tzrec_core.tasks import checked, loss_weights

log = logging.getLogger(__name__)


def evaluate(
    config: EasyRecConfig,
    job: Job,
    data: Dataset,
    ranks: Ranks,
    *,
    folder: Path | None,
    keep: PredictionsWriter | None = None,
    stop: StopRequest | None = None,
) -> dict[str, float]:
    """Returns the metrics of the job's model over the rows of ``data``, the same on every rank.

    Every row counts once, however unevenly ranks share them. The model comes back in the mode
    it was in.

    Args:
        config: Its metrics and ``eval_config`` count.
        job: A model and its tasks.
        data: This rank's share of the rows.
        ranks: All of them must call.
        folder: Holds a hidden folder meanwhile if ``rows_on_disk`` is set; all ranks must see it.
            If it is None, rows stay in memory.
        keep: Gets all rows of this rank; None if nobody needs them.
        stop: Whether this process is to stop; None if nothing stops an evaluation.

    Raises:
        Stopped: A rank is to stop; on every rank.
        ValueError: There is not a single row, or a label that the losses cannot take, or a metric
            cannot be computed.
    """
    with ExitStack() as stack:
        rows_folder = None
        if folder is not None and config.eval_config.rows_on_disk:
            rows_folder = _shared_folder(folder, ranks, stack)
        metrics = TaskMetrics(config, rows_folder=rows_folder).to(ranks.device)
        _score(config, job, data, ranks, metrics, keep, stop)
        return metrics.compute()


def _shared_folder(parent: Path, ranks: Ranks, stack: ExitStack) -> Path:
    """Returns a new folder that is there until ``stack`` is closed."""
    path = on_rank_0(ranks, lambda: stack.enter_context(set_aside(parent.absolute())))

    def look() -> None:
        if not path.is_dir():
            raise ValueError(
                f"eval_config.rows_on_disk needs a folder that all ranks share; rank {ranks.rank}"
                f" does not see {path}, which rank 0 has made"
            )

    together(look)
    return path


def _score(
    config: EasyRecConfig,
    job: Job,
    data: Dataset,
    ranks: Ranks,
    metrics: TaskMetrics,
    keep: PredictionsWriter | None,
    stop: StopRequest | None,
) -> None:
    """Updates ``metrics`` with all rows, batch after batch."""
    batches: Iterator[Batch] = agree(
        checked(data.batches(0), job.tasks),
        ranks,
        weigh=partial(loss_weights, job.tasks),
        drop_remainder=False,
        empty=empty_batch(job.schema),
        stop=stop,
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
                if keep is not None:
                    keep.add(predictions, scored)
            num_batches += 1
            if log_every and num_batches % log_every == 0 and ranks.rank == 0:
                rate = num_batches / (time.perf_counter() - started)
                log.info("Evaluating: %dit [%.2fit/s]", num_batches, rate)
    job.model.train(was_training)
    if num_batches == 0:
        raise ValueError(f"there is no row to evaluate in {config.eval_input_path}")


def evaluate_checkpoint(
    config: EasyRecConfig,
    *,
    checkpoint_path: Path,
    result_path: Path,
    predictions_path: Path | None = None,
) -> dict[str, float]:
    """Evaluates one checkpoint on ``config.eval_input_path`` and appends a line to a file.

    Runs on every rank that torchrun starts, or alone.

    Args:
        config: Of the model, and what to evaluate.
        checkpoint_path: A checkpoint's folder.
        result_path: The file.
        predictions_path: A new folder for the scored rows (``evaluation.predictions``), which all
            ranks must see; None if they are not to be kept.

    Raises:
        ValueError: A mistake in the config or the data, or the checkpoint is unusable.
    """
    with process_group() as ranks:
        job = assemble(config, ranks, training=False)
        restored = restoring.restore(checkpoint_path, ranks, model=job.model, optimizer=None)
        if uses_averages(config, config.eval_config):
            restoring.load_averages(checkpoint_path, dense_parameters(job.model), ranks)
        rows = share_of_rows(
            config, job.schema, ranks, training=False, told_apart=predictions_path is not None
        )
        with _keeping(predictions_path, config, ranks) as keep:
            results = evaluate(config, job, rows, ranks, folder=result_path.parent, keep=keep)
        if ranks.rank == 0:
            result_path.parent.mkdir(parents=True, exist_ok=True)
            eval_result.append(result_path, restored.step, results)
            log.info("Eval Result model-%d: %s", restored.step, listed(results))
    return results


@contextmanager
def _keeping(
    folder: Path | None, config: EasyRecConfig, ranks: Ranks
) -> Iterator[PredictionsWriter | None]:
    """Gives what writes this rank's rows; the folder appears when all ranks have written theirs."""
    if folder is None:
        yield None
        return
    with ExitStack() as stack:
        aside = on_rank_0(ranks, partial(stack.enter_context, published(folder)))
        with PredictionsWriter(aside, config, rank=ranks.rank) as writer:
            yield writer
        dist.barrier(ranks.control)


def listed(results: Mapping[str, float]) -> str:
    """Returns metrics as the log line shows them."""
    return " ".join(f"{name}:{value:.6f}" for name, value in sorted(results.items()))
