"""The log of a pod, line by line: each once, however often its stream breaks off."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from http import HTTPStatus

import urllib3
from kubernetes import client

from components.launch_train.cluster import Cluster
from components.launch_train.refusals import message_of

log = logging.getLogger(__name__)

_STAMPED = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL
)
_OVERLAP_SECONDS = 30
"""A stream is opened again from somewhat before the last line, lest any is lost."""

NUM_LAST_LINES = 300
"""How many lines are kept of each pod, for when it has failed; torchrun's own report is long."""

Stamp = tuple[float, int]
"""Seconds, and nanoseconds within them, of a line."""


class Unseen:
    """Leaves those lines of a stream out that an earlier stream of the same log has had.

    Lines are told apart by their times; of lines of the same time by how many there were.
    """

    def __init__(self) -> None:
        self.last: Stamp | None = None
        self._num_of_last = 0

    def of(self, stream: Iterable[str]) -> Iterator[str]:
        """Yields the text of new lines, without their times."""
        num_to_skip, is_overlap = self._num_of_last, self.last is not None
        for line in stream:
            stamp, text = split(line)
            if stamp is not None:
                if is_overlap and self.last is not None:
                    if stamp < self.last:
                        continue
                    if stamp == self.last and num_to_skip > 0:
                        num_to_skip -= 1
                        continue
                is_overlap = False
                self._num_of_last = self._num_of_last + 1 if stamp == self.last else 1
                self.last = stamp
            yield text


def split(line: str) -> tuple[Stamp | None, str]:
    """Returns when a line was written, if it says so, and its text.

    >>> split("1970-01-01T01:00:02.5+01:00 Training Epoch 0")
    ((2.0, 500000000), 'Training Epoch 0')
    """
    match = _STAMPED.fullmatch(line)
    if match is None:
        return None, line
    seconds = datetime.fromisoformat(match[1] + match[3]).timestamp()
    return (seconds, int((match[2] or "").ljust(9, "0")[:9])), match[4]


class LogFollower:
    """Follows the log of one pod in a thread, from its first line on, over all its restarts."""

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        container: str,
        *,
        interval: float,
        show: Callable[[str], object] | None,
    ) -> None:
        """Starts the thread.

        Args:
            cluster: Where the pod is.
            pod: Its name.
            container: The name of its container.
            interval: Seconds between attempts.
            show: Gets the lines, unless only the last ones are of interest.
        """
        self.last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._cluster = cluster
        self._pod = pod
        self._container = container
        self._interval = interval
        self._show = show
        self._unseen = Unseen()
        self._last_time = 0.0  # when the last line arrived
        self._read_state: tuple[str, int] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closing.is_set()

    def close(self) -> None:
        """Tells the thread to read what was written up to now, and to end."""
        self._closing.set()

    def join(self, seconds: float) -> None:
        """Waits until that is done, within limits."""
        self._thread.join(max(seconds, 0.0))

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.is_set()
            try:
                self._read(follow=not is_last)
            except client.ApiException as error:
                if error.status == HTTPStatus.FORBIDDEN:
                    if self._show is not None:
                        log.warning("The log cannot be followed: %s", message_of(error))
                    return
                log.debug("no log yet: %s", message_of(error))
            except (urllib3.exceptions.HTTPError, OSError) as error:
                log.debug("the log broke off: %r", error)  # whoever waits for the job tells of it
            self._closing.wait(self._interval)

    def _read(self, *, follow: bool) -> None:
        # Asked for each time: the rest of a log that broke off is elsewhere after a restart.
        pod = self._cluster.read_pod(self._pod)
        if pod.status.phase == "Pending":
            return
        state = (pod.metadata.uid, _num_restarts(pod, self._container))
        before, self._read_state = self._read_state, state
        if before is not None and before != state and state[1] > 0:
            self._pass_on(previous=True, follow=False)
        self._pass_on(previous=False, follow=follow)

    def _pass_on(self, *, previous: bool, follow: bool) -> None:
        since = None
        if self._unseen.last is not None:
            since = int(time.monotonic() - self._last_time) + _OVERLAP_SECONDS
        response = self._cluster.open_log(
            self._pod, self._container, since=since, previous=previous, follow=follow
        )
        try:
            lines = (line.decode(errors="replace").rstrip("\n") for line in response)
            for text in self._unseen.of(lines):
                self._last_time = time.monotonic()
                self.last_lines.append(text)
                if self._show is not None:
                    self._show(text)
        finally:
            response.close()
            response.release_conn()


def _num_restarts(pod: client.V1Pod, container: str) -> int:
    statuses = pod.status.container_statuses or []
    return sum(status.restart_count for status in statuses if status.name == container)
