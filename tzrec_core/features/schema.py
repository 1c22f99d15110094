"""What a batch is made of: features, their embedding tables, labels, weights and grouping keys."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class FeatureCounts:
    """What encoding met in one column; counts of several tables add up."""

    rows: int = 0
    nulls: int = 0
    """Rows without a value: null, NaN, an empty string or an empty list."""
    values: int = 0
    """Values in the other rows; more than rows where a row may hold several."""
    out_of_vocabulary: int = 0
    """Values outside the id range or not in the vocabulary."""

    def __add__(self, other: "FeatureCounts") -> "FeatureCounts":
        return FeatureCounts(
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            values=self.values + other.values,
            out_of_vocabulary=self.out_of_vocabulary + other.out_of_vocabulary,
        )


class Transform(Protocol):
    """Turns one chunk of a feature's input column into its encoded form, row for row."""

    def __call__(self, column: pa.Array) -> tuple[pa.Array, FeatureCounts]:
        """Raises ValueError with an example where a value is not acceptable."""
        ...


@dataclass(frozen=True)
class Table:
    """An embedding table; features with the same table share its rows."""

    name: str
    num_embeddings: int
    embedding_dim: int
    pooling: str
    """"sum" or "mean"."""
    init_fn: str | None = None
    """How rows are initialised, as the config spells it."""


@dataclass(frozen=True)
class Feature:
    """A feature as the model sees it, and how to get it from its input column."""

    name: str
    column: str
    width: int
    """Numbers per row of a dense feature, 0 of a sparse one."""
    table: Table | None
    """The embedding table of a sparse feature, None of a dense one."""
    weighted: bool
    transform: Transform

    @property
    def is_sparse(self) -> bool:
        return self.table is not None


@dataclass(frozen=True)
class BatchSchema:
    """The content of a batch, and with it the columns of encoded data."""

    features: tuple[Feature, ...]
    labels: tuple[str, ...] = ()
    sample_weights: tuple[str, ...] = ()
    group_keys: Mapping[str, str] = field(default_factory=dict)
    """Input column by grouping key."""
    sample_cost: str | None = None
    """Input column of what a row costs; None if batches are cut by the number of rows only."""
    slices: tuple[str, ...] = ()
    """Input columns whose values stay what they are, to evaluate parts of the rows."""

    @property
    def dense_features(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if not f.is_sparse)

    @property
    def sparse_features(self) -> tuple[Feature, ...]:
        """Sparse features whose ids carry no weights."""
        return tuple(f for f in self.features if f.is_sparse and not f.weighted)

    @property
    def weighted_features(self) -> tuple[Feature, ...]:
        return tuple(f for f in self.features if f.is_sparse and f.weighted)

    @property
    def width(self) -> int:
        """Columns of ``Batch.dense``."""
        return sum(feature.width for feature in self.features)

    def group_column(self, key: str, available: Collection[str]) -> str:
        """Returns the column that ``key``'s ids come from: encoded ids where the data has them."""
        encoded = id_column(key)
        return encoded if encoded in available else self.group_keys[key]

    def raw_columns(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns the columns to read of data that has the columns ``available``.

        Raises:
            ValueError: A column that is needed is not available.
        """
        needed: dict[str, str] = {}
        for feature in self.features:
            needed.setdefault(feature.column, f"feature {feature.name!r}")
        for name in self.labels:
            needed.setdefault(name, "a label")
        for name in self.sample_weights:
            needed.setdefault(name, "a sample weight")
        for key in self.group_keys:
            needed.setdefault(self.group_column(key, available), f"grouping key {key!r}")
        if self.sample_cost is not None:
            needed.setdefault(cost_source(self.sample_cost, available), "the sample cost")
        for name in self.slices:
            needed.setdefault(slice_source(name, available), "a slice of the evaluation")
        for column, user in needed.items():
            if column not in available:
                raise ValueError(
                    f"column {column!r}, needed as {user}, is not in the data; "
                    f"its columns are {', '.join(sorted(available)) or 'none'}"
                )
        return tuple(needed)


def id_column(key: str) -> str:
    """Returns the encoded column of grouping key ``key``."""
    return f"{key}@id"


def cost_column(name: str) -> str:
    """Returns the encoded column of the sample cost whose input column is ``name``."""
    return f"{name}@cost"


def cost_source(name: str, available: Collection[str]) -> str:
    """Returns the column that the sample cost ``name`` comes from: the encoded one, if there."""
    return cost_column(name) if cost_column(name) in available else name


def slice_column(name: str) -> str:
    """Returns the encoded column of the slices whose input column is ``name``."""
    return f"{name}@slice"


def slice_source(name: str, available: Collection[str]) -> str:
    """Returns the column that the slices ``name`` come from: the encoded one, if there."""
    return slice_column(name) if slice_column(name) in available else name
