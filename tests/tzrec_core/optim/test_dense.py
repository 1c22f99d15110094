"""The learning rates in the log."""

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from tests.distributed.ranks import run
from tzrec_core.distributed import Ranks, shard
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.dense import learning_rates
from tzrec_core.optim.sparse import apply_sparse_optimizer, sgd
from tzrec_core.protos import optimizer_pb2

RULE = sgd(lr=0.25, gradient_clipping=False, max_gradient=1.0)
ADAM = optimizer_pb2.DenseOptimizer(adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.125))


def two_kernels() -> nn.ModuleDict:
    # Two widths: FBGEMM makes a kernel, and TorchRec a parameter group, for each.
    tables = [
        EmbeddingBagConfig(
            name=f"t{dim}", num_embeddings=10, embedding_dim=dim, feature_names=[f"f{dim}"]
        )
        for dim in (4, 8)
    ]
    ebc = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
    return nn.ModuleDict({"ebc": ebc, "linear": nn.Linear(2, 1)})


def rates(ranks: Ranks) -> list[dict[str, float]]:
    model = two_kernels()
    apply_sparse_optimizer(model, RULE)
    optimizer = build_optimizer(ADAM, shard(model, ranks, batch_size=2, seed=0), RULE)
    first = learning_rates(optimizer)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] / 2
    return [first, learning_rates(optimizer)]


def test_the_log_shows_one_sparse_and_one_dense_rate_as_they_are_now():
    for of_rank in run(rates, 2):
        assert of_rank == [{"lr/g0": 0.25, "lr/g1": 0.125}, {"lr/g0": 0.125, "lr/g1": 0.0625}]
