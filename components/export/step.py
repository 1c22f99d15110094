"""Exports a checkpoint as a model that serves."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, TypedDict

from components import experiments, prepared, provenance
from components.run_dir import RunDir, write_json
from tzrec_core import config as configs
from tzrec_core import exporter

_MAX_UPLOAD_BYTES = 1 << 30  # a larger model is registered by its path
_RECORD = "export.json"


class Outputs(TypedDict):
    """What KFP gets."""

    model: dict[str, Any]


def export(*, run_dir: str, checkpoint: str) -> Outputs:
    """Exports ``checkpoint`` into ``export``, in the place of an earlier one.

    An export of the same checkpoint is found and left as it is. A checkpoint of the same step that
    was trained later is not the same.

    Args:
        run_dir: The folder that the steps share.
        checkpoint: A checkpoint's folder.

    Raises:
        ValueError: The checkpoint is unusable, or the exported model predicts otherwise.
    """
    place = RunDir(run_dir)
    checked = prepared.load(place)
    source = Path(checkpoint).absolute()
    identity = provenance.identity(source)
    with experiments.track("export", place, place.read_info(), checked, last=True) as run:
        record = _record(place)
        if record is None or record.get("identity") != identity:
            record = _export(place, source, identity)
        run.rename(experiments.run_name("export", source.name))
        run.set_tags({"export.path": place.export, "export.sha256": record["sha256"]})
        if record["bytes"] <= _MAX_UPLOAD_BYTES:
            run.log_artifact(place.export, "export")
    return {"model": {"path": str(place.export), **record}}


def _export(place: RunDir, source: Path, identity: str) -> dict[str, Any]:
    """Exports aside, then puts the new export in the place of the old one."""
    new, old = place.path / ".export-new", place.path / ".export-old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    difference = exporter.export(
        configs.load(place.config),
        checkpoint_path=source,
        export_dir=new,
        check_config=prepared.load(place),
    )
    model = new / exporter.MODEL_FILE
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        "checkpoint": source.name,
        "identity": identity,
        "sha256": digest,
        "bytes": model.stat().st_size,
        "largest_difference": difference,
    }
    write_json(new / _RECORD, record)
    if place.export.exists():
        place.export.rename(old)  # half deleted, it must not be taken for an export
    new.rename(place.export)
    shutil.rmtree(old, ignore_errors=True)
    return record


def _record(place: RunDir) -> dict[str, Any] | None:
    """Returns what is known of the export that is there; it has a record when it is complete."""
    path = place.export / _RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record
