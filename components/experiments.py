"""How runs are named in MLflow, and which of a config's values stand in their tables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from components import description
from tzrec_core import mlflow_run
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir, RunInfo


@contextmanager
def track(
    stage: str,
    run_dir: RunDir,
    info: RunInfo,
    config: EasyRecConfig,
    *,
    part: str = "",
    last: bool = False,
) -> Iterator[mlflow_run.Run]:
    """Opens the step's run in MLflow, nested in the run of the pipeline, which is then described.

    Each ``part`` of a step has its own run. The pipeline's run ends with the ``last`` step.
    """
    title = run_name(model_kind(config), budget(config))
    with mlflow_run.track(
        stage,
        experiment=info.experiment,
        name=run_name(stage, model_kind(config)),
        identity={mlflow_run.PIPELINE_RUN_TAG: info.pipeline_run_id},
        parent_name=run_name(model_kind(config), budget(config), run_dir.path.name),
        part=part,
        last=last,
    ) as run:
        yield run
        run.attempt(
            lambda client, run_id: description.write(client, run_id, run_dir, title=title),
            on_parent=True,
        )


def mlflow_link(info: RunInfo) -> str:
    """Returns the address of the pipeline's run on MLflow's server; empty if there is no server."""
    server = mlflow_run.web_address(os.environ.get("MLFLOW_TRACKING_URI", ""))
    return f"{server}/{info.mlflow_page}" if server and info.mlflow_page else ""


def run_name(*facts: str) -> str:
    """Returns a name that tells runs apart at a glance.

    >>> run_name("train", "deepfm", "1000 steps")
    'train · deepfm · 1000 steps'
    """
    return " · ".join(facts)


def model_kind(config: EasyRecConfig) -> str:
    """Returns the name of the model: deepfm, dlrm, ..."""
    return config.model_config.WhichOneof("model") or "no model"


def budget(config: EasyRecConfig) -> str:
    """Returns how long training lasts: 1000 steps, 2 epochs."""
    train_config = config.train_config
    unit = "num_steps" if train_config.HasField("num_steps") else "num_epochs"
    return counted(getattr(train_config, unit), unit.removeprefix("num_").removesuffix("s"))


def counted(number: int, noun: str) -> str:
    """Returns 1 step, 2 steps."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def headline_params(config: EasyRecConfig) -> dict[str, object]:
    """Returns the few values by which runs are compared; the whole config is an artifact."""
    train_config = config.train_config
    params: dict[str, object] = {
        "model": model_kind(config),
        "budget": budget(config),
        "batch_size": config.data_config.batch_size,
        "num_features": len(config.feature_configs),
    }
    for name, optimizer in (
        ("sparse", train_config.sparse_optimizer),
        ("dense", train_config.dense_optimizer),
    ):
        kind = optimizer.WhichOneof("optimizer")
        if kind is not None:
            params[f"{name}_optimizer"] = kind.removesuffix("_optimizer")
            # A float of the config is a float32: 0.05 is 0.05000000074505806 as a Python float.
            params[f"{name}_lr"] = f"{getattr(optimizer, kind).lr:.6g}"
    return params
