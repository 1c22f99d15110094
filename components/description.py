"""What stands at the top of a pipeline run's page in MLflow: its data, its choice, its numbers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tzrec_core import mlflow_run
from tzrec_core.run_dir import RunDir

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE_TAG = "mlflow.note.content"
WRITTEN_TAG = "note.sha256"
"""Tag of a run: the hash of the note that was written here; a person's note has another."""
_MAX_METRICS = 12
_MAX_REASONS = 10
# Names that modules use which take seconds to import: tzrec_core.data.prepare, exporting.directory.
STATS_FILE = "_stats.json"
RECORD_FILE = "export.json"


def write(client: "MlflowClient", run_id: str, place: RunDir, *, title: str) -> None:
    """Writes the note of a run, or writes it anew; one that a person has written stays."""
    from mlflow.entities import RunTag

    run = client.get_run(run_id)
    known = run.data.tags.get(NOTE_TAG, "")
    if known and _digest(known) != run.data.tags.get(WRITTEN_TAG):
        return
    page = f"#/experiments/{run.info.experiment_id}/runs/{run_id}"
    note = text(place, title=title, page=page, tags=run.data.tags)
    if note != known:
        tags = [RunTag(NOTE_TAG, note), RunTag(WRITTEN_TAG, _digest(note))]
        client.log_batch(run_id, tags=tags)


def text(place: RunDir, *, title: str, page: str, tags: Mapping[str, str]) -> str:
    """Returns the note as Markdown: of what the run directory has by now.

    Args:
        place: The run directory.
        title: Model and budget.
        page: Of the run, without MLflow's address.
        tags: Of the run; they say what the export is registered as.
    """
    head = f"**{title}**{_data(place)}"
    if (place.report / "index.html").exists():
        head += f"; [report]({page}/artifacts/report/index.html?{mlflow_run.SHOWN_AS})"
    parts = [head, *_choice(place), *_export(place, tags), f"Run directory: `{place.path}`"]
    return _cut("\n\n".join(parts))


def _cut(note: str) -> str:
    """Returns a note that MLflow stores as it is: what it cuts would look like a person's."""
    if len(note) <= mlflow_run.MAX_TAG:
        return note
    more = "\n…"
    return note[: mlflow_run.MAX_TAG - len(more)].rpartition("\n")[0] + more


def _data(place: RunDir) -> str:
    if not place.read_info().data:
        return ""
    data = place.prepared_data()
    stats = _read(data / STATS_FILE)
    rows = f"{stats['train']['rows']:,} training rows, {stats['eval']['rows']:,} evaluation rows"
    return f" on {rows} (data `{data.name}`)"


def _choice(place: RunDir) -> list[str]:
    best, gate = place.read_best(), place.read_gate()
    if best is None:
        return []
    said = [f"Chosen: **step {best['global_step']}**, {best['reason']}."]
    result = place.read_result(best["global_step"])
    if result is not None:
        said.append(_metrics(result))
    if gate is not None:
        reasons = gate["reasons"][:_MAX_REASONS]
        if len(reasons) < len(gate["reasons"]):
            reasons.append(f"{len(gate['reasons']) - len(reasons)} more in `{place.gate.name}`")
        said.append(f"Gate: **{gate['verdict']}**; {'; '.join(reasons)}.")
    return said


def _metrics(found: Mapping[str, Any]) -> str:
    lines = [f"| metric | value | {found['confidence_level']:.0%} interval |", "|:--|--:|:--|"]
    for name, of_metric in list(found["metrics"].items())[:_MAX_METRICS]:
        value, low, high = (_number(of_metric[key]) for key in ("value", "low", "high"))
        lines.append(f"| {name} | {value} | {f'{low} to {high}' if low and high else ''} |")
    return "\n".join(lines)


def _export(place: RunDir, tags: Mapping[str, str]) -> list[str]:
    if not (place.export / RECORD_FILE).exists():
        return []
    record = _read(place.export / RECORD_FILE)
    name = f"**{record['checkpoint']}**"
    if "registered.version" in tags:
        model, version = tags["registered.model"], tags["registered.version"]
        alias = tags.get("registered.alias")
        name = f"[{model} version {version}](#/models/{quote(model)}/versions/{version})"
        name += f" (`{alias}`)" if alias else ""
    speed = ", ".join(
        f"{of['batch_size']} in {of['p50_ms']:.2g} ms" for of in record["latency"]["batches"]
    )
    size = f"{record['bytes'] / 1e6:,.3g} MB"
    return [f"Exported: {name} of step {record['global_step']}, {size}; rows: {speed} (median)."]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 0.001 else f"{value:.4f}"


def _digest(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found
