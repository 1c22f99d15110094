"""Scores the evaluation rows of a run with an exported model, such as the champion's."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tzrec_core.config import edit
from tzrec_core.data.build import build_dataset, encoding_settings
from tzrec_core.data.publish import published
from tzrec_core.evaluation.predictions import PredictionsWriter, judged_outputs
from tzrec_core.exporting.directory import MODEL_FILE, load_config, load_scripted
from tzrec_core.exporting.inputs import of_batch
from tzrec_core.features.build import build_schema, encoded_edits
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


def score_evaluation_rows(
    config: EasyRecConfig,
    *,
    raw_config: EasyRecConfig,
    export_dir: Path,
    predictions_path: Path,
    rows: npt.NDArray[np.int64] | None = None,
) -> None:
    """Writes what an exported model predicts for the run's evaluation rows.

    Those rows are encoded, so the model must encode each of its features as the run does; it may
    have fewer features. One process does it.

    Args:
        config: Of the run, reading prepared rows.
        raw_config: Of the run, as raw rows were encoded with it.
        export_dir: The exported model.
        predictions_path: A new folder; see ``evaluation.predictions``.
        rows: Which ones to score, ascending: those of an evaluation that ended early depend on its
            number of ranks. None: all.

    Raises:
        ValueError: The model encodes a feature otherwise, lacks an output that is judged, or is
            unusable.
    """
    exported = load_config(export_dir)
    _check_encoding(exported, raw_config)
    edit(exported, encoded_edits(exported))
    features = build_schema(exported, training_labels=False).features
    schema = dataclasses.replace(build_schema(config), features=features)
    model = load_scripted(export_dir / MODEL_FILE)
    data = build_dataset(
        config,
        schema,
        input_path=config.eval_input_path,
        training=False,
        rank=0,
        world_size=1,
        number_rows=True,
    )
    num_left = math.inf if rows is None else len(rows)
    with (
        published(predictions_path) as aside,
        PredictionsWriter(aside, config, rank=0) as writer,
        torch.inference_mode(),
    ):
        for batch in data.batches(0):
            if num_left == 0:
                break
            mask = None
            if rows is not None:
                assert batch.rows is not None
                mask = np.isin(batch.rows.numpy(), _near(rows, batch.rows.numpy()))
                num_left -= mask.sum()
                if not mask.any():
                    continue
            scores = model(*of_batch(batch))
            if missing := set(judged_outputs(config)) - scores.keys():
                raise ValueError(
                    f"{export_dir} predicts {', '.join(sorted(scores))}, not {', '.join(missing)}"
                )
            writer.add(scores, batch, mask=mask)


def _near(rows: npt.NDArray[np.int64], some: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns those of ascending rows that lie from the least to the greatest of some."""
    return rows[np.searchsorted(rows, some.min()) : np.searchsorted(rows, some.max(), "right")]


def _check_encoding(exported: EasyRecConfig, config: EasyRecConfig) -> None:
    """Raises ValueError, naming the feature, if a model's features are not encoded as the rows."""
    theirs, ours = _features(exported), _features(config)
    for name, settings in theirs.items():
        if name not in ours:
            raise ValueError(f"the exported model needs feature {name!r}, which the rows lack")
        if settings != ours[name]:
            raise ValueError(f"the exported model encodes feature {name!r} otherwise")


def _features(config: EasyRecConfig) -> dict[str, Any]:
    settings = encoding_settings(config)
    separator = settings["data"]["fg_encoded_multival_sep"]
    definitions = [next(iter(feature.values())) for feature in settings["features"]]
    return {d["feature_name"]: {**d, "separator": separator} for d in definitions}
