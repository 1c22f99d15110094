"""Which checkpoint a result was made of: a step's number says less, training may begin again."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult
from tzrec_core.run_dir import RunDir, write_json


def identity(checkpoint: Path) -> str:
    """Returns what tells a checkpoint from any other, also from one of the same step.

    It is a digest of the names, sizes and modification times, in nanoseconds, of all its files:
    weights need not be read, and whatever is written anew differs. A copy without the times is
    another checkpoint, which costs work that was done before but is never wrong.

    Raises:
        ValueError: There is no checkpoint.
    """
    if not checkpoint.is_dir():
        raise ValueError(f"there is no checkpoint {checkpoint}")
    files = [
        (str(path.relative_to(checkpoint)), status.st_size, status.st_mtime_ns)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
        for status in [path.stat()]
    ]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:20]


def results(place: RunDir) -> list[EvalResult]:
    """Returns the results of the checkpoints that there are, in the order of their steps.

    Those of a checkpoint that is gone do not count, whether or not another has its number now.
    """
    evaluated = _evaluated(place)
    current = {
        step
        for step in place.checkpoint_steps()
        if evaluated.get(str(step)) == identity(place.checkpoint(step))
    }
    return [result for result in eval_result.read(place.eval_result) if result.step in current]


def record_evaluated(place: RunDir, step: int, checkpoint: str) -> None:
    """Writes down that the last result of ``step`` is that of the checkpoint with this identity."""
    write_json(place.evaluated, {**_evaluated(place), str(step): checkpoint})


def _evaluated(place: RunDir) -> dict[str, Any]:
    """Returns the identity of the checkpoint that was evaluated, by step."""
    if not place.evaluated.exists():
        return {}
    known: dict[str, Any] = json.loads(place.evaluated.read_text())
    return known
