"""Tells others that a training has come to its end, and that nothing of it is missing."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tzrec_core.run_dir import write_json

FILE = "training_finished.json"


@dataclass(frozen=True)
class Finished:
    """What the file says.

    Attributes:
        global_step: Of the last checkpoint.
        world_size: How many ranks have trained, at last.
        launch: Of torchrun, as its ``--rdzv_id``; None without it.
    """

    global_step: int
    world_size: int
    launch: str | None


def mark(model_dir: Path, finished: Finished) -> None:
    """Writes the file; call it when no rank has anything left to write."""
    write_json(model_dir / FILE, asdict(finished))


def unmark(model_dir: Path) -> None:
    """Deletes the file if there is one: a training is about to begin, or to go on."""
    (model_dir / FILE).unlink(missing_ok=True)


def read(model_dir: Path) -> Finished | None:
    """Returns what the file says; None if the training in ``model_dir`` is not finished."""
    try:
        return Finished(**json.loads((model_dir / FILE).read_text()))
    except FileNotFoundError:
        return None
