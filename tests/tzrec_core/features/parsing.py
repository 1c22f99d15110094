"""Configs of a few lines, and columns in every form that Arrow has for the same values."""

import pyarrow as pa
from google.protobuf import text_format
from hypothesis import settings

from tzrec_core.features.build import build_features, build_schema
from tzrec_core.features.schema import BatchSchema, Feature
from tzrec_core.protos.data_pb2 import DataConfig
from tzrec_core.protos.feature_pb2 import FeatureConfig
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

few = settings(max_examples=25, deadline=None)
"""For tests that many parameters multiply, on machines that others use too."""


def parse_feature(text: str, fg_mode: str = "FG_NORMAL") -> Feature:
    """Builds the one feature of ``text``."""
    config = text_format.Parse(text, FeatureConfig())
    data_config = text_format.Parse(f"fg_mode: {fg_mode}", DataConfig())
    (feature,) = build_features([config], data_config)
    return feature


def parse_schema(text: str, *, training_labels: bool = True) -> BatchSchema:
    return build_schema(text_format.Parse(text, EasyRecConfig()), training_labels=training_labels)


def encoded_values(feature: Feature, column: pa.Array) -> list[object]:
    encoded, _ = feature.transform(column)
    encoded.validate(full=True)
    return encoded.to_pylist()


def sliced(column: pa.Array) -> pa.Array:
    """Returns ``column`` as a slice that has other rows before and behind it in memory."""
    rows = pa.array([*range(len(column)), *range(len(column)), *range(len(column))])
    return column.take(rows).slice(len(column), len(column)) if len(column) else column


def string_forms(values: list[str | None]) -> list[pa.Array]:
    plain = pa.array(values, pa.string())
    forms = [plain, plain.cast(pa.large_string()), plain.dictionary_encode()]
    forms += [plain.cast(pa.binary()), plain.cast(pa.string_view())]
    return [*forms, *(sliced(form) for form in forms[:3])]
