"""What a training works with: model, data and loggers, opened and checked before it starts."""

import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.assembly import Job, assemble, share_of_rows
from tzrec_core.checkpoints import checkpoint, restoring
from tzrec_core.checkpoints.fine_tune import fine_tune, read_param_map
from tzrec_core.config import save as save_config
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed import table_listing
from tzrec_core.distributed.launch import launch_name, num_restarts
from tzrec_core.distributed.ranks import Ranks, on_rank_0
from tzrec_core.evaluation.evaluator import evaluate
from tzrec_core.optim.dense import log_parts
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TrainMetrics

log = logging.getLogger(__name__)

CONFIG_FILE = "pipeline.config"
# What the state of a checkpoint calls that of the train metrics.
TRAIN_METRICS = "train_metrics"
# Likewise that of the stepper.
STEPPER = "stepper"
# The launch of torchrun that has written it, if it was one.
LAUNCH = "launch"
# And what the sparse optimizer was, whose state has the same names and shapes as that of others.
SPARSE_OPTIMIZER = "sparse_optimizer"


@dataclass(frozen=True)
class Session:
    """What a process trains with, from start to end; ``eval_data`` is None without an input."""

    config: EasyRecConfig
    ranks: Ranks
    job: Job
    data: Dataset
    eval_data: Dataset | None
    train_metrics: TrainMetrics


def newest_checkpoint(config: EasyRecConfig, ranks: Ranks, *, continue_train: bool) -> Path | None:
    """Returns the checkpoint in ``model_dir`` to go on from, if there is one.

    A process that torchrun has started again goes on from what it has written itself.

    Raises:
        ValueError: There is one, but the training is not to be continued, or all are damaged; on
            every rank.
    """
    model_dir = Path(config.model_dir)
    if continue_train or on_rank_0(ranks, lambda: _was_begun_by_this_launch(model_dir)):
        return checkpoint.latest_intact(model_dir, ranks)
    newest = on_rank_0(ranks, lambda: checkpoint.latest(model_dir))
    if newest is not None:
        raise ValueError(
            f"model_dir {config.model_dir} already holds {newest.name}; "
            "pass --continue_train to go on from it, or choose another model_dir"
        )
    return None


def _was_begun_by_this_launch(model_dir: Path) -> bool:
    saved = (checkpoint.checkpoint_path(model_dir, step) for step in checkpoint.steps(model_dir))
    return any(is_of_this_launch(path) for path in saved)


def is_of_this_launch(path: Path) -> bool:
    """Returns whether this launch of torchrun has written a checkpoint before a failure.

    Call it on rank 0, which wrote it too.
    """
    try:
        launch = checkpoint.read_position(path).state.get(LAUNCH)
    except ValueError:  # damaged
        return False
    return num_restarts() > 0 and launch == launch_name()


def open_session(config: EasyRecConfig, ranks: Ranks) -> Session:
    """Builds the model and opens the data; writes nothing.

    Raises:
        ValueError: A mistake in the config or the data.
    """
    if config.train_config.HasField("early_stopping") and not config.eval_input_path:
        raise ValueError("train_config.early_stopping needs eval_input_path, which is not set")
    job = assemble(config, ranks)
    tables = table_listing.tables(job.model)
    if ranks.rank == 0:
        log.info("%s", table_listing.listed(tables, ranks.world_size))
        _describe_optimizers(config, job, ranks)
    eval_data = None
    if config.eval_input_path:
        eval_data = share_of_rows(config, job.schema, ranks, training=False)
    return Session(
        config=config,
        ranks=ranks,
        job=job,
        data=share_of_rows(config, job.schema, ranks, training=True),
        eval_data=eval_data,
        train_metrics=TrainMetrics(config).to(ranks.device),
    )


def _describe_optimizers(config: EasyRecConfig, job: Job, ranks: Ranks) -> None:
    train_config = config.train_config
    parts = train_config.dense_optimizer.part_optimizers
    if parts:
        log_parts(job.optimizer, [part.regex_pattern for part in parts])
    if train_config.mixed_precision == "FP16" and ranks.device.type == "cpu":
        log.warning("mixed_precision FP16 is slower than float32 on CPUs; BF16 may be faster")


def restore(session: Session, newest: Path | None, *, ignore_optimizer: bool) -> None:
    """Loads the newest checkpoint, else the one to fine-tune from, if there is either.

    Raises:
        ValueError: The checkpoint is damaged or of another model.
    """
    job, ranks = session.job, session.ranks
    optimizer = None if ignore_optimizer else job.optimizer
    if newest is None:
        _fine_tune(session, optimizer)
        return
    other = _other_sparse_optimizer(session.config, newest)
    if optimizer is not None and other is not None:
        raise ValueError(
            f"checkpoint {newest} has the state of {other}, not that of the config's "
            "sparse_optimizer; pass --ignore_restore_optimizer to go on without it"
        )
    position = restoring.restore(
        newest, ranks, model=job.model, optimizer=optimizer, is_checked=True
    )
    _continue_train_metrics(session, position)
    if job.stepper.averages is not None:
        job.stepper.averages.restart()
    if not ignore_optimizer:
        _continue_stepper(session, newest, position)
    if ranks.rank == 0:
        log.info("Restored %s%s", newest, " without optimizer state" if ignore_optimizer else "")


def _fine_tune(session: Session, optimizer: CombinedOptimizer | None) -> None:
    train_config, job = session.config.train_config, session.job
    if not train_config.fine_tune_checkpoint:
        return
    param_map = {}
    if train_config.fine_tune_ckpt_param_map:
        map_path = Path(train_config.fine_tune_ckpt_param_map)
        param_map = on_rank_0(session.ranks, lambda: read_param_map(map_path))
    path = checkpoint.resolve(Path(train_config.fine_tune_checkpoint))
    other = _other_sparse_optimizer(session.config, path)
    fine_tune(
        path,
        session.ranks,
        model=job.model,
        optimizer=optimizer,
        param_map=param_map,
        left_aside={} if other is None else {"sparse": f"the checkpoint's is of {other}"},
    )
    if job.stepper.averages is not None:
        job.stepper.averages.restart()


def _other_sparse_optimizer(config: EasyRecConfig, path: Path) -> str | None:
    saved: str | None = checkpoint.read_position(path).state.get(SPARSE_OPTIMIZER)
    ours = config.train_config.sparse_optimizer.WhichOneof("optimizer")
    return None if saved == ours else saved


def _continue_train_metrics(session: Session, position: checkpoint.Position) -> None:
    saved = position.state.get(TRAIN_METRICS, {})
    anew = session.train_metrics.load_state_dict(saved, num_steps=position.step)
    if anew and session.ranks.rank == 0:
        log.warning("The checkpoint has no such train metrics, they start anew: %s", anew)


def _continue_stepper(session: Session, path: Path, position: checkpoint.Position) -> None:
    stepper = session.job.stepper
    saved = position.state.get(STEPPER)
    try:
        if saved is not None:
            stepper.restore(saved)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {STEPPER}: {error!r}") from error
    if stepper.averages is None:
        return
    if stepper.averages.num_updates > 0:
        restoring.load_averages(path, stepper.averages.values, session.ranks)
    elif session.ranks.rank == 0:
        log.warning("%s has no averages of dense parameters (ema), they start anew", path)


def check_weights(session: Session, step: int) -> None:
    """Checks that the model is made of numbers; call it on every rank.

    Raises:
        FloatingPointError: It is not, or no step so far had gradients that were; on every rank.
    """
    stepper = session.job.stepper
    if stepper.loss_scale is not None and stepper.num_updates == 0:
        raise FloatingPointError(
            f"no gradient was finite in the {step} steps so far; lower "
            "train_config.grad_scaler.init_scale, which is "
            f"{session.config.train_config.grad_scaler.init_scale:g}"
        )
    mine = [
        name
        for name, weight in session.job.model.named_parameters()
        if weight.numel() and not torch.stack(weight.detach().aminmax()).isfinite().all()
    ]
    of_ranks: list[Any] = [None] * session.ranks.world_size
    dist.all_gather_object(of_ranks, mine, group=session.ranks.control)
    if names := sorted({name for names in of_ranks for name in names}):
        raise FloatingPointError(
            f"NaN or infinite weights after step {step}: {', '.join(names)}; a learning rate may "
            "be too high"
        )


def rehearse_evaluation(session: Session) -> None:
    """Evaluates one batch, so that what is wrong with it is known before the training is paid for.

    Raises:
        ValueError: A metric cannot be computed of the first evaluation rows.
    """
    if session.eval_data is None:
        return
    config = EasyRecConfig()
    config.CopyFrom(session.config)
    config.eval_config.num_steps = 1
    with warnings.catch_warnings():
        # Of a few rows some metrics may well have no value.
        warnings.simplefilter("ignore")
        evaluate(config, session.job, session.eval_data, session.ranks, folder=None)


def describe_training(config: EasyRecConfig) -> None:
    """Writes into ``model_dir`` what is trained there, and by which version."""
    model_dir = Path(config.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, model_dir / CONFIG_FILE)
    (model_dir / "version").write_text(version("tzrec-pipelines") + "\n")
