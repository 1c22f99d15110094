"""Pooled embeddings of a model's sparse features."""

from collections.abc import Sequence

import torch
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    KeyedJaggedTensor,
    KeyedTensor,
    PoolingType,
)

from tzrec_core.features.schema import Feature
from tzrec_core.modules.initializer import parse_initializer


class PooledEmbeddings(nn.Module):
    """Looks up and pools the embeddings of the deep and of the wide features.

    A feature has one deep table however many groups it is in, and one wide table of its own.
    Features with weighted ids need collections of their own, so there are up to four of them;
    those without a feature are None.

    Weighted ids are summed, whatever their pooling: TorchRec takes their mean only once it is
    sharded. Who needs the mean divides by the number of ids.

    Attributes:
        deep_features: Sparse features with a deep embedding.
        wide_features: Sparse features with a wide embedding, with their wide tables.
    """

    def __init__(
        self,
        deep_features: Sequence[Feature],
        wide_features: Sequence[Feature],
        *,
        device: torch.device,
    ) -> None:
        """Creates the tables on ``device``; on ``meta`` they take no memory until sharded.

        Raises:
            ValueError: A table is shared by features with and without weighted ids, or an
                ``init_fn`` that is not supported.
        """
        super().__init__()
        self.deep_features = tuple(deep_features)
        self.wide_features = tuple(wide_features)
        self.deep = _collection(self.deep_features, weighted=False, device=device)
        self.deep_weighted = _collection(self.deep_features, weighted=True, device=device)
        self.wide = _collection(self.wide_features, weighted=False, device=device)
        self.wide_weighted = _collection(self.wide_features, weighted=True, device=device)

    def forward(
        self, sparse: KeyedJaggedTensor | None, weighted: KeyedJaggedTensor | None
    ) -> tuple[list[KeyedTensor], list[KeyedTensor]]:
        """Returns the deep and the wide embeddings; keys are feature names, in no given order."""
        deep: list[KeyedTensor] = []
        wide: list[KeyedTensor] = []
        if self.deep is not None:
            deep.append(self.deep(sparse))
        if self.deep_weighted is not None:
            deep.append(self.deep_weighted(weighted))
        if self.wide is not None:
            wide.append(self.wide(sparse))
        if self.wide_weighted is not None:
            wide.append(self.wide_weighted(weighted))
        return deep, wide


def _collection(
    features: Sequence[Feature], *, weighted: bool, device: torch.device
) -> EmbeddingBagCollection | None:
    tables: dict[str, EmbeddingBagConfig] = {}
    others = {f.table.name: f.name for f in features if f.table and f.weighted != weighted}
    for feature in features:
        table = feature.table
        assert table is not None
        if feature.weighted != weighted:
            continue
        if table.name in others:
            raise ValueError(
                f"embedding_name {table.name!r} is shared by {feature.name!r} and "
                f"{others[table.name]!r}, of which one is weighted and one is not"
            )
        if table.name in tables:
            tables[table.name].feature_names.append(feature.name)
            continue
        tables[table.name] = EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim,
            feature_names=[feature.name],
            pooling=PoolingType.SUM if weighted else PoolingType(table.pooling.upper()),
            # Without one TorchRec draws from the uniform distribution over +-1 / sqrt(rows).
            init_fn=None
            if table.init_fn is None
            else parse_initializer(
                table.init_fn, num_rows=table.num_embeddings, dim=table.embedding_dim
            ),
        )
    if not tables:
        return None
    return EmbeddingBagCollection(list(tables.values()), is_weighted=weighted, device=device)
