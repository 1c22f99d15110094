"""One pod's part of a training: ``python3 -m components.train.worker --run_dir=/runs/1``."""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from components import child, steps
from tzrec_core import command_line
from tzrec_core.run_dir import RunDir

_FORGOTTEN_SECONDS = 20.0
"""torch's rendezvous drops a node that has shown no sign of life for 15 s."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs torchrun, and ends as it does.

    A pod's first process never dies of a signal that it does not expect, and torchrun does not
    expect any until it has imported torch: this process does, and stops torchrun.
    """
    from components.train import command  # takes time, so not before a signal is expected

    flags = command_line.parser(__doc__)
    flags.add_argument("--run_dir", required=True, help="a folder that prepare_data has filled")
    place = RunDir(flags.parse_args(argv).run_dir)
    torchrun = command.in_job(place)
    if os.getpid() == 1:  # torchrun's processes have the same numbers whenever a container starts
        let_rendezvous_forget(Path(tempfile.gettempdir()) / "tzrec-worker-started")
    # Where torch shares one store, agents that live on do not tell a new one where it is: all wait.
    ended = child.run(torchrun, env={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
    sys.exit(ended.code if ended.code >= 0 else 128 - ended.code)  # as a shell says of a signal


def let_rendezvous_forget(started: Path, *, seconds: float = _FORGOTTEN_SECONDS) -> None:
    """Waits if the pod's container has been restarted.

    torch's rendezvous knows a node by its host and process. It would take the new one for the one
    that has died, and let it into a round of the others that is over.

    Args:
        started: A file on a volume of the pod, which outlives the container.
        seconds: How long.
    """
    if started.exists():
        print(f"restarted: waiting {seconds:g} s until torch has forgotten the last attempt")
        sys.stdout.flush()
        time.sleep(seconds)
    started.touch()


if __name__ == "__main__":
    steps.run(main)
