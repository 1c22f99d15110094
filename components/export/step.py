"""Exports a checkpoint as a model that serves, and registers it in MLflow."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any, TypedDict

from components import experiments, prepared
from components.steps import StepFailedError
from tzrec_core import config as configs
from tzrec_core import eval_result, mlflow_run
from tzrec_core.checkpoints import checkpoint as checkpoints
from tzrec_core.data.prepare import STATS_FILE
from tzrec_core.exporting import exporter, registry
from tzrec_core.exporting.directory import CARD_FILE, CONFIG_FILE, DRIFT_FILE, RECORD_FILE
from tzrec_core.exporting.model_card import Evidence
from tzrec_core.exporting.registry import Registered
from tzrec_core.run_dir import RunDir, RunInfo, identify, write_json

_MAX_COPIED_BYTES = 1 << 30  # a larger model is registered by reference
_ALIASES = ("", registry.CHAMPION, registry.CHALLENGER)


class Outputs(TypedDict):
    """What KFP gets."""

    model: dict[str, Any]


def export(
    *, run_dir: str, checkpoint: str = "", registered_model: str = "", alias: str = ""
) -> Outputs:
    """Exports ``checkpoint`` into ``export``, in the place of an earlier one, and registers it.

    An export of the same checkpoint is found and left as it is, and so is its version in the
    registry. A checkpoint of the same step that was trained later is not the same.

    Args:
        run_dir: The folder that the steps share.
        checkpoint: A checkpoint's folder, which is exported whatever the gate says; empty: the one
            that select_best has chosen, if the gate lets it pass.
        registered_model: Its name in MLflow's registry; empty: the experiment's.
        alias: champion or challenger; empty: champion if there is none yet, else challenger.

    Raises:
        StepFailedError: The gate blocks the chosen checkpoint.
        ValueError: Nothing is chosen, the checkpoint is unusable, the exported model predicts
            otherwise, there is no such alias, or the earlier export is the only copy of a
            registered model.
    """
    if alias not in _ALIASES:
        raise ValueError(f"alias must be champion, challenger or empty, got {alias!r}")
    place = RunDir(run_dir)
    checked, info = prepared.load(place), place.read_info()
    source = Path(checkpoint).absolute() if checkpoint else _chosen(place)
    identity = identify(source)
    name = registered_model or info.experiment
    with experiments.track("export", place, info, checked, last=True) as run:
        record = _record(place)
        if record is None or record.get("identity") != identity:
            record = _export(place, source, identity, title=name)
        run.rename(experiments.run_name("export", source.name))
        run.set_tags({"export.path": place.export, "export.sha256": record["sha256"]})
        run.log_metrics(_numbers(record), prefix="export")
        for file in registry.SMALL_FILES:
            if (place.export / file).exists():
                run.log_artifact(place.export / file, "export")
        run.log_artifact(place.export / CARD_FILE, "export", on_parent=True)
        registered = _register(run, place, info, record, name=name, alias=alias)
    facts = {key: value for key, value in record.items() if isinstance(value, str)}
    return {"model": {"path": str(place.export), **facts, **_numbers(record), **registered}}


def _chosen(place: RunDir) -> Path:
    """Returns the checkpoint that select_best has chosen, if it may be exported."""
    best, gate = place.read_best(), place.read_gate()
    if best is None or gate is None:
        raise ValueError(f"{place.path} has no choice that is up to date; run select_best first")
    chosen = place.checkpoint(best["global_step"])
    if gate["verdict"] != "pass":
        reasons = "; ".join(gate["reasons"])
        raise StepFailedError(f"the gate blocks {chosen.name}, see {place.gate}: {reasons}")
    return chosen


def _export(place: RunDir, source: Path, identity: str, *, title: str) -> dict[str, Any]:
    """Exports aside, then puts the new export in the place of the old one.

    Raises:
        ValueError: A version in MLflow's registry has no copy of the old one.
    """
    place.check_export_may_go()
    new, old = place.path / ".export-new", place.path / ".export-old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    measured = exporter.export(
        configs.load(place.config),
        checkpoint_path=source,
        export_dir=new,
        check_config=prepared.load(place),
        evidence=_evidence(place, checkpoints.read_position(source).step, identity, title),
    )
    if (place.report / DRIFT_FILE).exists():
        shutil.copyfile(place.report / DRIFT_FILE, new / DRIFT_FILE)
    record = {"checkpoint": source.name, "identity": identity, **measured}
    write_json(new / RECORD_FILE, record)
    if place.export.exists():
        place.export.rename(old)  # half deleted, it must not be taken for an export
    new.rename(place.export)
    shutil.rmtree(old, ignore_errors=True)
    return record


def _evidence(place: RunDir, step: int, identity: str, title: str) -> Evidence:
    """Returns what the run directory tells of the model."""
    data = place.prepared_data()
    stats = json.loads((data / STATS_FILE).read_text())
    facts: dict[str, Any] = {"fingerprint": data.name}
    for share, described in stats.items():
        facts[f"{share} rows"] = described["rows"]
        for label, mean in described["label_means"].items():
            facts[f"mean of {label}, {share} rows"] = mean
    curve = eval_result.read(place.train_eval_result)
    return Evidence(
        title=title,
        data=facts,
        evaluation=_evaluation(place.result(step), identity),
        curve=[{"global_step": result.step, **result.metrics} for result in curve],
    )


def _evaluation(path: Path, identity: str) -> dict[str, Any]:
    """Returns what evaluate wrote, if that is of this checkpoint; {} if not."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found.get("checkpoint") == identity else {}


def _register(
    run: mlflow_run.Run,
    place: RunDir,
    info: RunInfo,
    record: dict[str, Any],
    *,
    name: str,
    alias: str,
) -> dict[str, str]:
    """Registers the export, if runs are tracked; returns what it is called, for KFP."""
    parts = [info.pipeline_run_id, record["identity"], record["sha256"]]
    config = (place.export / CONFIG_FILE).read_bytes()
    tags = {
        mlflow_run.PIPELINE_RUN_TAG: info.pipeline_run_id,
        "global_step": record["global_step"],
        "embedding_precision": record["embedding_precision"],
        "export.sha256": record["sha256"],
        "config.sha256": hashlib.sha256(config).hexdigest(),
    }

    if run.run_id is not None and record["bytes"] > _MAX_COPIED_BYTES:
        # Before the version is there: one that nothing protects must never be.
        place.protect_export(name)

    def register(client: Any, run_id: str) -> Registered:
        return registry.register(
            client,
            run_id,
            name=name,
            export_dir=place.export,
            export_id=hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20],
            tags=tags,
            alias=alias,
            max_copied_bytes=_MAX_COPIED_BYTES,
        )

    registered = run.attempt(register)
    if registered is None:
        return {}
    described = {
        "registered_model": registered.name,
        "registered_version": registered.version,
        "registered_alias": registered.alias,
    }
    run.set_tags({key.replace("_", ".", 1): value for key, value in described.items()})
    return described


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of ``export.json`` under flat names: size, latency, loss of accuracy."""
    numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
    numbers["threads"] = record["latency"]["threads"]
    for latency in record["latency"]["batches"]:
        for percentile in ("p50_ms", "p99_ms"):
            numbers[f"{percentile}_{latency['batch_size']}_rows"] = latency[percentile]
    for name, metric in (record["accuracy"] or {"metrics": {}})["metrics"].items():
        if None not in metric.values():
            numbers[f"{name}_change"] = metric["served"] - metric["fp32"]
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _record(place: RunDir) -> dict[str, Any] | None:
    """Returns what is known of the export that is there; it has a record when it is complete."""
    path = place.export / RECORD_FILE
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record
