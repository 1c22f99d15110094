"""The work: DeepFM of the Criteo example, ids by Zipf's law, as prepared Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tzrec_core.config import edit, load
from tzrec_core.data.shards import write_shards
from tzrec_core.features.build import build_schema, encoded_edits
from tzrec_core.features.schema import id_column
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

CONFIG = Path(__file__).parents[2] / "pipelines" / "configs" / "deepfm_criteo.config"
NUM_SPARSE = 26
GROUP_ROWS = 16384
"""Rows of a row group: what ``prepare_data`` writes of a million rows."""

_EXPONENT = 1.1
_SCRAMBLE = 2654435761  # a prime larger than any table: it spreads frequent ids over the rows


def make_config(data: Path, tables: Sequence[int], hidden_units: Sequence[int]) -> EasyRecConfig:
    """Returns the example's config on encoded ``data``, with tables of so many rows."""
    config = load(CONFIG)
    sparse = [f for f in config.feature_configs if f.HasField("id_feature")]
    assert len(sparse) == len(tables)
    for feature, num_rows in zip(sparse, tables, strict=True):
        feature.id_feature.hash_bucket_size = num_rows
    config.model_config.deepfm.deep.hidden_units[:] = hidden_units
    edit(config, {**encoded_edits(config), "train_input_path": str(data)})
    return config


def write_rows(config: EasyRecConfig, folder: Path, num_rows: int) -> None:
    """Writes encoded rows for ``config`` into the new ``folder``; a function of the arguments."""
    write_shards(_groups(config, num_rows), folder)


def repeat_rows(folder: Path, repeated: Path, times: int) -> None:
    """Makes a folder in which every file of ``folder`` is ``times`` times, without copying it."""
    repeated.mkdir()
    for number in range(times):
        for path in sorted(folder.iterdir()):
            (repeated / f"{number:05}-{path.name}").hardlink_to(path)


def _groups(config: EasyRecConfig, num_rows: int) -> Iterator[pa.Table]:
    schema = build_schema(config)
    for start in range(0, num_rows, GROUP_ROWS):
        size = min(GROUP_ROWS, num_rows - start)
        random = np.random.default_rng([0, start])
        columns: dict[str, npt.NDArray[np.generic]] = {}
        for feature in schema.dense_features:
            columns[feature.name] = random.normal(size=size).astype(np.float32)
        for feature in schema.sparse_features:
            assert feature.table is not None
            columns[feature.name] = zipf_ids(random, size, feature.table.num_embeddings)
        for label in schema.labels:
            columns[label] = (random.random(size) < 0.25).astype(np.int64)
        for weight in schema.sample_weights:
            columns[weight] = (0.5 + random.random(size)).astype(np.float32)
        for key in schema.group_keys:
            columns[id_column(key)] = random.integers(10**5, size=size)
        yield pa.table(columns)


def zipf_ids(random: np.random.Generator, size: int, num_rows: int) -> npt.NDArray[np.int64]:
    """Draws [size] ids of 0 .. num_rows - 1, the k-th most frequent about as often as k ** -1.1."""
    shape = 1 - _EXPONENT
    # The inverse of the distribution function of the continuous law on [1, num_rows + 1).
    uniform = random.random(size)
    ranks = (1 - uniform * (1 - (num_rows + 1) ** shape)) ** (1 / shape)
    ranks = np.clip(ranks.astype(np.int64) - 1, 0, num_rows - 1)
    return ranks * _SCRAMBLE % num_rows
