"""The steps of the pipeline by name, and how a process that runs one starts and ends."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tzrec_core import command_line

STEPS = ("prepare_data", "train", "launch_train", "evaluate", "select_best", "export")

Step = Callable[..., Mapping[str, Any]]
"""Takes plain values by keyword; returns what it has to say for each output of its component.

That is the value of an output parameter, and the metadata of an output artifact, or a ``Page``.
"""


@dataclass(frozen=True)
class Page:
    """An output artifact that KFP shows, HTML or Markdown: where its content is."""

    path: Path


class StepFailedError(Exception):
    """A step could not do its work; the message says why in one line."""


def load(step: str) -> Step:
    """Returns the function of a step; only that step's imports are paid for."""
    match step:
        case "prepare_data":
            from components.prepare_data.step import prepare_data

            return prepare_data
        case "train":
            from components.train.step import train

            return train
        case "launch_train":
            from components.launch_train.step import launch_train

            return launch_train
        case "evaluate":
            from components.evaluate.step import evaluate

            return evaluate
        case "select_best":
            from components.select_best.step import select_best

            return select_best
        case "export":
            from components.export.step import export

            return export
    raise ValueError(f"step must be one of {', '.join(STEPS)}, got {step!r}")


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Runs ``main`` and ends the process, as every command does.

    Beyond that, the exit code is 1 for a step that failed, 143 for one that was told to stop, and
    129 for one whose terminal was closed.
    """
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _stop)
    try:
        command_line.run(main, argv)
    except StepFailedError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _stop(signum: int, _: FrameType | None) -> None:
    """Unwinds the stack, so that a child process is stopped and the MLflow run is ended."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that is closed may say so twice
    sys.exit(128 + signum)
