"""The training loop: batches, steps, log lines, checkpoints, evaluations."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tzrec_core.assembly import SEED
from tzrec_core.batch import Batch
from tzrec_core.checkpoints import checkpoint
from tzrec_core.checkpoints.writer import CheckpointWriter
from tzrec_core.data.collate import empty_batch
from tzrec_core.distributed.agreement import agree, seed_step
from tzrec_core.distributed.launch import launch_name
from tzrec_core.distributed.ranks import Ranks, on_rank_0, process_group
from tzrec_core.distributed.stop_signal import StopRequest, stop_requests
from tzrec_core.distributed.train_pipeline import TrainPipeline, train_pipeline
from tzrec_core.optim.accumulation import accumulated
from tzrec_core.optim.precision import tf32
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_model import StepOutput
from tzrec_core.tasks import checked, loss_weights
from tzrec_core.training.finished import Finished, mark, unmark
from tzrec_core.training.lock import locked
from tzrec_core.training.loggers import Loggers, open_loggers
from tzrec_core.training.milestones import (
    is_evaluated,
    is_long_enough,
    reason_to_end,
    results_so_far,
    save_by_epoch,
    save_by_step,
    set_old_results_aside,
)
from tzrec_core.training.progress import Progress, Window
from tzrec_core.training.saving import (
    SIGNATURE,
    evaluate_and_record,
    naming_last_checkpoint,
    prune,
    save_checkpoint,
)
from tzrec_core.training.session import (
    Session,
    check_weights,
    describe_training,
    is_of_this_launch,
    newest_checkpoint,
    open_session,
    rehearse_evaluation,
    restore,
)

log = logging.getLogger(__name__)

# Whether an evaluation belongs to the checkpoint.
_EVALUATION_FOLLOWS = "evaluation_follows"
_WINDOW = "log_window"


def train_and_evaluate(
    config: EasyRecConfig, *, continue_train: bool, ignore_restore_optimizer: bool
) -> None:
    """Trains the model of ``config``; checkpoints and evaluates it as it goes.

    Runs on every rank that torchrun starts, or alone. ``config.model_dir`` gets the effective
    config, checkpoints, event files and ``train_eval_result.txt``, and from the end of the training
    to the beginning of the next one ``training_finished.json``.

    Args:
        config: A config that ``config.check`` has accepted.
        continue_train: Go on from the newest checkpoint in ``model_dir``, if there is one; a
            training that is complete is left as it is.
        ignore_restore_optimizer: Restore the weights only, not the state of the optimizers.

    Raises:
        ValueError: A mistake in the config or the data, ``model_dir`` holds another training, or
            a checkpoint is unusable.
        FloatingPointError: The loss or a parameter is no longer a finite number.
        Stopped: SIGTERM, or an interrupt, ended the training after a step and a checkpoint.
    """
    with process_group() as ranks, ExitStack() as stack:
        train_config = config.train_config
        stack.enter_context(
            tf32(matmul=train_config.cuda_matmul_allow_tf32, cudnn=train_config.cudnn_allow_tf32)
        )
        on_rank_0(ranks, lambda: stack.enter_context(locked(Path(config.model_dir))))
        newest = newest_checkpoint(config, ranks, continue_train=continue_train)
        progress, saved = Progress(), None
        if newest is not None:
            position = checkpoint.read_position(newest)
            progress = Progress(position.step, position.epoch, position.consumed)
            saved = position.state
            if ignore_restore_optimizer and on_rank_0(ranks, partial(is_of_this_launch, newest)):
                ignore_restore_optimizer = False  # done in the first attempt
            ending = reason_to_end(config, results_so_far(config, ranks, progress))
            is_over = ending is not None or is_long_enough(config, progress)
            if is_over and is_evaluated(config, ranks, progress):
                if ranks.rank == 0:
                    why = "" if ending is None else f", as {ending}"
                    log.info("%s is complete%s; there is nothing left to train", newest, why)
                _mark_finished(config, ranks, progress)
                return
        # Whatever is wrong with the config, the data or the checkpoint comes to light in here,
        # before anything is written.
        session = open_session(config, ranks)
        restore(session, newest, ignore_optimizer=ignore_restore_optimizer)
        rehearse_evaluation(session)
        if progress.consumed and (saved or {}).get(SIGNATURE) != session.data.signature:
            progress.consumed = {}
            if ranks.rank == 0:
                log.warning(
                    "The training data or batch_size is not the checkpoint's: epoch %d starts over",
                    progress.epoch,
                )
        on_rank_0(ranks, lambda: unmark(Path(config.model_dir)))
        on_rank_0(ranks, lambda: describe_training(config))
        if newest is None:
            on_rank_0(ranks, lambda: set_old_results_aside(Path(config.model_dir)))
        stop = stack.enter_context(stop_requests())
        loggers = open_loggers(session, progress, stack)
        stack.enter_context(naming_last_checkpoint(Path(config.model_dir)))
        writer = stack.enter_context(
            CheckpointWriter(
                Path(config.model_dir), ranks, in_background=train_config.save_checkpoints_async
            )
        )
        _train(session, loggers, writer, progress, stop, saved=saved)
        _mark_finished(config, ranks, progress)


def _mark_finished(config: EasyRecConfig, ranks: Ranks, progress: Progress) -> None:
    """Says that all ranks are done; none of them ends before that is written."""
    dist.barrier(ranks.control)
    finished = Finished(progress.step, ranks.world_size, launch_name())
    on_rank_0(ranks, lambda: mark(Path(config.model_dir), finished))


def _train(
    session: Session,
    loggers: Loggers,
    writer: CheckpointWriter,
    progress: Progress,
    stop: StopRequest,
    *,
    saved: Mapping[str, Any] | None,
) -> None:
    """Runs the steps that are left; ``saved`` is the state in the newest checkpoint, if any."""
    config, ranks, job = session.config, session.ranks, session.job
    train_config = config.train_config
    pipeline = train_pipeline(job.model, job.stepper, ranks)
    saved_step = 0 if saved is None else progress.step
    has_result = is_evaluated(config, ranks, progress)
    if saved is not None and saved.get(_EVALUATION_FOLLOWS) and not has_result:
        evaluate_and_record(session, loggers, writer, progress, stop)
    ending = reason_to_end(config, results_so_far(config, ranks, progress))
    window = Window(ranks, session.train_metrics, session.data.where)
    if saved is not None and _WINDOW in saved:
        window.restore(saved[_WINDOW])

    def save(*, evaluation_follows: bool) -> None:
        nonlocal saved_step
        if saved_step == progress.step:
            return
        # Never save a model that has diverged.
        window.check()
        check_weights(session, progress.step)
        state = {_EVALUATION_FOLLOWS: evaluation_follows, _WINDOW: window.state()}
        save_checkpoint(session, writer, progress, state)
        saved_step = progress.step

    def save_and_evaluate() -> None:
        nonlocal ending
        started = time.perf_counter()
        loggers.profile.stop()
        pipeline.detach()
        save(evaluation_follows=True)
        evaluate_and_record(session, loggers, writer, progress, stop)
        ending = reason_to_end(config, results_so_far(config, ranks, progress))
        pipeline.attach()
        window.pause(time.perf_counter() - started)

    job.model.train()
    is_due = False
    while ending is None and not is_long_enough(config, progress):
        first_step = progress.step
        batches = agree(
            checked(session.data.batches(progress.epoch, dict(progress.consumed)), job.tasks),
            ranks,
            weigh=partial(loss_weights, job.tasks),
            drop_remainder=config.data_config.drop_remainder,
            empty=empty_batch(job.schema),
            stop=stop,
        )
        batches = accumulated(
            batches,
            num_batches=train_config.gradient_accumulation_steps or 1,
            limit=train_config.num_steps - progress.step if train_config.num_steps else None,
        )
        batches = window.timed(stop.batches_until(batches))
        for output in _steps(pipeline, session, batches, progress):
            window.add(output, progress.advance(output[2].position))
            loggers.profile.step()
            if progress.step % train_config.log_step_count_steps == 0:
                _log(session, loggers, progress, window.close())
            is_due = is_due or save_by_step(config, progress.step)
            if is_due and not job.stepper.is_pending:
                is_due = False
                save_and_evaluate()
            if ending is not None or progress.step == train_config.num_steps:
                break
        else:
            if stop.agreed is not None:
                break
            if progress.step == first_step and not progress.consumed:
                raise ValueError(_nothing_to_train_on(session))
            progress.epoch += 1
            progress.consumed = {}
            if save_by_epoch(config, progress.epoch):
                save_and_evaluate()
    if stop.agreed is not None:
        pipeline.detach()
        save(evaluation_follows=False)
        writer.wait()
        prune(config, ranks)
        if ranks.rank == 0:
            log.info("Stopped after step %d, as told by a signal", progress.step)
        raise stop.agreed
    if ending is not None and ranks.rank == 0:
        log.info("Stopping early, after step %d: %s", progress.step, ending)
    if saved_step != progress.step or not is_evaluated(config, ranks, progress):
        save_and_evaluate()
    writer.wait()
    prune(config, ranks)
    if ranks.rank == 0:
        log.info("Train and Evaluate Finished.")


def _steps(
    pipeline: TrainPipeline, session: Session, batches: Iterator[Batch], progress: Progress
) -> Iterator[StepOutput]:
    """Trains on all of ``batches``, yielding the output of each step."""
    stepper = session.job.stepper
    batches = stepper.expected(batches)
    while True:
        stepper.schedule(step=progress.step, epoch=progress.epoch)
        seed_step(session.ranks, seed=SEED, step=progress.step)
        try:
            output: StepOutput = pipeline.progress(batches)
        except StopIteration:
            return
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; in step {progress.step + 1}") from error
        yield output


def _log(session: Session, loggers: Loggers, progress: Progress, values: dict[str, float]) -> None:
    job = session.job
    values = {"epoch": progress.epoch, **job.stepper.values(), **values}
    if job.balance is not None and (means := job.balance.pop_means()) is not None:
        names = [f"pareto_weight/{task.tower}" for task in job.tasks]
        values |= dict(zip(names, means, strict=True))
    for logger in loggers.train:
        logger.log(values, progress.step)
    loggers.summaries.log()


def _nothing_to_train_on(session: Session) -> str:
    data_config = session.config.data_config
    return (
        f"an epoch of {session.config.train_input_path} has no batch to train on: "
        f"{session.data.num_rows} rows, batch_size {data_config.batch_size} on "
        f"{session.ranks.world_size} ranks, drop_remainder {data_config.drop_remainder}"
    )
