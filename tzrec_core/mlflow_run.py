"""Runs in MLflow: which one a step logs into, and what it leaves there.

A pipeline run is one parent run, each of its steps a nested run. Kubeflow's own MLflow plugin makes
both and names the step's run in MLFLOW_RUN_ID: that run is used as it is and is not ended here.
Otherwise, with MLFLOW_TRACKING_URI set, the runs are found by their tags, or made: a step that is
tried again continues its run, whatever state a killed process left it in. Otherwise nothing is
tracked.

No failure of MLflow leaves this module: it costs a warning, and the numbers are on disk anyway.
"""

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

Result = TypeVar("Result")

DEFAULT_EXPERIMENT = "tzrec"
PIPELINE_RUN_TAG = "kfp.pipeline_run_id"  # the key that Kubeflow's plugin writes
STAGE_TAG = "stage"
PART_TAG = "part"
SHOWN_AS = "workflowType=machine_learning"
"""What a link needs: in a new browser MLflow's pages are about language models otherwise."""
PARENT_TAG = "mlflow.parentRunId"

# MLflow's own limits: it cuts longer values, or refuses a whole request for them.
_MAX_KEY = 250
_MAX_PARAM = 6000
MAX_TAG = 8000
_MAX_PARAMS_PER_REQUEST = 100
# A server that cannot be reached must not hold a step up for long (MLflow's own: 120 s, 7 retries).
_REQUEST_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_MAX_FAILURES = 2  # in a row; after them the rest of the step is not tracked


class Run:
    """What a step tells about itself.

    The parent run gets the same parameters, metrics and tags: MLflow's page of an experiment draws
    top-level runs only, so curves of nested runs alone would be hidden there.
    """

    def __init__(self, client: "MlflowClient | None", run_ids: list[str], *, owned: bool) -> None:
        """Wraps ``run_ids``: the run and its parent if it has one; none if nothing is tracked.

        Args:
            client: the store they are in; None exactly when there are none.
            run_ids: the run's id, then its parent's.
            owned: whether the runs were made here, and so are named and ended here.
        """
        self._client = client
        self._run_ids = run_ids
        self._owned = owned
        self._num_failures = 0
        self._warned = False
        self.is_last = False
        """Whether the parent run ends with this one."""

    @property
    def run_id(self) -> str | None:
        return self._run_ids[0] if self._run_ids else None

    def page(self) -> str:
        """Returns where the parent, or the run itself, is shown, behind the server's address."""
        pages = []
        self._on_each(
            self._run_ids[-1:],
            lambda client, run: pages.append(
                f"#/experiments/{client.get_run(run).info.experiment_id}/runs/{run}?{SHOWN_AS}"
            ),
        )
        return "".join(pages)

    def rename(self, name: str) -> None:
        """Names the run, unless it is another system's."""
        if self._owned:
            self._on_each(self._run_ids[:1], lambda client, run: client.update_run(run, name=name))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Records parameters; one that the run has already keeps its value.

        MLflow refuses to change a parameter, so what may differ between two attempts of a step
        belongs in a tag.
        """
        values = {_clean(key): str(value)[:_MAX_PARAM] for key, value in params.items()}
        self._on_each(self._run_ids, lambda client, run: _add_params(client, run, values))

    def log_metrics(self, metrics: Mapping[str, float], *, prefix: str, step: int = 0) -> None:
        """Records every finite value as ``<prefix>/<name>``, unless it is there already."""
        values = {metric_name(prefix, k): v for k, v in metrics.items() if math.isfinite(v)}
        self._on_each(self._run_ids, lambda client, run: _add_metrics(client, run, values, step))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags; one that is there already gets the new value."""
        values = {_clean(key): str(value)[:MAX_TAG] for key, value in tags.items()}
        self._on_each(self._run_ids, lambda client, run: _set_tags(client, run, values))

    def log_artifact(
        self, path: str | os.PathLike[str], folder: str, *, on_parent: bool = False
    ) -> None:
        """Uploads a file, or everything in a directory, into the run's ``folder``.

        Args:
            path: what to upload.
            folder: where to.
            on_parent: of the parent run instead; of the run itself if it has none.
        """

        def upload(client: "MlflowClient", run: str) -> None:
            send = client.log_artifacts if Path(path).is_dir() else client.log_artifact
            send(run, os.fspath(path), folder)

        self._on_each(self._run_ids[-1:] if on_parent else self._run_ids[:1], upload)

    def attempt(
        self, call: Callable[["MlflowClient", str], Result], *, on_parent: bool = False
    ) -> Result | None:
        """Returns what ``call`` does with the client and the run's id; None if it fails.

        It also is None if nothing is tracked. See ``log_artifact`` for ``on_parent``.
        """
        results: list[Result] = []
        run_ids = self._run_ids[-1:] if on_parent else self._run_ids[:1]
        self._on_each(run_ids, lambda client, run: results.append(call(client, run)))
        return results[0] if results else None

    def attempt_on_each(self, call: Callable[["MlflowClient", str], object]) -> None:
        """Calls with the run's id, then with its parent's."""
        self._on_each(self._run_ids, call)

    def end(self, status: str, *, parent_status: str | None) -> None:
        """Ends the run, and its parent too if it gets a status; leaves another system's alone."""
        if not self._owned:
            return
        self._num_failures = 0  # try once more, whatever went wrong before
        self._on_each(self._run_ids[:1], lambda client, run: client.set_terminated(run, status))
        if parent_status is not None:
            self._on_each(
                self._run_ids[1:], lambda client, run: client.set_terminated(run, parent_status)
            )

    def _on_each(self, run_ids: list[str], call: Callable[["MlflowClient", str], object]) -> None:
        for run_id in run_ids:
            assert self._client is not None
            if self._num_failures == _MAX_FAILURES:
                return
            try:
                call(self._client, run_id)
                self._num_failures = 0
            # Whatever the store, its driver or the network raises: a step does not fail for it.
            except Exception as error:
                self._num_failures += 1
                warn_unavailable(error, level=logging.DEBUG if self._warned else logging.WARNING)
                self._warned = True


@contextmanager
def track(
    stage: str,
    *,
    experiment: str,
    name: str,
    identity: Mapping[str, str],
    parent_name: str | None = None,
    part: str = "",
    last: bool = False,
) -> Iterator[Run]:
    """Gives a step its run, and ends it as the step ends: FINISHED, FAILED or KILLED.

    Args:
        stage: the step's name; it becomes a tag, and is part of what finds the run again.
        experiment: made if it is not there.
        name: of the run.
        identity: tags that no other pipeline run has.
        parent_name: of the parent run, which all stages of the same identity share; None for a run
            that stands alone.
        part: of the stage, if several processes share it; each part has its own run.
        last: whether the parent ends with this step, as far as is known now (``Run.is_last``). It
            always ends with a step that fails.
    """
    own = {STAGE_TAG: stage, **({PART_TAG: part} if part else {})}
    run = _open(own, experiment=experiment, name=name, identity=identity, parent_name=parent_name)
    run.is_last = last
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED", parent_status="KILLED")
        raise
    except BaseException:
        run.end("FAILED", parent_status="FAILED")
        raise
    run.end("FINISHED", parent_status="FINISHED" if run.is_last else None)


def web_address(uri: str) -> str:
    """Returns a server's address as it may be shown, without credentials; empty if it is none.

    >>> web_address("https://name:password@mlflow:5000/at/?key=1")
    'https://mlflow:5000/at'
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    place = parts.netloc.rpartition("@")[2]  # without what stands before it: name and password
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def metric_name(prefix: str, name: str) -> str:
    """Returns the name MLflow knows a metric by: ``train/loss_total`` for ``loss/total``.

    MLflow groups charts by what precedes the first slash. It refuses most punctuation, and with
    one refused name every value of the same request: ``recall@5`` becomes ``recall_at_5``.
    """
    flat = name.removeprefix("metric/").replace("/", "_")
    return f"{prefix}/{_clean(flat)}"[:_MAX_KEY]


def model_name(name: str) -> str:
    """Returns ``name`` without the characters that MLflow does not allow in a model's name."""
    return re.sub(r"[/:.%\"']+", "-", name)


def connect() -> "MlflowClient":
    """Returns a client of the store that MLflow's environment variables name.

    MLflow is imported here because that takes seconds, which a process that tracks nothing saves.
    """
    for variable, value in _REQUEST_SETTINGS.items():
        os.environ.setdefault(variable, value)
    from mlflow import MlflowClient

    return MlflowClient()


def run_and_parent(client: "MlflowClient", run_id: str) -> list[str]:
    """Returns ``run_id`` and, if that run is nested, its parent's."""
    parent = client.get_run(run_id).data.tags.get(PARENT_TAG)
    return [run_id] if parent is None else [run_id, parent]


def logged_steps(client: "MlflowClient", run_id: str, metric: str) -> dict[int, float]:
    """Returns the values that a run has of a metric, by step."""
    return {point.step: point.value for point in client.get_metric_history(run_id, metric)}


def warn_unavailable(error: Exception, *, level: int = logging.WARNING) -> None:
    """Says in one line, without credentials, that something could not be sent to MLflow."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = re.sub(r"://[^/\s]*@", "://", lines[0])[:300]
    log.log(level, "MLflow could not be used; the numbers are on disk. %s", line)


def _open(
    own_tags: Mapping[str, str],
    *,
    experiment: str,
    name: str,
    identity: Mapping[str, str],
    parent_name: str | None,
) -> Run:
    injected = os.environ.get("MLFLOW_RUN_ID")
    if not injected and not os.environ.get("MLFLOW_TRACKING_URI"):
        return Run(None, [], owned=False)
    try:
        client = connect()
        if injected:
            return Run(client, run_and_parent(client, injected), owned=False)
        experiment_id = _experiment_id(client, experiment)
        if parent_name is None:
            own = _find_or_create(client, experiment_id, name, {**identity, **own_tags})
            return Run(client, [own], owned=True)
        tags = {**identity, STAGE_TAG: "pipeline"}
        parent = _find_or_create(client, experiment_id, parent_name, tags)
        tags = {**identity, **own_tags, PARENT_TAG: parent}
        return Run(client, [_find_or_create(client, experiment_id, name, tags), parent], owned=True)
    # As in Run: MLflow may fail in any way, and the step goes on without it.
    except Exception as error:
        warn_unavailable(error)
        return Run(None, [], owned=False)


def _experiment_id(client: "MlflowClient", name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=_artifact_location(client)))


def _artifact_location(client: "MlflowClient") -> str | None:
    """Returns the folder ``mlartifacts`` beside a sqlite store; a server has its own place."""
    uri = urlsplit(client.tracking_uri)
    if uri.scheme != "sqlite":
        return None
    return (Path(uri.path[1:]).absolute().parent / "mlartifacts").as_uri()


def _find_or_create(
    client: "MlflowClient", experiment_id: str, name: str, tags: Mapping[str, str]
) -> str:
    """Returns the run that has ``tags``, marked as running under ``name``, or a new one."""
    condition = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())
    found = client.search_runs(
        [experiment_id], condition, max_results=1, order_by=["attributes.start_time ASC"]
    )
    if not found:
        return str(client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id)
    run_id = str(found[0].info.run_id)
    client.update_run(run_id, status="RUNNING", name=name)
    return run_id


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _clean(name: str) -> str:
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))[:_MAX_KEY]


def _add_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(new), _MAX_PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=new[start : start + _MAX_PARAMS_PER_REQUEST])


def _add_metrics(
    client: "MlflowClient", run_id: str, metrics: Mapping[str, float], step: int
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    new = [
        Metric(name, value, now, step)
        for name, value in metrics.items()
        if logged_steps(client, run_id, name).get(step) != value
    ]
    client.log_batch(run_id, metrics=new)


def _set_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
