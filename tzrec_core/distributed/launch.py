"""Which launch of torchrun this process belongs to: one launch may start it several times.

Names are those of the environment variables that torchrun documents.
"""

import os

import psutil


def launch_name() -> str | None:
    """Returns what only the processes of one launch have in common; None without torchrun.

    A process that is started again after another rank has died belongs to the same launch.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    if run_id != "none":  # as torchrun calls a launch with --master_port and without --rdzv_id
        return run_id
    launcher = psutil.Process(os.getppid())
    return f"process {launcher.pid} since {launcher.create_time()}"


def is_first() -> bool:
    """Returns whether this process is to be rank 0, which it knows before it meets the others."""
    return os.environ.get("RANK", "0") == "0"


def num_restarts() -> int:
    """Returns how often torchrun has started this machine's processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_alone() -> bool:
    """Returns whether all processes are on this machine; only then do all know ``num_restarts``."""
    return os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
