"""A hand-made model of three tables and a linear layer, its rows, and a plain-torch twin."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag, linear
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.sparse.jagged_tensor import KeyedTensor

from tzrec_core.batch import Batch

# Different sizes, widths and poolings, so that FBGEMM makes several kernels.
TABLES = (
    EmbeddingBagConfig(name="a", num_embeddings=5, embedding_dim=4, feature_names=["fa"]),
    EmbeddingBagConfig(
        name="b",
        num_embeddings=9,
        embedding_dim=4,
        feature_names=["fb"],
        pooling=PoolingType.MEAN,
    ),
    EmbeddingBagConfig(name="c", num_embeddings=40, embedding_dim=8, feature_names=["fc"]),
)
NUM_DENSE = 3


class Head(nn.Module):
    """Everything after the embeddings, in one module, as the GPU's pipeline wants it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, embeddings: KeyedTensor, batch: Batch) -> tuple[Tensor, tuple[Tensor, Batch]]:
        pooled = embeddings.to_dict()
        parts = [pooled[key] for key in sorted(pooled)]
        logits = self.linear(torch.cat([batch.dense, *parts], dim=1)).squeeze(1)
        return weighted_loss(logits, batch), (logits.detach(), batch)


class SmallModel(nn.Module):
    def __init__(self, tables: tuple[EmbeddingBagConfig, ...] = TABLES) -> None:
        super().__init__()
        self.ebc = EmbeddingBagCollection(tables=list(tables), device=torch.device("meta"))
        self.head = Head(NUM_DENSE + sum(table.embedding_dim for table in tables))

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Batch]]:
        loss, output = self.head(self.ebc(batch.sparse), batch)
        return loss, output


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    per_row = binary_cross_entropy_with_logits(logits, batch.labels["label"], reduction="none")
    return (per_row * batch.sample_weights["w"]).sum() / batch.normalizer


def weight_of(batch: Batch) -> Tensor:
    """Returns the weight of a batch as ``weighted_loss`` takes it."""
    return batch.sample_weights["w"].sum(dtype=torch.float64)


def number_of(batch: Batch) -> Tensor:
    """Returns the weight of a batch whose rows weigh 1 each."""
    return torch.tensor(float(len(batch)), dtype=torch.float64)


class Rows:
    """Random rows; ``batch(start, stop)`` is a slice of them."""

    def __init__(self, num_rows: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.dense = torch.randn(num_rows, NUM_DENSE, generator=generator)
        self.label = torch.randint(2, (num_rows,), generator=generator).float()
        self.weight = 0.5 + torch.rand(num_rows, generator=generator)
        self.ids = {
            table.feature_names[0]: [
                torch.randint(table.num_embeddings, (length,), generator=generator)
                for length in torch.randint(4, (num_rows,), generator=generator).tolist()
            ]
            for table in TABLES
        }

    def batch(self, start: int, stop: int) -> Batch:
        ids = [row for rows in self.ids.values() for row in rows[start:stop]]
        values = torch.cat(ids) if ids else torch.zeros(0, dtype=torch.int64)
        lengths = torch.tensor([len(row) for row in ids], dtype=torch.int32)
        return Batch(
            dense=self.dense[start:stop],
            sparse=KeyedJaggedTensor.from_lengths_sync(list(self.ids), values, lengths),
            weighted=None,
            labels={"label": self.label[start:stop]},
            sample_weights={"w": self.weight[start:stop]},
            group_ids={},
            position={0: stop},
        )


class Twin:
    """The same model in plain torch, with one embedding bag a table."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.bags = {
            table.name: weights[f"ebc.embedding_bags.{table.name}.weight"].clone().requires_grad_()
            for table in TABLES
        }
        self.weight = weights["head.linear.weight"].clone().requires_grad_()
        self.bias = weights["head.linear.bias"].clone().requires_grad_()

    def loss(self, rows: Rows, start: int, stop: int) -> Tensor:
        """Returns the weighted mean loss of the rows."""
        parts = [rows.dense[start:stop]]
        for table in TABLES:
            ids = rows.ids[table.feature_names[0]][start:stop]
            offsets = torch.tensor([0, *[len(row) for row in ids]]).cumsum(0)[:-1]
            mode = "mean" if table.pooling == PoolingType.MEAN else "sum"
            parts.append(embedding_bag(torch.cat(ids), self.bags[table.name], offsets, mode=mode))
        logits = linear(torch.cat(parts, dim=1), self.weight, self.bias).squeeze(1)
        loss = binary_cross_entropy_with_logits(logits, rows.label[start:stop], reduction="none")
        weight = rows.weight[start:stop]
        return (loss * weight).sum() / weight.sum()

    def weights(self) -> dict[str, Tensor]:
        bags = {f"ebc.embedding_bags.{name}.weight": bag for name, bag in self.bags.items()}
        return {**bags, "head.linear.weight": self.weight, "head.linear.bias": self.bias}


def local_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters that this rank holds."""
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {name: p for name, p in parameters.items() if p.numel()}


def whole(of_ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns all parameters from those that each rank holds."""
    return {name: p for weights in of_ranks for name, p in weights.items()}
