"""What happens at a milestone of a training: a checkpoint, its evaluation, and old ones go."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tzrec_core import eval_result, selection
from tzrec_core.assembly import uses_averages
from tzrec_core.checkpoints import checkpoint
from tzrec_core.checkpoints.writer import CheckpointWriter, collect
from tzrec_core.distributed.agreement import share_buffers
from tzrec_core.distributed.launch import launch_name
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.stop_signal import StopRequest
from tzrec_core.evaluation.evaluator import evaluate, listed
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.training.loggers import Loggers
from tzrec_core.training.milestones import RESULT_FILE
from tzrec_core.training.progress import Progress
from tzrec_core.training.session import (
    LAUNCH,
    SPARSE_OPTIMIZER,
    STEPPER,
    TRAIN_METRICS,
    Session,
)

log = logging.getLogger(__name__)

# Of the order of rows: positions in the data only mean something in the same order.
SIGNATURE = "data_signature"


def save_checkpoint(
    session: Session, writer: CheckpointWriter, progress: Progress, state: Mapping[str, Any]
) -> None:
    """Saves a checkpoint; ``state`` is what only the loop knows of its own."""
    # From here on each rank has what it would have if the training went on from this checkpoint.
    share_buffers(session.job.model, session.ranks)
    train_metrics = session.train_metrics.state_dict()
    session.train_metrics.load_state_dict(train_metrics, num_steps=progress.step)
    model_dir = Path(session.config.model_dir)
    if session.ranks.rank == 0:
        path = checkpoint.checkpoint_path(model_dir, progress.step)
        log.info("Saving checkpoint to %s...", path)
    averages = session.job.stepper.averages
    content = collect(
        progress.step,
        session.ranks,
        model=session.job.model,
        optimizer=session.job.optimizer,
        epoch=progress.epoch,
        consumed=progress.consumed,
        state={
            SIGNATURE: session.data.signature,
            TRAIN_METRICS: train_metrics,
            STEPPER: session.job.stepper.state(),
            SPARSE_OPTIMIZER: session.config.train_config.sparse_optimizer.WhichOneof("optimizer"),
            LAUNCH: launch_name(),
            **state,
        },
        averages=None if averages is None else averages.values,
    )
    writer.save(content)


def evaluate_and_record(
    session: Session,
    loggers: Loggers,
    writer: CheckpointWriter,
    progress: Progress,
    stop: StopRequest,
) -> None:
    """Evaluates the model, writes the result, and deletes checkpoints that need not be kept."""
    config, ranks = session.config, session.ranks
    if session.eval_data is not None:
        folder = Path(config.model_dir)
        averages = session.job.stepper.averages
        if not uses_averages(config, config.eval_config):
            averages = None
        with nullcontext() if averages is None else averages.applied():
            results = evaluate(
                config, session.job, session.eval_data, ranks, folder=folder, stop=stop
            )
        writer.wait()  # no result without its checkpoint
        if ranks.rank == 0:
            eval_result.append(Path(config.model_dir) / RESULT_FILE, progress.step, results)
            name = f"Epoch-{progress.epoch} model-{progress.step}"
            log.info("Eval Result %s: %s", name, listed(results))
            for logger in loggers.eval:
                logger.log(results, progress.step)
    for logger in (*loggers.train, *loggers.eval):
        logger.flush()
    prune(config, ranks)


def prune(config: EasyRecConfig, ranks: Ranks) -> None:
    """Deletes old checkpoints, but never the one that would be exported; on rank 0."""
    keep = config.train_config.keep_checkpoint_max
    if ranks.rank != 0 or not keep:
        return
    model_dir = Path(config.model_dir)
    results, saved = eval_result.read(model_dir / RESULT_FILE), checkpoint.steps(model_dir)
    protect = selection.never_to_delete(config.export_config, results, saved)
    checkpoint.prune(model_dir, keep=keep, protect=protect)


@contextmanager
def naming_last_checkpoint(model_dir: Path) -> Iterator[None]:
    """Adds to an error about numbers that are not finite which checkpoint was written last."""
    try:
        yield
    except FloatingPointError as error:
        newest = checkpoint.latest(model_dir)
        last = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint"
        raise FloatingPointError(f"{error}; {last}") from error
