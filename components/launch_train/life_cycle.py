"""The life of a job, from its making, or its finding, to its end."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from kubernetes import client

from components.launch_train.cluster import Cluster
from components.launch_train.failures import is_running, waits_for, warnings_about
from components.launch_train.job import RUN_ANNOTATION, Kind, Manifest
from components.launch_train.refusals import UnavailableError
from components.launch_train.replicas import Replicas
from components.steps import StepFailedError

log = logging.getLogger(__name__)

_QUIET_SECONDS = 60.0
"""After which it is told what a job without running pods waits for; then ever more rarely."""
_CANCEL_SECONDS = 15.0
"""For the one request that a launcher that is told to stop has left to make."""
_GONE_SECONDS = 900.0
"""For the pods of an earlier job to end, which may be saving a checkpoint."""
_AWAY_SECONDS = 2 * 60 * 60.0
"""For an API server that is away while a job runs, which goes on without it."""


class JobRun:
    """One job, and what is known of it."""

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        manifest: Manifest,
        *,
        timeout: float | None,
        interval: float,
    ) -> None:
        """Does nothing yet.

        Args:
            cluster: Where it is to run.
            kind: What kind of job it is.
            manifest: Of the job.
            timeout: Seconds after which it is deleted; None: never.
            interval: Seconds between looks at it.
        """
        self._cluster = cluster
        self._kind = kind
        self._manifest = manifest
        self._name: str = manifest["metadata"]["name"]
        self._title = f"{kind.name} {self._name}"
        self._timeout = timeout
        self._interval = interval
        self._replicas = Replicas(cluster, kind, self._name, interval=interval)
        self._uid: str | None = None
        self._told = ""
        self._told_pods = ""
        self._quiet_since = time.monotonic()
        self._quiet_limit = _QUIET_SECONDS

    def run(self, *, is_done: Callable[[], bool], prepare: Callable[[], None]) -> None:
        """Makes the job, or finds it, and shows how it goes until it has succeeded.

        A job that is there from an earlier attempt is followed to its end. One that has failed,
        or succeeded without doing its work, is deleted and made anew, and so is one that an earlier
        pipeline run has left behind.

        Args:
            is_done: Returns whether the work of a job that has succeeded is there.
            prepare: Is called before a job is made.

        Raises:
            StepFailedError: It has failed, was deleted or took too long, another run watches it, or
                the cluster refuses.
            SystemExit: The launcher was told to stop; the job is deleted.
            KeyboardInterrupt: Likewise.
        """
        try:
            is_new = False
            while not is_new and not self._is_there(is_done):
                is_new = self._make(prepare)
            if not is_new:
                self._adopt()
            self._follow(is_done)
        except (SystemExit, KeyboardInterrupt):
            self._cancel()
            raise

    def _is_there(self, is_done: Callable[[], bool]) -> bool:
        """Returns whether there is a job worth following; deletes any other."""
        job = self._cluster.job(self._kind, self._name)
        if job is None:
            return False
        if not is_being_deleted(job):
            what = self._unusable(job, is_done)
            if not what:
                log.info("%s is there already, from an earlier attempt; following it", self._title)
                return True
            log.info("%s is there from an earlier attempt, and %s; anew", self._title, what)
            self._cluster.delete(self._kind, self._name)
        self._wait_until_gone()
        return False

    def _unusable(self, job: Manifest, is_done: Callable[[], bool]) -> str:
        """Returns why a job that is there is not to be followed; empty if it is."""
        match self._outcome(job):
            case True:
                return "" if is_done() else "has done nothing that is still there"
            case False:
                return "has failed"
        run, own = run_of(job), run_of(self._manifest)
        if run == own:
            return ""
        owners = job["metadata"].get("ownerReferences", [])
        if not owners or any(map(self._cluster.is_at_work, owners)):
            pods = ", ".join(f"pod {owner['name']}" for owner in owners) or "another machine"
            raise StepFailedError(
                f"{self._title} is of pipeline run {run}, which watches it from {pods}: one "
                "training at a time in a run directory; wait for its end, or delete it"
            )
        return f"is of pipeline run {run}, whose launcher is gone"

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        is_told = False
        while self._cluster.job(self._kind, self._name) is not None:
            if not is_told:
                log.info("Waiting for the pods of the earlier %s to end", self._title)
                is_told = True
            if time.monotonic() > deadline:
                raise StepFailedError(
                    f"the earlier {self._title} was deleted {_GONE_SECONDS:.0f} s ago, but is "
                    "still there: a finalizer, or a pod that does not end, holds it"
                )
            time.sleep(self._interval)

    def _make(self, prepare: Callable[[], None]) -> bool:
        prepare()
        is_new = self._cluster.create(self._kind, self._manifest)
        if is_new:
            log.info("Made %s in namespace %s", self._title, self._cluster.namespace)
        return is_new

    def _adopt(self) -> None:
        """Takes the job over: its last owner, a pod of an earlier attempt, may be deleted."""
        for owner in self._manifest["metadata"].get("ownerReferences", []):
            self._cluster.adopt(self._kind, self._name, owner)

    def _cancel(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        log.warning("Told to stop: deleting %s", self._title)
        try:
            self._cluster.delete(self._kind, self._name, patience=_CANCEL_SECONDS)
        except StepFailedError as error:
            log.error("%s could not be deleted: %s", self._title, error)

    def _follow(self, is_done: Callable[[], bool]) -> None:
        try:
            with self._replicas:
                while not self._is_over(is_done):
                    time.sleep(self._interval)
        except UnavailableError as error:
            raise StepFailedError(
                f"{error}; {self._title} goes on, and the next attempt follows it"
            ) from error

    def _is_over(self, is_done: Callable[[], bool]) -> bool:
        job = self._cluster.job(self._kind, self._name, patience=_AWAY_SECONDS)
        if job is None or is_being_deleted(job) or self._is_another(job):
            if is_done():  # a job that has ended may be deleted at once
                return True
            raise StepFailedError(f"{self._title} was deleted by somebody else")
        self._tell_conditions(job)
        pods = self._cluster.pods(self._kind.selector(self._name), patience=_AWAY_SECONDS)
        self._replicas.update(pods)
        match self._outcome(job):
            case True:
                return True
            case False:
                raise StepFailedError(self._failed(job))
        self._tell_pods(job, pods)
        if self._timeout is not None and seconds_of(job) > self._timeout:
            self._cluster.delete(self._kind, self._name)
            late = f"{self._title} was not finished after {self._timeout:.0f} s, and is deleted"
            raise StepFailedError("\n".join([late, *self._replicas.failures()]))
        return False

    def _is_another(self, job: Manifest) -> bool:
        uid = job["metadata"].get("uid")
        self._uid = self._uid or uid
        return bool(uid != self._uid)

    def _outcome(self, job: Manifest) -> bool | None:
        """Returns whether the job has succeeded; None if it is not over."""
        held = {condition["type"] for condition in conditions(job)}
        if "Failed" in held:
            return False
        return True if self._kind.succeeded in held else None

    def _failed(self, job: Manifest) -> str:
        (failed,) = (c for c in conditions(job) if c["type"] == "Failed")
        said = failed.get("message") or failed.get("reason") or "it does not say why"
        replicas = self._replicas.failures() or ["no replica has left word of its failure"]
        return "\n".join([f"{self._title} failed: {said}", *replicas])

    def _tell_conditions(self, job: Manifest) -> None:
        told = "; ".join(
            ": ".join(filter(None, [condition["type"], condition.get("message")]))
            for condition in conditions(job)
        )
        if told != self._told:
            self._told = told
            log.info("%s: %s", self._title, told or "no condition yet")

    def _tell_pods(self, job: Manifest, pods: Sequence[client.V1Pod]) -> None:
        running = sum(is_running(pod, self._kind.container) for pod in pods)
        told = f"{running} of {len(pods)} pods run"
        if told != self._told_pods:
            self._told_pods = told
            log.info("%s: %s", self._title, told)
        is_unseen = not pods and "Running" in {held["type"] for held in conditions(job)}
        is_waiting = not pods or any(pod.status.phase == "Pending" for pod in pods)
        if is_unseen or not is_waiting:  # pods cannot be listed without the right to
            self._quiet_since, self._quiet_limit = time.monotonic(), _QUIET_SECONDS
            return
        quiet = time.monotonic() - self._quiet_since
        if quiet < self._quiet_limit:
            return
        self._quiet_limit *= 2
        log.warning("%s", self._waiting(job, pods, quiet))

    def _waiting(self, job: Manifest, pods: Sequence[client.V1Pod], quiet: float) -> str:
        """Returns what a job waits for whose pods do not all run, as far as the cluster says."""
        lines = [f"{self._title} has waited for pods for {quiet:.0f} s"]
        lines += [waits_for(pod) for pod in pods if pod.status.phase == "Pending"]
        if any(condition["type"] == "Suspended" for condition in conditions(job)):
            lines.append("it is suspended: a queue has not admitted it")
        elif not pods and not conditions(job):
            lines.append(f"nobody looks after it: is {self._kind.operator} running?")
        elif not pods:
            lines.append("it has no pods")
        lines += warnings_about(self._cluster, self._name)
        return "\n  ".join(lines)


def conditions(job: Manifest) -> list[Manifest]:
    """Returns the conditions that hold."""
    status = job.get("status") or {}
    return [c for c in status.get("conditions") or [] if c["status"] == "True"]


def run_of(job: Manifest) -> str:
    """Returns the pipeline run that has made a job."""
    return str((job["metadata"].get("annotations") or {}).get(RUN_ANNOTATION, ""))


def is_being_deleted(job: Manifest) -> bool:
    """Returns whether somebody has deleted the job; it may be there for as long as its pods."""
    return "deletionTimestamp" in job["metadata"]


def seconds_of(job: Manifest) -> float:
    """Returns how long ago the job began; 0 as long as it is suspended."""
    status = job.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "Suspended":
            if condition["status"] == "True":
                return 0.0
            return _seconds_since(condition["lastTransitionTime"])
    began = status.get("startTime") or job["metadata"].get("creationTimestamp")
    return 0.0 if began is None else _seconds_since(began)


def _seconds_since(time_of_api: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time_of_api)).total_seconds()
