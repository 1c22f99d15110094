"""Runs a stand-in beside the tests."""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import urllib3

_SECONDS = 0.25


@contextmanager
def running(step: Callable[[], None], errors: list[str]) -> Iterator[None]:
    """Calls ``step`` again and again in a thread until the block ends.

    Args:
        step: Does all that there is to do now; the API server may be out of reach for a while.
        errors: Gets what went wrong otherwise, which is a mistake in a stand-in.
    """
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(_SECONDS):
            try:
                step()
            except urllib3.exceptions.HTTPError:
                continue
            # Whatever it is, the test that waits for the stand-in has to hear of it.
            except Exception:
                errors.append(traceback.format_exc())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
