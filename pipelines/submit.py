"""Runs a compiled pipeline on a Kubeflow Pipelines server."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components import volume
from components.launch_train.settings import quantity
from components.steps import StepFailedError
from pipelines.arguments import check_workers, typed_arguments
from pipelines.kfp_server import KfpServer, ServerUnavailableError
from tzrec_core.config import edits_from_json

_ENDED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
_PATIENCE_SECONDS = 15 * 60
"""How long a server may be away while one waits for a run."""


def submit(
    server: KfpServer,
    yaml_path: Path,
    values: Mapping[str, str],
    *,
    experiment: str,
    namespace: str,
    service_account: str,
    run_name: str,
) -> str:
    """Starts a run of a compiled pipeline and returns its id.

    Args:
        server: Where to run it.
        yaml_path: What ``python -m pipelines compile`` wrote.
        values: The pipeline's parameters as text.
        experiment: The name of KFP's experiment; it is made if there is none.
        namespace: Of a server for several users; else empty.
        service_account: What the steps run as; empty: the server's default.
        run_name: What KFP's page calls the run; empty: the pipeline's name and the time.

    Raises:
        ValueError: No such pipeline, a parameter is unknown, missing or wrong, or the server
            refuses the run. Nothing has been sent if it is a parameter.
        ConnectionError: The server cannot be reached.
    """
    pipeline, platform = _documents(yaml_path)
    spec = json_format.ParseDict(pipeline, PipelineSpec())
    inputs = spec.root.input_definitions.parameters
    arguments = typed_arguments(values, inputs)
    check_workers(arguments, inputs)
    _check(arguments)
    name = run_name or f"{spec.pipeline_info.name} {datetime.now():%Y-%m-%d %H:%M:%S}"
    run = {
        "display_name": name,
        "experiment_id": server.experiment_id(experiment, namespace=namespace),
        "pipeline_spec": {"pipeline_spec": pipeline, "platform_spec": platform},
        "runtime_config": {"parameters": arguments},
        "service_account": service_account,
    }
    return server.create_run(run)


def wait(server: KfpServer, run_id: str, *, poll_seconds: float = 10.0) -> None:
    """Waits for the end of a run and prints its states; a server that is away is asked again.

    Raises:
        StepFailedError: The run failed or was cancelled.
        ConnectionError: The server was away for too long; the run may go on.
        ValueError: The server refuses to tell; the run may go on.
    """
    shown, answered = "", time.monotonic()
    while True:
        try:
            run = server.run(run_id)
            answered = time.monotonic()
        except ValueError as error:  # a token that has expired, for one
            page = server.page(run_id)
            raise ValueError(f"{error}; run {run_id} goes on all the same: {page}") from None
        except ServerUnavailableError:
            if time.monotonic() - answered > _PATIENCE_SECONDS:
                raise
            time.sleep(poll_seconds)
            continue
        state = str(run.get("state", ""))
        if state and state != shown:
            print(f"run {run_id}: {state.lower()}", flush=True)
            shown = state
        if state in _ENDED:
            break
        time.sleep(poll_seconds)
    if state in ("FAILED", "CANCELED"):
        raise StepFailedError(f"run {run_id} {_reason(run)}; see {server.page(run_id)}")


def _documents(yaml_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the pipeline and what it asks of its platform."""
    try:
        documents = list(yaml.safe_load_all(yaml_path.read_text()))
    except OSError as error:
        raise ValueError(f"{yaml_path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{yaml_path} is no YAML: {error}") from error
    match documents:
        case [{"pipelineInfo": _} as pipeline, *platforms]:
            return pipeline, platforms[0] if platforms else {}
    raise ValueError(
        f"{yaml_path} is not a compiled pipeline; `python -m pipelines compile` writes one"
    )


def _check(arguments: Mapping[str, Any]) -> None:
    """Refuses values that would fail a run only after it has begun."""
    run_dir = arguments.get("run_dir")
    if run_dir and PurePosixPath(volume.MOUNT) not in PurePosixPath(run_dir).parents:
        raise ValueError(
            f"run_dir must be a folder in {volume.MOUNT}, where the steps' volume is mounted, "
            f"got {run_dir!r}; without run_dir the run gets one of its own"
        )
    config = arguments.get("pipeline_config", "/")
    if not config.startswith("/"):
        raise ValueError(
            f"pipeline_config must be an absolute path, as containers see it, got {config!r}"
        )
    for name in ("train_input_path", "eval_input_path"):
        for item in filter(None, map(str.strip, arguments.get(name, "").split(","))):
            if not item.startswith("/") and "://" not in item:
                raise ValueError(
                    f"{name} must be an absolute path, as containers see it, or a URI, got {item!r}"
                )
    parts = arguments.get("evaluation_parts", [0])
    if not parts or not all(isinstance(p, int) for p in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"evaluation_parts must be different integers, as [0, 1], got {parts}")
    if arguments.get("edit_config_json"):
        edits_from_json(arguments["edit_config_json"])
    count = arguments.get("accelerator_count", "1")
    if not count.isdecimal():
        raise ValueError(f"accelerator_count must be a whole number, got {count!r}")
    for name in ("cpu_request", "cpu_limit", "memory_request", "memory_limit"):
        if arguments.get(name):
            try:
                quantity(arguments[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    for name in ("volume", "mlflow_config_map", "mlflow_secret", "object_store_secret"):
        if arguments.get(name) == "":
            raise ValueError(f"{name} must not be empty; what it names need not be there")


def _reason(run: Mapping[str, Any]) -> str:
    """Returns how a run has ended, and in which tasks."""
    said = str(run["state"]).lower()
    tasks = run.get("run_details", {}).get("task_details", [])
    failed = {task.get("display_name", "") for task in tasks if task.get("state") == "FAILED"}
    if failed - {""}:
        said += f" in {', '.join(sorted(failed - {''}))}"
    error = run.get("error", {}).get("message", "")
    return f"{said}: {error}" if error else said
