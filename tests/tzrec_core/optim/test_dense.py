"""Which optimizer a dense parameter has, and the learning rates in the log."""

import logging

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from tests.distributed.ranks import run
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.dense import assign, combine, learning_rates, log_parts
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


NAMES = ["model.head.deep.0.weight", "model.head.deep.0.bias", "model.head.final.weight"]


def test_a_parameter_is_in_the_part_whose_pattern_is_its_whole_name_else_in_none():
    assert assign(NAMES, [".*bias", r".*\.final\..*"]) == [NAMES[:1], [NAMES[1]], [NAMES[2]]]
    assert assign(NAMES, []) == [NAMES]
    assert assign(NAMES, ["(.*)head(.*)"]) == [[], NAMES]


def test_two_patterns_of_one_parameter_are_an_error_that_names_all_three():
    with pytest.raises(
        ValueError, match=r"bias is matched by part_optimizers\[0\] '\.\*deep\.\*'"
    ) as e:
        assign(NAMES, [".*deep.*", ".*final.*", ".*bias"])
    assert "part_optimizers[2] '.*bias'" in str(e.value)


@pytest.mark.parametrize("pattern", ["final", "model.head.final", ".*wide.*"])
def test_a_pattern_of_no_whole_name_is_an_error_that_lists_the_names(pattern):
    with pytest.raises(
        ValueError, match=r"part_optimizers\[1\]\.regex_pattern .* no parameter"
    ) as e:
        assign(NAMES, [".*bias", pattern])
    assert all(name in str(e.value) for name in NAMES)


def parts(ranks: Ranks, patterns: list[str]) -> tuple[list[list[str]], dict[str, float], list[str]]:
    model = two_kernels()
    apply_sparse_optimizer(model, RULE)

    def make(weights):
        return torch.optim.SGD(weights, lr=0.5)

    optimizer = combine(
        shard(model, ranks, batch_size=2, seed=0), make, [(pattern, make) for pattern in patterns]
    )
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("tzrec_core.optim.dense")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    log_parts(optimizer, patterns)
    for part in [part for _, part in optimizer.optimizers]:
        part.zero_grad()
        part.step()
    names = [list(part.params) for _, part in optimizer.optimizers]
    return names, learning_rates(optimizer), messages


def test_parts_may_leave_nothing_to_the_dense_optimizer():
    ((names, rates_, messages),) = run(parts, 1, [".*bias", ".*weight"])

    tables = ["ebc.embedding_bags.t4.weight", "ebc.embedding_bags.t8.weight"]
    assert names == [tables, [], ["linear.bias"], ["linear.weight"]]
    assert rates_ == {"lr/g0": 0.25, "lr/g1": 0.5, "lr/g2": 0.5, "lr/g3": 0.5}
    assert messages == [
        "part_optimizers[0] '.*bias' trains linear.bias",
        "part_optimizers[1] '.*weight' trains linear.weight",
        "dense_optimizer trains all others: there are none",
    ]


def test_the_log_names_what_no_part_has():
    ((_, _, messages),) = run(parts, 1, [".*bias"])

    assert messages[-1] == "dense_optimizer trains all others: linear.weight"
