"""Kills a process at an exact point of its work, as the kernel or the power might."""

import os
import signal
import sys
from pathlib import Path

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


class FileChanges:
    """Sees this process change the files below a folder, and signals it before one of the changes.

    Attributes:
        seen: What has been done so far, and the name of what it was done to.
    """

    def __init__(
        self, folder: Path, *, kill_at: int | str | None, signum: int = signal.SIGKILL
    ) -> None:
        """Begins to look, for good; ``kill_at`` is the number of the change, or what it is."""
        self.folder = str(folder)
        self.kill_at = kill_at
        self.signum = signum
        self.seen: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(self.folder):
            return
        if event == "open" and not int(arguments[2]) & (os.O_WRONLY | os.O_RDWR):
            return
        change = f"{event} {Path(str(arguments[0])).name}"
        if self.kill_at in (len(self.seen), change):
            os.kill(os.getpid(), self.signum)
        self.seen.append(change)
