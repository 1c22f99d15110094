"""Folders to write into: such that appear complete or not at all, and such that go away."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = ".tmp-"


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to write into, which becomes ``folder`` when the block ends.

    If ``folder`` is there when the block ends, another process was faster: its result stays, ours
    is removed, as it is if the block raises.
    """
    with set_aside(folder.parent) as aside:
        yield aside
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


@contextlib.contextmanager
def set_aside(parent: Path) -> Iterator[Path]:
    """Gives an empty folder, hidden in ``parent``, that is removed when the block ends.

    What a killed process left is removed by the next call in ``parent``; a locked file tells
    living writers from dead ones.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    descriptor, lock = tempfile.mkstemp(prefix=_PREFIX, suffix=".lock", dir=parent)
    aside = Path(lock).with_suffix("")
    try:
        # A file system without locks: then nothing beside us is taken for abandoned either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        Path(lock).unlink(missing_ok=True)
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    for lock in parent.glob(f"{_PREFIX}*.lock"):
        # An error means that another process writes or removes it, or that there are no locks.
        with contextlib.suppress(OSError), lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
