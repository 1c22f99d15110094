"""The pods of a job: their logs, and what became of them."""

import logging
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import urllib3
from kubernetes import client

from components.launch_train.cluster import Cluster
from components.launch_train.failures import Failures
from components.launch_train.job import Kind
from components.launch_train.log_lines import LogFollower
from components.steps import StepFailedError

log = logging.getLogger(__name__)

_MAX_LOGS = 32
"""Each takes a connection; of the pods beyond, the last lines are read when they have failed."""
_CLOSING_SECONDS = 15.0
_WATCH_SECONDS = 60


class Replicas:
    """Watches the pods of one job while it is used as a context manager.

    An operator deletes the pods of a job that has failed, before it says that it has. So the last
    lines of every pod are kept, and each change of a pod is seen as it happens.
    """

    def __init__(self, cluster: Cluster, kind: Kind, job_name: str, *, interval: float) -> None:
        """Asks for nothing yet.

        Args:
            cluster: Where the job is.
            kind: What kind of job it is.
            job_name: Its name.
            interval: Seconds between attempts to reach the cluster.
        """
        self._cluster = cluster
        self._kind = kind
        self._selector = kind.selector(job_name)
        self._interval = interval
        self._failures = Failures(cluster, kind.container, self._last_lines)
        self._logs: dict[str, LogFollower] = {}
        self._ended = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, name="pods", daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._ended.set()
        for follower in self._logs.values():
            follower.close()
        if kind is None or issubclass(kind, Exception):  # there is time, as nobody waits for us
            deadline = time.monotonic() + _CLOSING_SECONDS
            for follower in self._logs.values():
                follower.join(deadline - time.monotonic())

    def update(self, pods: Sequence[client.V1Pod]) -> None:
        """Takes note of what the pods are now."""
        for name in self._logs.keys() - {pod.metadata.name for pod in pods}:
            self._logs[name].close()  # of a pod that is gone, whose last lines are still of use
        num_open = sum(not follower.is_closed for follower in self._logs.values())
        for pod in pods:
            name = pod.metadata.name
            if self._is_followed(name):
                continue
            if num_open < _MAX_LOGS or self._is_first(pod):
                num_open += 1
                self._logs[name] = LogFollower(
                    self._cluster,
                    name,
                    self._kind.container,
                    interval=self._interval,
                    show=_show if self._is_first(pod) else None,
                )
        self._failures.update(pods)

    def _is_followed(self, pod: str) -> bool:
        return pod in self._logs and not self._logs[pod].is_closed

    def failures(self) -> list[str]:
        """Returns how each replica that has failed did so, with its last lines."""
        return self._failures.texts()

    def _is_first(self, pod: client.V1Pod) -> bool:
        label, value = self._kind.first_pod
        return bool((pod.metadata.labels or {}).get(label) == value)

    def _last_lines(self, pod: str) -> list[str]:
        return list(self._logs[pod].last_lines) if pod in self._logs else []

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                for pod in self._cluster.pod_changes(self._selector, seconds=_WATCH_SECONDS):
                    if self._ended.is_set():
                        return
                    self._failures.update([pod])
            except (client.ApiException, urllib3.exceptions.HTTPError, StepFailedError) as error:
                log.debug("pods cannot be watched: %s", error)  # they are looked at regularly, too
            self._ended.wait(self._interval)


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
