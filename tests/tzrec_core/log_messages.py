"""What the library logs in a process of its own, where pytest's capturing does not reach."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def messages(level: int) -> Iterator[list[str]]:
    """Gives the list of what is logged in the block at ``level`` or above."""
    found: list[str] = []
    handler = logging.Handler(level)
    handler.emit = lambda record: found.append(record.getMessage())
    log = logging.getLogger("tzrec_core")
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
