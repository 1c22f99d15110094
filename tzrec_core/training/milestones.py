"""When a training saves and evaluates, what its evaluations came to, and when it is over."""

import logging
from collections.abc import Sequence
from pathlib import Path

from tzrec_core import eval_result
from tzrec_core.distributed.ranks import Ranks, on_rank_0
from tzrec_core.eval_result import EvalResult
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.training.early_stopping import reason_to_stop
from tzrec_core.training.progress import Progress

log = logging.getLogger(__name__)

RESULT_FILE = "train_eval_result.txt"


def save_by_step(config: EasyRecConfig, step: int) -> bool:
    """Returns whether a checkpoint is due after so many steps."""
    train_config = config.train_config
    if train_config.save_checkpoints_epochs or not train_config.save_checkpoints_steps:
        return False
    return bool(step % train_config.save_checkpoints_steps == 0)


def save_by_epoch(config: EasyRecConfig, epoch: int) -> bool:
    """Returns whether a checkpoint is due after so many epochs."""
    every = config.train_config.save_checkpoints_epochs
    return bool(every > 0 and epoch % every == 0)


def steps_undisturbed(
    config: EasyRecConfig, progress: Progress, *, num_batches: int | None
) -> int | None:
    """Returns about how many steps there are up to the next checkpoint; None if nothing tells.

    Args:
        config: Of the training.
        progress: Where it stands.
        num_batches: Of an epoch, None if unknown.
    """
    train_config = config.train_config
    limits = []
    if train_config.num_steps:
        limits.append(max(train_config.num_steps - progress.step, 0))
    if num_batches is not None and not progress.consumed:
        if train_config.num_epochs:
            limits.append(num_batches * max(train_config.num_epochs - progress.epoch, 0))
        if every := train_config.save_checkpoints_epochs:
            limits.append(num_batches * (every - progress.epoch % every))
    every = train_config.save_checkpoints_steps
    if every and not train_config.save_checkpoints_epochs:
        limits.append(every - progress.step % every)
    return min(limits, default=None)


def is_long_enough(config: EasyRecConfig, progress: Progress) -> bool:
    """Returns whether the steps or epochs that the config asks for are done."""
    train_config = config.train_config
    if train_config.num_steps:
        return bool(progress.step >= train_config.num_steps)
    return bool(progress.epoch >= train_config.num_epochs)


def results_so_far(config: EasyRecConfig, ranks: Ranks, progress: Progress) -> list[EvalResult]:
    """Returns the results of this training up to the step where it stands; call it on every rank.

    Results of later steps are of a training that was taken back to a checkpoint before them.
    """
    # Rank 0 writes them: what others see on a network's disk may be older.
    path = Path(config.model_dir) / RESULT_FILE
    results = on_rank_0(ranks, lambda: eval_result.read(path))
    return [result for result in results if result.step <= progress.step]


def is_evaluated(config: EasyRecConfig, ranks: Ranks, progress: Progress) -> bool:
    """Returns whether the step where the training stands has its result, or needs none."""
    if not config.eval_input_path:
        return True
    return any(r.step == progress.step for r in results_so_far(config, ranks, progress))


def reason_to_end(config: EasyRecConfig, results: Sequence[EvalResult]) -> str | None:
    """Returns why ``early_stopping`` ends the training after these results, None if it does not."""
    if not config.train_config.HasField("early_stopping"):
        return None
    stopping, export = config.train_config.early_stopping, config.export_config
    larger_is_better = export.metric_larger_is_better
    if stopping.HasField("metric_larger_is_better"):
        larger_is_better = stopping.metric_larger_is_better
    return reason_to_stop(
        results,
        metric=stopping.metric or export.best_exporter_metric,
        patience=stopping.patience,
        min_delta=stopping.min_delta,
        larger_is_better=larger_is_better,
    )


def set_old_results_aside(model_dir: Path) -> None:
    """Renames the results of a training whose checkpoints are gone, before another one begins."""
    path = model_dir / RESULT_FILE
    if path.exists():
        aside = path.with_name(f"{RESULT_FILE}.old")
        path.rename(aside)
        log.warning("%s has results, but no checkpoint: they are in %s now", model_dir, aside.name)
