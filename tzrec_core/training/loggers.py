"""Where the numbers of a training go, and what measures some of them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tzrec_core import mlflow_run
from tzrec_core.data.dataset import Dataset
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tracking import ConsoleLogger, MetricLogger, MLflowLogger, TensorBoardLogger
from tzrec_core.training.milestones import steps_undisturbed
from tzrec_core.training.profiling import StepProfiler
from tzrec_core.training.progress import Progress
from tzrec_core.training.session import Session
from tzrec_core.training.summaries import Summaries

_DEFAULT_SUMMARIES = ("loss", "learning_rate")
_PREFIXES = {"loss": "loss/", "learning_rate": "lr/"}


@dataclass(frozen=True)
class Loggers:
    """Where the numbers go; on ranks other than 0 nowhere.

    Attributes:
        train: Those of log lines.
        eval: Those of evaluations.
        summaries: Measures parameters and gradients for TensorBoard, on every rank.
        profile: Records steps, on every rank.
    """

    train: tuple[MetricLogger, ...]
    eval: tuple[MetricLogger, ...]
    summaries: Summaries
    profile: StepProfiler


def open_loggers(session: Session, progress: Progress, stack: ExitStack) -> Loggers:
    """Opens everything until ``stack`` is closed; call it on every rank."""
    config, model_dir = session.config, Path(session.config.model_dir)
    train: list[MetricLogger] = []
    eval_: list[MetricLogger] = []
    tensorboard = None
    if session.ranks.rank == 0:
        first_step, last_step = progress.step + 1, _last_step(config, session.data)
        train.append(ConsoleLogger(title="Training", first_step=first_step, last_step=last_step))
        if config.train_config.use_tensorboard:
            tensorboard = TensorBoardLogger(
                model_dir, first_step=first_step, left_out=_left_out(config)
            )
            train.append(tensorboard)
            eval_.append(TensorBoardLogger(model_dir / "eval_val", first_step=first_step))
        run = stack.enter_context(
            mlflow_run.track(
                "train",
                experiment=mlflow_run.DEFAULT_EXPERIMENT,
                name=f"train {model_dir.name}",
                identity={"model_dir": str(model_dir.absolute())},
            )
        )
        if run.run_id is not None:
            train.append(MLflowLogger(run.run_id, prefix="train"))
            eval_.append(MLflowLogger(run.run_id, prefix="eval"))
        for logger in (*train, *eval_):
            stack.callback(logger.close)
    summaries = Summaries(
        _summaries(config) if config.train_config.use_tensorboard else (),
        session.job.model,
        session.job.stepper,
        progress,
        session.ranks,
        every=config.train_config.log_step_count_steps,
        tensorboard=tensorboard,
    )
    num_steps: int | None = 0
    if config.train_config.is_profiling:
        num_steps = steps_undisturbed(config, progress, num_batches=session.data.num_batches)
    profile = StepProfiler(
        model_dir / "profile",
        session.ranks,
        first_step=progress.step + 1,
        num_steps=num_steps,
    )
    stack.callback(profile.stop)
    return Loggers(tuple(train), tuple(eval_), summaries, profile)


def _summaries(config: EasyRecConfig) -> tuple[str, ...]:
    return tuple(config.train_config.tensorboard_summaries) or _DEFAULT_SUMMARIES


def _left_out(config: EasyRecConfig) -> tuple[str, ...]:
    wanted = _summaries(config)
    return tuple(prefix for name, prefix in _PREFIXES.items() if name not in wanted)


def _last_step(config: EasyRecConfig, data: Dataset) -> int | None:
    if config.train_config.num_steps:
        return config.train_config.num_steps
    if data.num_batches is None:
        return None
    return data.num_batches * config.train_config.num_epochs
