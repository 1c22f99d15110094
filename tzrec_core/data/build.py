"""Readers and datasets from the config, and what of it prepared data depends on."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from google.protobuf.json_format import MessageToDict

from tzrec_core.data.csv_reader import CsvReader
from tzrec_core.data.dataset import Dataset
from tzrec_core.data.input_files import find_files
from tzrec_core.data.parquet_reader import ParquetReader
from tzrec_core.data.reader import Reader
from tzrec_core.features.schema import BatchSchema
from tzrec_core.machine import available_cpus
from tzrec_core.protos import data_pb2, feature_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

CSV_TYPES = {
    data_pb2.INT32: pa.int32(),
    data_pb2.INT64: pa.int64(),
    data_pb2.STRING: pa.string(),
    data_pb2.FLOAT: pa.float32(),
    data_pb2.DOUBLE: pa.float64(),
}
# Fields of a feature that say nothing about its encoded column.
_EMBEDDING_FIELDS = (
    "embedding_name",
    "embedding_dim",
    "embedding_constraints",
    "pooling",
    "init_fn",
    "trainable",
    "data_type",
)


def build_reader(data_config: data_pb2.DataConfig, input_path: str) -> Reader:
    """Builds the reader of an input.

    ``input_fields``, ``delimiter`` and ``with_header`` describe CSV; Parquet files carry the names
    and types of their columns themselves.

    Args:
        data_config: says what the files are.
        input_path: see ``find_files``.

    Raises:
        ValueError: the input is damaged, empty or inconsistent; names the file.
    """
    if not input_path:
        raise ValueError("the input path is empty")
    match data_config.dataset_type:
        case data_pb2.ParquetDataset:
            return ParquetReader(find_files(input_path))
        case data_pb2.CsvDataset:
            return CsvReader(
                find_files(input_path),
                delimiter=data_config.delimiter,
                with_header=data_config.with_header,
                names=[field.input_name for field in data_config.input_fields],
                types={
                    field.input_name: _csv_type(field)
                    for field in data_config.input_fields
                    if field.HasField("input_type")
                },
            )
        case kind:
            raise ValueError(
                "data_config.dataset_type must be ParquetDataset or CsvDataset, got "
                f"{data_pb2.DatasetType.Name(kind)}"
            )


def build_dataset(
    config: EasyRecConfig,
    schema: BatchSchema,
    *,
    input_path: str,
    training: bool,
    rank: int,
    world_size: int,
    seed: int = 0,
    number_rows: bool = False,
) -> Dataset:
    """Builds a rank's share of an input.

    Args:
        config: its ``data_config`` counts.
        schema: what batches contain.
        input_path: see ``find_files``.
        training: only then rows are shuffled and a remainder is dropped; else the batch size is
            ``eval_batch_size`` where it is set.
        rank: this process.
        world_size: number of processes.
        seed: of the order.
        number_rows: fill ``Batch.rows``.
    """
    data = config.data_config
    batch_size = data.batch_size
    if not training and data.HasField("eval_batch_size"):
        batch_size = data.eval_batch_size
    return Dataset(
        build_reader(data, input_path),
        schema,
        batch_size=batch_size,
        shuffle=training and data.shuffle,
        shuffle_buffer_size=data.shuffle_buffer_size,
        drop_remainder=training and data.drop_remainder,
        num_workers=data.num_workers,
        seed=seed,
        rank=rank,
        world_size=world_size,
        pin_memory=data.pin_memory and torch.cuda.is_available(),
        batch_cost_size=None if schema.sample_cost is None else data.batch_cost_size,
        number_rows=number_rows,
    )


def num_threads(config: EasyRecConfig) -> int:
    """Returns the threads to prepare data with: ``num_workers``, at most one per core."""
    return min(config.data_config.num_workers, available_cpus())


def encoding_settings(config: EasyRecConfig) -> dict[str, Any]:
    """Returns all settings that encoded data depends on, as JSON values.

    Settings of embeddings are not among them: tuning those needs no new data. Of a vocabulary file
    the content counts.

    Raises:
        OSError: a vocabulary file cannot be read.
    """
    data = config.data_config
    fields = ["dataset_type", "fg_mode", "fg_encoded_multival_sep"]
    if data.dataset_type == data_pb2.CsvDataset:
        fields += ["input_fields", "delimiter", "with_header"]
    given = MessageToDict(data, preserving_proto_field_name=True)
    return {
        "data": {field: given.get(field) for field in fields},
        "features": [_encoding_of(feature) for feature in config.feature_configs],
    }


def _encoding_of(feature: feature_pb2.FeatureConfig) -> dict[str, Any]:
    settings: dict[str, Any] = MessageToDict(feature, preserving_proto_field_name=True)
    for definition in settings.values():
        for field in _EMBEDDING_FIELDS:
            definition.pop(field, None)
        if path := definition.get("vocab_file"):
            definition["vocab_file"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return settings


def _csv_type(field: data_pb2.Field) -> pa.DataType:
    if field.input_type not in CSV_TYPES:
        allowed = ", ".join(data_pb2.FieldType.Name(kind) for kind in CSV_TYPES)
        raise ValueError(
            f"input_fields: the type of {field.input_name!r} must be one of {allowed} in CSV, "
            f"got {data_pb2.FieldType.Name(field.input_type)}"
        )
    return CSV_TYPES[field.input_type]
