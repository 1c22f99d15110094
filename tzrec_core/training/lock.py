"""Keeps a second training out of a folder, until the first one ends or its process is dead.

Two things hold the lock. The kernel's lock on a file (``flock``) ends with its holder, but not
every file system passes it on to other machines, some mounts keep it to one container, and some
know no locks at all. Therefore the holder also sets the file's time every few seconds. A process
that finds the file of a holder elsewhere watches it for a while before it takes the lock over:
nobody's clock is asked, only whether the time changes.

What remains: without ``flock`` two trainings that start within the same moment may both get in.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE = ".training.lock"
_MISSED = 6
"""Signs of life in a row that a holder may miss before it is taken for dead."""


@contextmanager
def locked(folder: Path, *, interval: float = 5.0) -> Iterator[None]:
    """Holds the lock of ``folder`` until the block ends; makes the folder, empty it goes again.

    The lock of a dead process of this container is taken over at once, that of any other when it
    has not given a sign of life for six intervals.

    Args:
        folder: To be written to by one training only.
        interval: Seconds between signs of life, the same for all processes.

    Raises:
        ValueError: Another process holds it; says which, where and since when.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    descriptor = _take(path, interval)
    ours = _this_process()
    ended = threading.Event()
    signs = threading.Thread(target=_give_signs, args=(path, ended, interval), daemon=True)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(ours).encode(), 0)
        os.fsync(descriptor)
        signs.start()
        yield
    finally:
        ended.set()
        if signs.is_alive():
            signs.join()
        if _holder(path) == ours:  # not if it was taken over, from a process that was suspended
            path.unlink()
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _take(path: Path, interval: float) -> int:
    """Returns the opened file, locked as well as its file system can."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            has_kernel_lock = _flock(descriptor)
            holder = _holder(path)
            is_busy = has_kernel_lock is False
            if not is_busy and holder is not None:
                is_neighbour = has_kernel_lock and holder.get("place") == _place()
                is_busy = not is_neighbour and _is_alive(path, holder, interval)
            if is_busy:
                raise ValueError(
                    f"{path.parent} is being trained into by {_described(holder)}; "
                    "wait for its end, or choose another model_dir"
                )
            # The last holder may have deleted the file after it was opened here.
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool | None:
    """Returns whether the kernel's lock is ours now; None on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s; only signs of life tell trainings in model_dir from dead ones", error)
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _give_signs(path: Path, ended: threading.Event, interval: float) -> None:
    while not ended.wait(interval):
        with suppress(OSError):  # one sign may fail
            os.utime(path)


def _is_alive(path: Path, holder: dict[str, Any], interval: float) -> bool:
    log.info(
        "%s was last trained into by %s; waiting %g s for a sign of its life",
        path.parent,
        _described(holder),
        _MISSED * interval,
    )
    before = _time_of(path)
    for _ in range(_MISSED):
        time.sleep(interval)
        if _time_of(path) != before:
            return True
    return False


def _time_of(path: Path) -> int | None:
    # Opened, because a network file system then asks its server.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _holder(path: Path) -> dict[str, Any] | None:
    """Returns who has written the file; None if it cannot be read, or is not written to its end."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "place": _place(),
    }


def _place() -> str:
    """Returns what tells this machine's run, and the container in it, from any other."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _described(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
