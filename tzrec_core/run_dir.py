"""The folder that the steps of one pipeline run share: where things are in it.

Everything large goes from step to step through it; what KFP passes on is small.
"""

import hashlib
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """What prepare_data writes down for the steps after it.

    Attributes:
        pipeline_run_id: of the pipeline run; all its steps log under one parent run in MLflow.
        experiment: the MLflow experiment of that parent run.
        data: folder of the prepared data, relative to the run directory; empty until it is ready.
        mlflow_page: of the parent run, behind the address of MLflow's server; may be empty.
    """

    pipeline_run_id: str
    experiment: str
    data: str
    mlflow_page: str = ""


class RunDir:
    """Paths in a run directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes a path that may not exist yet.

        Raises:
            ValueError: the path is empty.
        """
        if not os.fspath(path):
            raise ValueError("run_dir is empty; it must name a folder that all steps can reach")
        self.path = Path(path).absolute()
        self.config = self.path / "pipeline.config"
        self.data = self.path / "data"
        self.checkpoints = self.path / "checkpoints"
        self.train_eval_result = self.checkpoints / "train_eval_result.txt"
        self.evaluation = self.path / "evaluation"
        self.eval_result = self.evaluation / "eval_result.txt"
        self.best = self.evaluation / "best.json"
        self.gate = self.evaluation / "gate.json"
        self.champion_drift = self.evaluation / "champion_drift_reference.json"
        self.export = self.path / "export"
        self.report = self.path / "report"
        self._referenced = self.export / "referenced.json"
        self._info = self.path / "run.json"

    def read_info(self) -> RunInfo:
        """Returns what prepare_data wrote.

        Raises:
            ValueError: prepare_data has not begun in this run directory.
        """
        if not self.has_info():
            raise ValueError(f"{self._info} does not exist; run prepare_data on this run_dir first")
        return RunInfo(**json.loads(self._info.read_text()))

    def write_info(self, info: RunInfo) -> None:
        """Writes the information aside, then renames it."""
        write_json(self._info, asdict(info))

    def has_info(self) -> bool:
        """Returns whether prepare_data has begun here."""
        return self._info.exists()

    def prepared_data(self) -> Path:
        """Returns the folder with the folders ``train`` and ``eval``.

        Raises:
            ValueError: prepare_data has not finished in this run directory.
        """
        data = self.read_info().data
        if not data:
            raise ValueError(f"{self.path} has no prepared data; run prepare_data on it again")
        return self.path / data

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of the checkpoints, ascending.

        The names are those of ``tzrec_core.checkpoints.checkpoint``, which takes seconds to import.
        """
        names = [path.name for path in self.checkpoints.glob("model.ckpt-*")]
        matches = [re.fullmatch(r"model\.ckpt-(\d+)", name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def checkpoint(self, step: int) -> Path:
        """Returns the folder of a checkpoint."""
        return self.checkpoints / f"model.ckpt-{step}"

    def predictions(self, step: int) -> Path:
        """Returns the folder of the evaluation rows that the checkpoint of ``step`` has scored."""
        return self.evaluation / "predictions" / f"step-{step}"

    def result(self, step: int) -> Path:
        """Returns the file of what the evaluation of the checkpoint of ``step`` has found."""
        return self.evaluation / f"step-{step}.json"

    def read_result(self, step: int) -> dict[str, Any] | None:
        """Returns the content of ``result``; None if it is not of the checkpoint that is there.

        Where there are no checkpoints at all, they were removed to save space: all results count.
        """
        found = _read_json(self.result(step))
        return found if found and self._is_there(step, found.get("checkpoint")) else None

    def read_best(self) -> dict[str, Any] | None:
        """Returns what select_best has chosen; None if that is not a checkpoint that is there.

        Where there are no checkpoints at all, the choice counts.
        """
        best = _read_json(self.best)
        return best if best and self._is_there(best["global_step"], best.get("identity")) else None

    def read_gate(self) -> dict[str, Any] | None:
        """Returns what the gate has found of the choice of ``read_best``; None if it has not."""
        best, gate = self.read_best(), _read_json(self.gate)
        if best is None or gate is None:
            return None
        is_of_choice = all(gate.get(key) == best.get(key) for key in ("global_step", "identity"))
        return gate if is_of_choice else None

    def protect_export(self, registered_model: str) -> None:
        """Writes down that a version of a registered model has nothing but the export's path."""
        referenced = {"registered_model": registered_model, "path": str(self.export)}
        write_json(self._referenced, referenced)

    def check_export_may_go(self) -> None:
        """Raises ValueError if a registered model would go with the export; a copy's may."""
        referenced = _read_json(self._referenced)
        if referenced and referenced["path"] == str(self.export):
            raise ValueError(
                f"{self.export} is the only copy of a registered model, of a version of "
                f"{referenced['registered_model']!r}, and nothing else takes its place; "
                "use another run_dir, or remove the folder if that version may go"
            )

    def _is_there(self, step: int, known: str | None) -> bool:
        steps = self.checkpoint_steps()
        return not steps or (step in steps and identify(self.checkpoint(step)) == known)


def identify(checkpoint: Path) -> str:
    """Returns what tells a checkpoint from any other, also from one of the same step.

    It is a digest of the names, sizes and modification times, in nanoseconds, of all its files:
    weights need not be read, and whatever is written anew differs. A copy without the times is
    another checkpoint, which costs work that was done before but is never wrong.

    Raises:
        ValueError: there is no checkpoint.
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


def new_run_id() -> str:
    """Returns an id that sorts by time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file aside, then renames it, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    aside.write_text(text)
    aside.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content
