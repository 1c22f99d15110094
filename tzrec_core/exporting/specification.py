"""How raw columns become a served model's inputs, as JSON: for a server in another language."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tzrec_core.exporting.inputs import sparse_inputs
from tzrec_core.features import vocabulary
from tzrec_core.features.build_feature import Definition, definition_of
from tzrec_core.features.hashing import hash_ids
from tzrec_core.features.id_transform import IdTransform, Lookup, in_range
from tzrec_core.features.raw_transform import RawTransform
from tzrec_core.features.schema import BatchSchema, Feature
from tzrec_core.protos.feature_pb2 import FeatureConfig, IdFeature

VERSION = 1
"""Of the form; another number means that a reader of this one may go wrong."""


def specify(configs: Sequence[FeatureConfig], schema: BatchSchema) -> dict[str, Any]:
    """Returns the specification of all features; docs/serving.md explains its words.

    Args:
        configs: The features' configs; a ``vocab_file`` is named as it is there.
        schema: Built from them.
    """
    definitions = {f.name: definition_of(c) for f, c in zip(schema.features, configs, strict=True)}
    return {
        "version": VERSION,
        "dense": [_specify(f, definitions[f.name]) for f in schema.dense_features],
        "sparse": [_specify(f, definitions[f.name]) for f in sparse_inputs(schema)],
    }


def _specify(feature: Feature, definition: Definition) -> dict[str, Any]:
    transform = feature.transform
    specified: dict[str, Any] = {"name": feature.name, "column": feature.column}
    if isinstance(transform, IdTransform):
        specified |= {
            "kind": "weighted ids" if transform.weighted else "ids",
            "separator": None if transform.single else transform.separator,
            "ids": _ids(transform.lookup, definition),
            "unknown_id": transform.unknown_id,
            "default_ids": list(transform.default_ids),
        }
        if transform.weighted:
            specified["default_weights"] = list(transform.default_weights)
    else:
        assert isinstance(transform, RawTransform)
        is_one = transform.value_dim == 1
        specified |= {
            "kind": "numbers" if transform.boundaries is None else "buckets",
            "numbers_per_row": transform.value_dim or None,
            "separator": None if is_one else transform.separator,
            "normalizer": definition.normalizer if transform.normalize else None,
            "default": list(transform.default),
        }
        if transform.boundaries is not None:
            specified["boundaries"] = transform.boundaries.tolist()
    if feature.table is not None:
        table = feature.table
        specified["table"] = {
            "name": table.name,
            "rows": table.num_embeddings,
            "dim": table.embedding_dim,
            "pooling": table.pooling,
        }
    return specified


def _ids(lookup: Lookup, definition: Definition) -> dict[str, Any]:
    """Returns which id a value has."""
    assert isinstance(lookup, partial)
    if lookup.func is hash_ids:
        return {"method": "xxh64", "buckets": lookup.keywords["num_buckets"]}
    if lookup.func is in_range:
        return {"method": "number", "below": lookup.keywords["num_ids"]}
    assert lookup.func is vocabulary.look_up
    entries: Mapping[str, int] = lookup.keywords["ids"]
    assert isinstance(definition, IdFeature)
    if not definition.vocab_file:
        return {"method": "vocabulary", "entries": dict(entries)}
    if definition.HasField("default_bucketize_value"):
        return _file(definition, first_id=0, entries={})
    default = {definition.default_value: vocabulary.DEFAULT_ID}
    return _file(definition, first_id=vocabulary.FIRST_ID, entries=default)


def _file(definition: IdFeature, *, first_id: int, entries: Mapping[str, int]) -> dict[str, Any]:
    """Returns a vocabulary that is a file of the export; ``entries`` go before it."""
    return {
        "method": "vocabulary",
        "file": definition.vocab_file,
        "first_id": first_id,
        "entries": dict(entries),
    }
