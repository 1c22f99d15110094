"""The training loop: batches, steps, log lines, checkpoints, evaluations."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tzrec_core import checkpoint, eval_result, selection
from tzrec_core.assembly import StepOutput
from tzrec_core.batch import Batch
from tzrec_core.data.collate import empty_batch
from tzrec_core.distributed import (
    TrainPipeline,
    agree,
    on_rank_0,
    process_group,
    train_pipeline,
)
from tzrec_core.evaluator import evaluate, listed
from tzrec_core.optim.dense import learning_rates
from tzrec_core.progress import Progress, Window
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.session import (
    Loggers,
    Session,
    describe_training,
    newest_checkpoint,
    open_loggers,
    open_session,
    rehearse_evaluation,
    restore,
)
from tzrec_core.tasks import checked

log = logging.getLogger(__name__)

RESULT_FILE = "train_eval_result.txt"
# Of the order of rows: positions in the data only mean something in the same order.
_SIGNATURE = "data_signature"


def train_and_evaluate(
    config: EasyRecConfig, *, continue_train: bool, ignore_restore_optimizer: bool
) -> None:
    """Trains the model of ``config``; checkpoints and evaluates it as it goes.

    Runs on every rank that torchrun starts, or alone. ``config.model_dir`` gets the effective
    config, checkpoints, event files and ``train_eval_result.txt``.

    Args:
        config: A config that ``config.check`` has accepted.
        continue_train: Go on from the newest checkpoint in ``model_dir``, if there is one; a
            training that is complete is left as it is.
        ignore_restore_optimizer: Restore the weights only, not the state of the optimizers.

    Raises:
        ValueError: A mistake in the config or the data, ``model_dir`` holds another training, or
            a checkpoint is unusable.
        FloatingPointError: The loss is no longer a finite number.
    """
    with process_group() as ranks, ExitStack() as stack:
        newest = on_rank_0(ranks, lambda: newest_checkpoint(config, continue_train=continue_train))
        progress, signature = Progress(), None
        if newest is not None:
            stopped = checkpoint.read_position(newest)
            progress = Progress(stopped.step, stopped.epoch, stopped.consumed)
            signature = stopped.state.get(_SIGNATURE)
            if _finished(config, progress) and _evaluated(config, progress.step):
                log.info("%s is complete; there is nothing left to train", newest)
                return
        # Whatever is wrong with the config, the data or the checkpoint comes to light in here,
        # before anything is written.
        session = open_session(config, ranks)
        restore(session, newest, ignore_optimizer=ignore_restore_optimizer)
        rehearse_evaluation(session)
        if progress.consumed and signature != session.data.signature:
            progress.consumed = {}
            log.warning(
                "The training data or batch_size is not the checkpoint's: epoch %d starts over",
                progress.epoch,
            )
        on_rank_0(ranks, lambda: describe_training(config))
        loggers = open_loggers(session, stack, first_step=progress.step + 1)
        _train(session, loggers, progress, saved=None if newest is None else progress.step)


def _train(session: Session, loggers: Loggers, progress: Progress, *, saved: int | None) -> None:
    """Runs the steps that are left; ``saved`` is the step of the newest checkpoint, if any."""
    config, ranks, job = session.config, session.ranks, session.job
    train_config = config.train_config
    pipeline = train_pipeline(job.model, job.optimizer, ranks)
    window = Window(ranks, session.train_metrics)

    def save_and_evaluate() -> None:
        nonlocal saved
        window.mean_losses(progress.step)  # never save a model that has diverged
        started = time.perf_counter()
        pipeline.detach()
        if saved != progress.step:
            _save(session, progress)
            saved = progress.step
        _evaluate(session, loggers, progress)
        pipeline.attach()
        window.pause(time.perf_counter() - started)

    job.model.train()
    while not _finished(config, progress):
        first_step = progress.step
        batches = agree(
            checked(session.data.batches(progress.epoch, dict(progress.consumed)), job.task),
            ranks,
            loss_weight=job.task.sample_weight,
            drop_remainder=config.data_config.drop_remainder,
            empty=empty_batch(job.schema),
        )
        for output in _steps(pipeline, batches):
            progress.step += 1
            progress.consumed.update(output[2].position)
            window.add(output)
            if progress.step % train_config.log_step_count_steps == 0:
                _log(session, loggers, progress, window.close(progress.step))
            if _save_by_step(config, progress.step):
                save_and_evaluate()
            if progress.step == train_config.num_steps:
                break
        else:
            if progress.step == first_step and not progress.consumed:
                raise ValueError(_nothing_to_train_on(session))
            progress.epoch += 1
            progress.consumed = {}
            if _save_by_epoch(config, progress.epoch):
                save_and_evaluate()
    if saved != progress.step or not _evaluated(config, progress.step):
        save_and_evaluate()
    if ranks.rank == 0:
        log.info("Train and Evaluate Finished.")


def _steps(pipeline: TrainPipeline, batches: Iterator[Batch]) -> Iterator[StepOutput]:
    """Trains on all of ``batches``, yielding the output of each step."""
    while True:
        try:
            output: StepOutput = pipeline.progress(batches)
        except StopIteration:
            return
        yield output


def _log(session: Session, loggers: Loggers, progress: Progress, values: dict[str, float]) -> None:
    rates = learning_rates(session.job.optimizer)
    for logger in loggers.train:
        logger.log({"epoch": progress.epoch, **rates, **values}, progress.step)


def _save(session: Session, progress: Progress) -> None:
    model_dir = Path(session.config.model_dir)
    if session.ranks.rank == 0:
        path = checkpoint.checkpoint_path(model_dir, progress.step)
        log.info("Saving checkpoint to %s...", path)
    checkpoint.save(
        model_dir,
        progress.step,
        session.ranks,
        model=session.job.model,
        optimizer=session.job.optimizer,
        epoch=progress.epoch,
        consumed=progress.consumed,
        state={_SIGNATURE: session.data.signature},
    )


def _evaluate(session: Session, loggers: Loggers, progress: Progress) -> None:
    """Evaluates the model, writes the result, and deletes checkpoints that need not be kept."""
    config, ranks = session.config, session.ranks
    if session.eval_data is not None:
        results = evaluate(config, session.job, session.eval_data, ranks)
        if ranks.rank == 0:
            eval_result.append(Path(config.model_dir) / RESULT_FILE, progress.step, results)
            name = f"Epoch-{progress.epoch} model-{progress.step}"
            log.info("Eval Result %s: %s", name, listed(results))
            for logger in loggers.eval:
                logger.log(results, progress.step)
    if config.train_config.keep_checkpoint_max and ranks.rank == 0:
        _prune(config)


def _prune(config: EasyRecConfig) -> None:
    """Deletes old checkpoints, but never the one that would be exported."""
    model_dir = Path(config.model_dir)
    results, saved = eval_result.read(model_dir / RESULT_FILE), checkpoint.steps(model_dir)
    metric = config.export_config.best_exporter_metric
    # As long as the metric has no value anywhere, no checkpoint is better than another.
    judged = [r for r in results if not math.isnan(r.metrics.get(metric, math.nan))]
    protected = set()
    if config.export_config.exporter_type == "best" and {r.step for r in judged} & set(saved):
        chosen, _ = selection.choose(config.export_config, judged, saved)
        protected.add(chosen.step)
    checkpoint.prune(model_dir, keep=config.train_config.keep_checkpoint_max, protect=protected)


def _finished(config: EasyRecConfig, progress: Progress) -> bool:
    train_config = config.train_config
    if train_config.num_steps:
        return progress.step >= train_config.num_steps
    return progress.epoch >= train_config.num_epochs


def _evaluated(config: EasyRecConfig, step: int) -> bool:
    if not config.eval_input_path:
        return True
    results = eval_result.read(Path(config.model_dir) / RESULT_FILE)
    return any(result.step == step for result in results)


def _save_by_step(config: EasyRecConfig, step: int) -> bool:
    train_config = config.train_config
    if train_config.save_checkpoints_epochs or not train_config.save_checkpoints_steps:
        return False
    return step % train_config.save_checkpoints_steps == 0


def _save_by_epoch(config: EasyRecConfig, epoch: int) -> bool:
    every = config.train_config.save_checkpoints_epochs
    return every > 0 and epoch % every == 0


def _nothing_to_train_on(session: Session) -> str:
    data_config = session.config.data_config
    return (
        f"an epoch of {session.config.train_input_path} has no batch to train on: "
        f"{session.data.num_rows} rows, batch_size {data_config.batch_size} on "
        f"{session.ranks.world_size} ranks, drop_remainder {data_config.drop_remainder}"
    )
