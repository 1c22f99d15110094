"""Exports a checkpoint as a model that serves: scripted, checked against the checkpoint, published.

An export directory holds ``scripted_model.pt``, which plain torch loads (``models.serving`` says
what it takes), ``signature.json`` with the order of its inputs, ``features.json`` with how raw
columns become those, ``pipeline.config``, from which this library encodes raw rows exactly as in
training, in ``assets`` the vocabularies that this config names by relative paths, ``export.json``
with what was measured, and ``model_card.md``. The directory can be moved.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from tzrec_core import assets
from tzrec_core.assembly import unsharded, uses_averages
from tzrec_core.batch import Batch
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import save
from tzrec_core.data.build import build_dataset, build_reader
from tzrec_core.data.publish import set_aside
from tzrec_core.exporting import latency
from tzrec_core.exporting.comparison import accuracy_loss, largest_difference
from tzrec_core.exporting.directory import (
    CARD_FILE,
    CONFIG_FILE,
    FEATURES_FILE,
    MODEL_FILE,
    RECORD_FILE,
    SIGNATURE_FILE,
    digest,
    load_scripted,
    save_scripted,
)
from tzrec_core.exporting.inputs import of_table
from tzrec_core.exporting.model_card import Evidence, model_card
from tzrec_core.exporting.served import describe, round_tables, serving_model, table_bytes
from tzrec_core.exporting.specification import specify
from tzrec_core.features.build import build_schema
from tzrec_core.features.transforms import encode
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_model import TaskModel

log = logging.getLogger(__name__)

# Two sums of float32 in another order differ in the last bits; anything more is another model.
TOLERANCE = 1e-5
_NUM_CHECK_BATCHES = 4
_BATCH_SIZES = {1: 256, 64: 16, 1024: 2}
"""To measure latency with, and how many batches of each size."""


def export(
    config: EasyRecConfig,
    *,
    checkpoint_path: Path,
    export_dir: Path,
    check_config: EasyRecConfig,
    asset_files: Sequence[Path] = (),
    evidence: Evidence | None = None,
) -> dict[str, Any]:
    """Exports ``checkpoint_path`` into ``export_dir``, which must not exist.

    The written files are loaded again and score real rows beside the checkpoint's own model, its
    tables rounded to the precision that is served; only if both agree does the directory appear
    under its name. What the rounding costs is measured on all those rows.

    Must not be called while several ranks are joined: metrics would wait for the others.

    Args:
        config: The config that raw rows are encoded with; published with the model.
        checkpoint_path: A checkpoint directory.
        export_dir: The directory to create.
        check_config: Where the rows to check with come from (``eval_input_path``, else
            ``train_input_path``) and how those are encoded.
        asset_files: More files to copy into the directory's ``assets``.
        evidence: What the model card is to say of data and metrics.

    Returns:
        The content of ``export.json``.

    Raises:
        ValueError: ``export_dir`` exists, an asset file does not, the checkpoint is unusable, there
            are no rows, a table does not fit its precision, or the exported model disagrees with
            the checkpoint.
    """
    if export_dir.exists():
        raise ValueError(f"export_dir {export_dir} exists; choose a new one or remove it")
    carried = assets.plan(config, asset_files)
    precision = config.export_config.embedding_precision
    averaged = uses_averages(config, config.export_config)
    model = unsharded(config, checkpoint_path, averaged=averaged)
    schema = build_schema(config)
    served = serving_model(model, schema, precision)
    with set_aside(export_dir.parent) as aside:
        save_scripted(served, aside / MODEL_FILE)
        step = checkpoint.read_position(checkpoint_path).step
        _write_json(aside / SIGNATURE_FILE, describe(schema, model, step=step))
        published = assets.publish(config, carried, aside)
        save(published, aside / CONFIG_FILE)
        features = specify(published.feature_configs, schema)
        _write_json(aside / FEATURES_FILE, features)
        record = {
            "global_step": step,
            "embedding_precision": precision,
            "bytes": (aside / MODEL_FILE).stat().st_size,
            "sha256": digest(aside / MODEL_FILE),
            "table_bytes": table_bytes(served),
            "table_bytes_fp32": table_bytes(serving_model(model, schema)),
            **_measured(check_config, model, load_scripted(aside / MODEL_FILE), precision, aside),
        }
        difference = record["largest_difference"]
        if not difference <= TOLERANCE:  # also if it is NaN, which JSON has no word for
            raise ValueError(
                f"the exported model's outputs differ from those of {checkpoint_path} by up to "
                f"{difference:.3g}, more than {TOLERANCE:g}; nothing was published"
            )
        _write_json(aside / RECORD_FILE, record)
        card = model_card(
            evidence or Evidence(),
            model=str(config.model_config.WhichOneof("model")),
            record=record,
            features=features,
            versions={name: version(name) for name in ("tzrec-pipelines", "torch", "torchrec")},
        )
        (aside / CARD_FILE).write_text(card)
        aside.rename(export_dir)
    log.info("Exported %s to %s; outputs differ by %.1e", checkpoint_path, export_dir, difference)
    return record


def _measured(
    config: EasyRecConfig, model: TaskModel, served: nn.Module, precision: str, folder: Path
) -> dict[str, Any]:
    """Compares the two models; afterwards ``model`` has the tables that ``served`` stands for."""
    accuracy = None
    if precision != "FP32":
        batches = islice(_batches(config), config.eval_config.num_steps or None)
        accuracy = accuracy_loss(config, model, served, batches, folder=folder)
        round_tables(model, precision)
    return {
        "largest_difference": largest_difference(
            model, served, islice(_batches(config), _NUM_CHECK_BATCHES)
        ),
        "accuracy": accuracy,
        "latency": _latency(config, served),
    }


def _batches(config: EasyRecConfig) -> Iterator[Batch]:
    data = build_dataset(
        config,
        build_schema(config),
        input_path=config.eval_input_path or config.train_input_path,
        training=False,
        rank=0,
        world_size=1,
    )
    return data.batches(0)


def _latency(config: EasyRecConfig, served: nn.Module) -> dict[str, Any]:
    """Measures on rows of the first parts; they are repeated if they are few."""
    schema = build_schema(config, training_labels=False)
    reader = build_reader(config.data_config, config.eval_input_path or config.train_input_path)
    columns = schema.raw_columns(reader.schema.names)
    largest = max(_BATCH_SIZES)
    tables: list[pa.Table] = []
    for part in reader.parts:
        tables.append(encode(reader.read(part, columns), schema).table)
        if sum(map(len, tables)) >= largest * _BATCH_SIZES[largest]:
            break
    rows = pa.concat_tables(tables)
    rows = pa.concat_tables([rows] * -(-largest // len(rows))).combine_chunks()
    inputs = {
        size: [
            of_table(rows.slice(start, size), schema)
            for start in range(0, min(len(rows) - size + 1, size * most), size)
        ]
        for size, most in _BATCH_SIZES.items()
    }
    return latency.measure(served, inputs)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
