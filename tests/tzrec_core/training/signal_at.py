"""Sends the process that trains a signal when it logs a certain line."""

import logging
import os
import threading


class SignalAt(logging.Handler):
    """Waits for the ``count``-th line that contains ``text``, then ``delay`` seconds, if any."""

    def __init__(self, text: str, signum: int, *, count: int, delay: float | None) -> None:
        super().__init__()
        self._text = text
        self._signum = signum
        self._count = count
        self._delay = delay
        logger = logging.getLogger("tzrec_core")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self._text not in record.getMessage():
            return
        self._count -= 1
        if self._count != 0:
            return
        if self._delay is None:
            os.kill(os.getpid(), self._signum)
        else:
            timer = threading.Timer(self._delay, os.kill, (os.getpid(), self._signum))
            timer.daemon = True
            timer.start()
