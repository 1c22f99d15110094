"""One feature from its config: its column, how values become ids or numbers, and its table."""

from functools import partial
from typing import NamedTuple

import numpy as np

from tzrec_core.features import vocabulary
from tzrec_core.features.hashing import hash_ids
from tzrec_core.features.id_transform import IdTransform, Lookup, in_range, with_default
from tzrec_core.features.normalizers import parse_normalizer
from tzrec_core.features.raw_transform import RawTransform, parse_default
from tzrec_core.features.schema import Feature, Table, Transform
from tzrec_core.protos import data_pb2, feature_pb2

SIDES = ("user", "item", "context")
MAX_ROWS = 2**63 - 1

Definition = feature_pb2.IdFeature | feature_pb2.RawFeature


def definition_of(config: feature_pb2.FeatureConfig) -> Definition:
    """Returns the member of the oneof that is set.

    Raises:
        ValueError: None is.
    """
    match config.WhichOneof("feature"):
        case "id_feature":
            return config.id_feature
        case "raw_feature":
            return config.raw_feature
        case kind:
            raise ValueError(f"a feature must be one of id_feature, raw_feature, got {kind}")


def build_feature(config: feature_pb2.FeatureConfig, data_config: data_pb2.DataConfig) -> Feature:
    """Builds the feature that ``config`` defines; ``data_config`` tells how its data is encoded.

    Raises:
        ValueError: It is ill-defined.
    """
    definition = definition_of(config)
    if not definition.feature_name:
        raise ValueError(f"feature_name must be set, got\n{config}")
    try:
        if isinstance(definition, feature_pb2.IdFeature):
            return _build_id(definition, data_config)
        return _build_raw(definition, data_config)
    except ValueError as error:
        raise ValueError(f"feature {definition.feature_name!r}: {error}") from error


def _build_id(definition: feature_pb2.IdFeature, data_config: data_pb2.DataConfig) -> Feature:
    if definition.value_dim > 1 or (definition.value_dim and definition.weighted):
        allowed = "0 of a weighted feature" if definition.weighted else "0 or 1"
        raise ValueError(f"value_dim must be {allowed}, got {definition.value_dim}")
    ids = _ids(definition)
    if data_config.fg_mode == data_pb2.FG_NONE:
        explicit = definition.HasField("default_bucketize_value")
        transform = _encoded_ids(
            data_config,
            num_rows=ids.num_rows,
            unknown_id=ids.unknown_id if explicit else None,
            default=definition.fg_encoded_default_value,
            single=definition.value_dim == 1,
            weighted=definition.weighted,
        )
    else:
        transform = with_default(
            IdTransform(
                lookup=ids.lookup,
                unknown_id=ids.unknown_id,
                separator=_separator(definition.separator),
                single=definition.value_dim == 1,
                weighted=definition.weighted,
            ),
            definition.default_value,
        )
    return Feature(
        name=definition.feature_name,
        column=_column(definition, data_config),
        width=0,
        table=_table(definition, ids.num_rows),
        weighted=definition.weighted,
        transform=transform,
    )


class _Ids(NamedTuple):
    lookup: Lookup
    num_rows: int
    unknown_id: int | None


def _ids(definition: feature_pb2.IdFeature) -> _Ids:
    """Returns how raw values become ids, how many there are, and which one is for the unknown."""
    known = ("hash_bucket_size", "num_buckets", "vocab_list", "vocab_dict", "vocab_file")
    set_fields = {field.name for field, _ in definition.ListFields()}
    sources = [name for name in known if name in set_fields]
    configured = definition.HasField("default_bucketize_value")
    unknown_id = definition.default_bucketize_value if configured else None
    start = 0 if configured else vocabulary.FIRST_ID
    match sources:
        case ["hash_bucket_size"]:
            num_rows = definition.hash_bucket_size
            lookup: Lookup = partial(hash_ids, num_buckets=num_rows)
        case ["num_buckets"]:
            num_rows = definition.num_buckets
            lookup = partial(in_range, num_ids=num_rows)
        case ["vocab_list" | "vocab_dict" | "vocab_file" as source]:
            if source == "vocab_list":
                entries = vocabulary.number(definition.vocab_list, start=start)
            elif source == "vocab_dict":
                entries = dict(definition.vocab_dict)
            else:
                entries = vocabulary.read(definition.vocab_file, start=start)
            if not configured:
                entries[definition.default_value] = vocabulary.DEFAULT_ID
                unknown_id = vocabulary.UNKNOWN_ID
            num_rows = max(*entries.values(), unknown_id or 0) + 1
            lookup = partial(vocabulary.look_up, ids=entries)
        case _:
            raise ValueError(
                f"exactly one of {', '.join(known)} must be set, got {', '.join(sources) or 'none'}"
            )
    if not 1 <= num_rows <= MAX_ROWS:
        raise ValueError(f"{sources[0]} must give 1 to 2**63 - 1 ids, got {num_rows}")
    if configured and definition.default_bucketize_value >= num_rows:
        raise ValueError(
            f"default_bucketize_value must be less than {num_rows}, the number of ids, "
            f"got {definition.default_bucketize_value}"
        )
    return _Ids(lookup, num_rows, unknown_id)


def _build_raw(definition: feature_pb2.RawFeature, data_config: data_pb2.DataConfig) -> Feature:
    boundaries = np.asarray(definition.boundaries, np.float32)
    if not (np.isfinite(boundaries).all() and (np.diff(boundaries) > 0).all()):
        raise ValueError(f"boundaries must be ascending, got {list(definition.boundaries)}")
    sparse = len(boundaries) > 0
    # As in TorchEasyRec, a bucketized feature without value_dim has any number of values.
    value_dim = 0 if sparse and not definition.HasField("value_dim") else definition.value_dim
    if not sparse and value_dim < 1:
        raise ValueError(f"value_dim must be at least 1 without boundaries, got {value_dim}")
    if not sparse and definition.embedding_dim:
        raise ValueError("embedding_dim needs boundaries: other numbers have no embedding")
    encoded = data_config.fg_mode == data_pb2.FG_NONE
    if encoded and sparse:
        transform: Transform = _encoded_ids(
            data_config,
            num_rows=len(boundaries) + 1,
            unknown_id=None,
            default=definition.fg_encoded_default_value,
            single=value_dim == 1,
            weighted=False,
        )
    else:
        separator = data_config.fg_encoded_multival_sep if encoded else definition.separator
        default = definition.default_value
        if encoded and definition.fg_encoded_default_value:
            default = definition.fg_encoded_default_value
        normalized = definition.normalizer and not encoded
        transform = RawTransform(
            value_dim=value_dim,
            default=parse_default(
                default, separator=separator, value_dim=value_dim, needed=not sparse
            ),
            separator=_separator(separator),
            normalize=parse_normalizer(definition.normalizer) if normalized else None,
            boundaries=boundaries if sparse else None,
        )
    return Feature(
        name=definition.feature_name,
        column=_column(definition, data_config),
        width=0 if sparse else value_dim,
        table=_table(definition, len(boundaries) + 1) if sparse else None,
        weighted=False,
        transform=transform,
    )


def _encoded_ids(
    data_config: data_pb2.DataConfig,
    *,
    num_rows: int,
    unknown_id: int | None,
    default: str,
    single: bool,
    weighted: bool,
) -> IdTransform:
    """Returns the transform of ids that are rows of the table already."""
    transform = IdTransform(
        lookup=partial(in_range, num_ids=num_rows),
        unknown_id=unknown_id,
        separator=_separator(data_config.fg_encoded_multival_sep),
        single=single,
        weighted=weighted,
    )
    return with_default(transform, default)


def _separator(separator: str) -> str:
    if not separator:
        raise ValueError("separator must be at least one character")
    return separator


def _column(definition: Definition, data_config: data_pb2.DataConfig) -> str:
    """Returns the input column: the feature's own in encoded data, else the expression's."""
    if data_config.fg_mode == data_pb2.FG_NONE:
        return definition.feature_name
    side, _, column = definition.expression.rpartition(":")
    if not column or side not in ("", *SIDES):
        raise ValueError(
            f"expression must be a column, or one of {', '.join(SIDES)} with a colon and a "
            f"column behind it, got {definition.expression!r}"
        )
    return column


def _table(definition: Definition, num_embeddings: int) -> Table:
    if definition.embedding_dim < 1:
        raise ValueError(f"embedding_dim must be at least 1, got {definition.embedding_dim}")
    pooling = definition.pooling.lower()
    if pooling not in ("sum", "mean"):
        raise ValueError(f"pooling must be sum or mean, got {definition.pooling!r}")
    return Table(
        name=definition.embedding_name or f"{definition.feature_name}_emb",
        num_embeddings=num_embeddings,
        embedding_dim=definition.embedding_dim,
        pooling=pooling,
        init_fn=definition.init_fn or None,
    )
