"""Lets a training that is told to stop come to an end from which it can go on."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask for an end; where ranks got different ones the first counts."""

_ECHO_SECONDS = 2.0
"""A launcher forwards a signal that its whole process group may have received already."""


class Stopped(SystemExit):
    """Ends every rank of a training at the same place, with 128 + the number of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class StopRequest:
    """Whether this process has been told to stop, and whether all ranks have agreed to.

    Attributes:
        signum: Of ``STOPPING``; None as long as there was none of them.
        agreed: What ``batches_until`` has ended with; None as long as it has not.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.agreed: Stopped | None = None
        self._is_waiting = False

    def notice(self, signum: int, _: FrameType | None) -> None:
        """Handles a signal."""
        self.signum = self.signum or signum
        if self._is_waiting:
            self._is_waiting = False  # its echo must not interrupt what follows
            raise _Interrupted

    def next_of(self, items: Iterator[Item]) -> Item | None:
        """Returns the next item; None at the end, or as soon as this process is told to stop."""
        try:
            try:
                self._is_waiting = True
                return None if self.signum is not None else next(items, None)
            finally:
                self._is_waiting = False
        except _Interrupted:
            return None

    def batches_until(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Passes ``batches`` on to their end, or to a ``Stopped``: then ``agreed`` is set."""
        try:
            yield from batches
        except Stopped as stopped:
            self.agreed = stopped


class _Interrupted(BaseException):
    """Takes the main thread out of its wait for data."""


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collects the signals that ask for an end for the length of the ``with`` block.

    The first signal is only noted. After it an interrupt, or a SIGTERM that cannot be its echo,
    ends the process at once. In a thread other than the main one nothing changes: Python handles
    signals in the main thread only.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # Python handles a signal when its main thread comes back from waiting for other ranks, which it
    # may never do. Of a signal's arrival, however, the other end of a socket learns at once.
    arrivals, arriving = socket.socketpair()
    arriving.setblocking(False)
    watch = threading.Thread(target=_end_at_the_second, args=(arrivals,), daemon=True)
    handlers = {signum: signal.getsignal(signum) for signum in STOPPING}
    if handlers[signal.SIGHUP] == signal.SIG_IGN:  # as nohup has it
        del handlers[signal.SIGHUP]
    for signum in handlers:
        signal.signal(signum, request.notice)
    wakeup = signal.set_wakeup_fd(arriving.fileno(), warn_on_full_buffer=False)
    watch.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        arriving.close()
        watch.join()


def _end_at_the_second(arrivals: socket.socket) -> None:
    """Reads the numbers of signals, one a byte, until the socket's other end is closed."""
    first: float | None = None
    with arrivals:
        while arrived := arrivals.recv(1):
            signum = arrived[0]
            if signum not in STOPPING:
                continue
            if first is None:
                first = time.monotonic()
            elif signum == signal.SIGINT or time.monotonic() - first > _ECHO_SECONDS:
                os._exit(128 + signum)
