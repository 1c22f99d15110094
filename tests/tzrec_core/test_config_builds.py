"""What the checks let through can be built: they and the builders agree."""

from pathlib import Path

import pytest
import torch

from tests.tzrec_core.test_config_check import ALLOWED, MODELS, changed
from tzrec_core.config import load
from tzrec_core.features.build import build_schema
from tzrec_core.models.build import build_model
from tzrec_core.optim.build import build_dense_factory
from tzrec_core.optim.tables.build import build_sparse_rule
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TaskMetrics, TrainMetrics

EXAMPLES = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.config"))


def build(config: EasyRecConfig) -> None:
    schema = build_schema(config)
    build_model(config.model_config, schema.features, torch.device("meta"))
    build_sparse_rule(config.train_config.sparse_optimizer, device_type="cpu")
    build_dense_factory(config.train_config.dense_optimizer)
    TaskMetrics(config)
    TrainMetrics(config)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_config_builds(path):
    build(load(path))


@pytest.mark.parametrize(
    "edits", [*ALLOWED, *({"model_config": model} for model in MODELS.values())], ids=str
)
def test_what_the_checks_allow_builds(edits):
    build(changed(edits))
