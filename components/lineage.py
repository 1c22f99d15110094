"""Where a run comes from, as MLflow knows it: code, image, config, data, checkpoints."""

import hashlib
import json
import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from components.description import NOTE_TAG
from tzrec_core.eval_result import EvalResult
from tzrec_core.mlflow_run import Run, metric_name, model_name
from tzrec_core.run_dir import RunDir, identify

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric

# Images carry them, as their files are no git checkout.
REVISION_VARIABLE = "TZREC_GIT_REVISION"
IMAGE_VARIABLE = "TZREC_IMAGE"
EXPERIMENT_NOTE = (
    "Recommender models trained by TZRec Pipelines: one run per pipeline run, with the curves and "
    "results of all its steps; each step is nested below it. Charts: `train/`, `eval/`, `data/`, "
    "`system/`, `export/` and `best/`, the checkpoint that was chosen."
)
_CHECKPOINT_TYPE = "checkpoint"
_READY: Final = "READY"
_MAX_DIGEST = 36  # MLflow's own limit


def origin_tags(config: Path) -> dict[str, str]:
    """Returns tags that say what code, image and config a run is of, as far as that is known."""
    known = {
        "git.revision": os.environ.get(REVISION_VARIABLE) or _git_revision(),
        "image": os.environ.get(IMAGE_VARIABLE, ""),
        "config.sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
    }
    return {name: value for name, value in known.items() if value}


def describe_experiment(run: Run) -> None:
    """Gives the run's experiment a description, unless somebody has written one."""

    def describe(client: "MlflowClient", run_id: str) -> None:
        experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
        if NOTE_TAG not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, EXPERIMENT_NOTE)

    run.attempt(describe)


def log_data(run: Run, rows: Mapping[str, tuple[Path, str]]) -> None:
    """Names the data that a run and its parent use; what is named already is not named again.

    Args:
        run: The run.
        rows: The folder and the fingerprint of rows, by what they are used for: train, eval.
    """

    def log(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(use, fingerprint[:_MAX_DIGEST], "local", json.dumps({"uri": str(path)})),
                [InputTag("mlflow.data.context", use)],
            )
            for use, (path, fingerprint) in rows.items()
        ]
        used = client.get_run(run_id).inputs
        known = {(i.dataset.name, i.dataset.digest) for i in used.dataset_inputs} if used else set()
        new = [i for i in inputs if (i.dataset.name, i.dataset.digest) not in known]
        if new:
            client.log_inputs(run_id, new)

    run.attempt_on_each(log)


def log_checkpoints(run: Run, place: RunDir, results: Sequence[EvalResult], digest: str) -> None:
    """Lists checkpoints among the parent run's models, where they lie and how good they are.

    Weights stay where they are. A checkpoint that is listed already is not listed again, one whose
    listing was interrupted is finished, and one that another training has replaced is removed.

    Args:
        run: The run.
        place: Has the checkpoints.
        results: Their evaluations.
        digest: Fingerprint of the evaluation rows.
    """

    def log(client: "MlflowClient", run_id: str) -> None:
        from mlflow.entities import LoggedModelOutput

        experiment_id = client.get_run(run_id).info.experiment_id
        known = _logged_models(client, experiment_id, f"source_run_id = '{run_id}'")
        for result in results:
            checkpoint = place.checkpoint(result.step)
            path, identity = str(checkpoint), identify(checkpoint)
            listed = None
            for model in known:
                if model.tags.get("path") != path:
                    continue
                if model.tags.get("identity") == identity:
                    listed = model
                else:
                    client.delete_logged_model(model.model_id)
            if listed is not None and listed.status.value == _READY:
                continue
            listed = listed or client.create_logged_model(
                experiment_id,
                name=model_name(checkpoint.name),
                source_run_id=run_id,
                tags={"path": path, "identity": identity, "global_step": str(result.step)},
                model_type=_CHECKPOINT_TYPE,
            )
            points = _points(client, run_id, result, listed.model_id, digest)
            client.log_batch(run_id, metrics=points)
            client.log_outputs(run_id, [LoggedModelOutput(listed.model_id, result.step)])
            client.finalize_logged_model(listed.model_id, _READY)

    run.attempt(log, on_parent=True)


def _logged_models(
    client: "MlflowClient", experiment_id: str, condition: str
) -> "list[LoggedModel]":
    """Returns those of all pages; MLflow's own has at most 100."""
    found: list[LoggedModel] = []
    token = None
    while True:
        page = client.search_logged_models([experiment_id], condition, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _points(
    client: "MlflowClient", run_id: str, result: EvalResult, model_id: str, digest: str
) -> "list[Metric]":
    """Returns the metrics of a checkpoint as those of a model.

    A value with the time that it has in the run already is not added to that.
    """
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = []
    for name, value in result.metrics.items():
        if math.isfinite(value):
            key = metric_name("eval", name)
            times = {p.step: p.timestamp for p in client.get_metric_history(run_id, key)}
            point = (key, value, times.get(result.step, now), result.step)
            points.append(Metric(*point, model_id, "eval", digest[:_MAX_DIGEST]))
    return points


def _git_revision() -> str:
    """Returns the commit of the checkout that runs; empty if it is none."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # there is no git
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
