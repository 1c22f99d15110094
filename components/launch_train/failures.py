"""Why replicas of a job have ended badly, or do not start: exit codes, reasons, last lines."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kubernetes import client

from components import child
from components.launch_train.cluster import Cluster
from components.launch_train.log_lines import NUM_LAST_LINES

log = logging.getLogger(__name__)

_NUM_SHOWN_LINES = 30
_NUM_EVENTS = 5
_TRACEBACK = "Traceback (most recent call last):"
_TORCHRUN_REPORT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
_ON_THE_WAY = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Failure:
    """How a replica has ended.

    Attributes:
        pod: Its name.
        exit_code: Of its container; None if the pod was taken away whole.
        reason: As Kubernetes calls it: Error, OOMKilled, Evicted, ...
        num_restarts: How often it had been restarted before.
        lines: The last ones that it wrote.
    """

    pod: str
    exit_code: int | None
    reason: str
    num_restarts: int
    lines: Sequence[str]

    def summary(self) -> str:
        """Returns one line."""
        ended = "" if self.exit_code is None else f"exit code {self.exit_code}, "
        restarts = f", after {self.num_restarts} restarts" if self.num_restarts else ""
        cause = f": {child.error_of(own_lines(self.lines))}" if self.lines else ""
        return f"{self.pod}: {ended}{self.reason}{restarts}{cause}"

    def text(self) -> str:
        """Returns the summary and the last lines."""
        last = own_lines(self.lines)[-_NUM_SHOWN_LINES:]
        return "\n".join([self.summary(), *(f"    {line}" for line in last)])


class Failures:
    """The last failure of each replica.

    They are looked up as they happen: whatever cleans up after a job takes its logs along.
    """

    def __init__(
        self, cluster: Cluster, container: str, lines_of: Callable[[str], Sequence[str]]
    ) -> None:
        """Knows of none yet.

        Args:
            cluster: Where the pods are.
            container: What their container is called.
            lines_of: Returns what is known of the log of a pod that is gone.
        """
        self._cluster = cluster
        self._container = container
        self._lines_of = lines_of
        self._lock = threading.Lock()
        self._known: dict[str, Failure] = {}
        self._seen: set[tuple[str, str, int]] = set()
        self._warned: set[tuple[str, str]] = set()

    def update(self, pods: Sequence[client.V1Pod]) -> None:
        """Looks for failures that are new, and says so; from any thread."""
        with self._lock:
            for pod in pods:
                for status in pod.status.container_statuses or []:
                    if status.name == self._container:
                        self._look(pod, status)
                if pod.status.phase == "Failed" and not pod.status.container_statuses:
                    self._add(pod, Failure(pod.metadata.name, None, _reason(pod.status), 0, []), 0)
                self._warn_of_waiting(pod)

    def texts(self) -> list[str]:
        """Returns all that is known, replica for replica."""
        with self._lock:
            return [failure.text() for _, failure in sorted(self._known.items())]

    def _look(self, pod: client.V1Pod, status: client.V1ContainerStatus) -> None:
        is_waiting = status.state is not None and status.state.waiting is not None
        for state, is_over, num_restarts in (
            # A container that waits to be restarted is not counted as restarted yet.
            (status.last_state, True, status.restart_count - (not is_waiting)),
            (status.state, False, status.restart_count),
        ):
            ended = state.terminated if state is not None else None
            if ended is None or ended.exit_code == 0:
                continue
            if (pod.metadata.name, pod.metadata.uid, num_restarts) in self._seen:
                continue
            name = pod.metadata.name
            lines: Sequence[str] = self._cluster.last_lines(
                name, self._container, number=NUM_LAST_LINES, previous=is_over
            ) or self._lines_of(name)
            reason = ended.reason or "Error"
            failure = Failure(name, ended.exit_code, reason, num_restarts, lines)
            self._add(pod, failure, num_restarts)

    def _add(self, pod: client.V1Pod, failure: Failure, num_restarts: int) -> None:
        key = (pod.metadata.name, pod.metadata.uid, num_restarts)
        if key not in self._seen:
            self._seen.add(key)
            self._known[failure.pod] = failure
            log.warning("%s", failure.summary())

    def _warn_of_waiting(self, pod: client.V1Pod) -> None:
        for status in pod.status.container_statuses or []:
            waiting = status.state.waiting if status.state is not None else None
            if waiting is None or waiting.reason in {None, *_ON_THE_WAY}:
                continue
            if (pod.metadata.name, waiting.reason) not in self._warned:
                self._warned.add((pod.metadata.name, waiting.reason))
                log.warning("%s", waits_for(pod))


def own_lines(lines: Sequence[str]) -> Sequence[str]:
    """Returns what a training has written, without torchrun's report that it has failed."""
    for index, line in enumerate(lines):
        if line.startswith(_TORCHRUN_REPORT):
            before = [i for i in range(index) if lines[i].startswith(_TRACEBACK)]
            return lines[: before[-1] if before else index]
    return lines


def is_running(pod: client.V1Pod, container: str) -> bool:
    """Returns whether the container of a pod runs, which a pod's phase does not tell."""
    statuses = pod.status.container_statuses or []
    return any(s.name == container and s.state and s.state.running for s in statuses)


def waits_for(pod: client.V1Pod) -> str:
    """Returns in one line what keeps a pod from running, as far as it knows."""
    reasons = [
        f"{condition.reason}: {condition.message}"
        for condition in pod.status.conditions or []
        if condition.type == "PodScheduled" and condition.status != "True" and condition.reason
    ]
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting if status.state is not None else None
        if waiting is not None and waiting.reason:
            reasons.append(f"{waiting.reason}: {waiting.message or 'no message'}")
    return f"{pod.metadata.name} is {pod.status.phase}: {'; '.join(reasons) or 'no reason given'}"


def warnings_about(cluster: Cluster, job_name: str) -> list[str]:
    """Returns the last warnings of Kubernetes about a job and all that belongs to it."""
    events = cluster.warnings(job_name)
    events.sort(key=lambda event: str(event.last_timestamp or event.event_time or ""))
    return [
        f"{event.involved_object.kind} {event.involved_object.name}: "
        f"{event.reason}: {event.message}"
        for event in events[-_NUM_EVENTS:]
    ]


def _reason(status: client.V1PodStatus) -> str:
    return ": ".join(filter(None, [status.reason or "Failed", status.message]))
