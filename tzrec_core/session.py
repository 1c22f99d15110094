"""What a training works with: model, data and loggers, opened and checked before it starts."""

import logging
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tzrec_core import checkpoint, mlflow_run
from tzrec_core.assembly import Job, assemble, share_of_rows
from tzrec_core.config import save as save_config
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed import Ranks
from tzrec_core.evaluator import evaluate
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import TrainMetrics
from tzrec_core.tracking import ConsoleLogger, MetricLogger, MLflowLogger, TensorBoardLogger

log = logging.getLogger(__name__)

CONFIG_FILE = "pipeline.config"


@dataclass(frozen=True)
class Session:
    """What a process trains with, from start to end; ``eval_data`` is None without an input."""

    config: EasyRecConfig
    ranks: Ranks
    job: Job
    data: Dataset
    eval_data: Dataset | None
    train_metrics: TrainMetrics


@dataclass(frozen=True)
class Loggers:
    """Where the numbers of training and of evaluation go; none on ranks other than 0."""

    train: tuple[MetricLogger, ...]
    eval: tuple[MetricLogger, ...]


def newest_checkpoint(config: EasyRecConfig, *, continue_train: bool) -> Path | None:
    """Returns the checkpoint in ``model_dir`` to go on from, if there is one.

    Raises:
        ValueError: There is one, but the training is not to be continued.
    """
    newest = checkpoint.latest(Path(config.model_dir))
    if newest is not None and not continue_train:
        raise ValueError(
            f"model_dir {config.model_dir} already holds {newest.name}; "
            "pass --continue_train to go on from it, or choose another model_dir"
        )
    return newest


def open_session(config: EasyRecConfig, ranks: Ranks) -> Session:
    """Builds the model and opens the data; writes nothing.

    Raises:
        ValueError: A mistake in the config or the data.
    """
    job = assemble(config, ranks)
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


def restore(session: Session, newest: Path | None, *, ignore_optimizer: bool) -> None:
    """Loads the newest checkpoint, else the one to fine-tune from, if there is either.

    Raises:
        ValueError: The checkpoint is damaged or of another model.
    """
    fine_tune_checkpoint = session.config.train_config.fine_tune_checkpoint
    if newest is None and not fine_tune_checkpoint:
        return
    path = newest or checkpoint.resolve(Path(fine_tune_checkpoint))
    optimizer = None if ignore_optimizer else session.job.optimizer
    checkpoint.restore(path, session.ranks, model=session.job.model, optimizer=optimizer)
    if session.ranks.rank == 0:
        log.info("Restored %s%s", path, " without optimizer state" if ignore_optimizer else "")


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
        evaluate(config, session.job, session.eval_data, session.ranks)


def describe_training(config: EasyRecConfig) -> None:
    """Writes into ``model_dir`` what is trained there, and by which version."""
    model_dir = Path(config.model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, model_dir / CONFIG_FILE)
    (model_dir / "version").write_text(version("tzrec-pipelines") + "\n")


def open_loggers(session: Session, stack: ExitStack, *, first_step: int) -> Loggers:
    """Opens the loggers of rank 0, until ``stack`` is closed."""
    config = session.config
    if session.ranks.rank != 0:
        return Loggers((), ())
    model_dir = Path(config.model_dir)
    run = stack.enter_context(
        mlflow_run.track(
            "train",
            experiment=mlflow_run.DEFAULT_EXPERIMENT,
            name=f"train {model_dir.name}",
            identity={"model_dir": str(model_dir.absolute())},
        )
    )
    last_step = _last_step(config, session.data)
    train: list[MetricLogger] = [
        ConsoleLogger(title="Training", first_step=first_step, last_step=last_step)
    ]
    eval_: list[MetricLogger] = []
    if config.train_config.use_tensorboard:
        train.append(TensorBoardLogger(model_dir, first_step=first_step))
        eval_.append(TensorBoardLogger(model_dir / "eval_val", first_step=first_step))
    if run.run_id is not None:
        train.append(MLflowLogger(run.run_id, prefix="train"))
        eval_.append(MLflowLogger(run.run_id, prefix="eval"))
    for logger in (*train, *eval_):
        stack.callback(logger.close)
    return Loggers(tuple(train), tuple(eval_))


def _last_step(config: EasyRecConfig, data: Dataset) -> int | None:
    if config.train_config.num_steps:
        return config.train_config.num_steps
    if data.num_batches is None:
        return None
    return data.num_batches * config.train_config.num_epochs
