"""Tables keep their sparse rule whatever their size; clipping and learning rates reach them."""

import pytest
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from tests.distributed.ranks import run
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.sharding import shard
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import SparseRule, adagrad, apply_sparse_optimizer, sgd
from tzrec_core.protos import optimizer_pb2

# TorchRec would replicate the small ones, and update those with the dense optimizer.
SIZES = (1, 10, 1000, 300_000)
ADAM = optimizer_pb2.DenseOptimizer(adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.01))


class Sums(nn.Module):
    """Sums up embeddings; the gradient of every row looked up once is ``scale``."""

    def __init__(self, sizes: tuple[int, ...] = SIZES) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=f"t{size}", num_embeddings=size, embedding_dim=4, feature_names=[f"f{size}"]
            )
            for size in sizes
        ]
        self.ebc = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        return self.scale * self.ebc(ids).values().sum()


def built(ranks: Ranks, rule: SparseRule, sizes: tuple[int, ...] = SIZES):
    model = Sums(sizes)
    apply_sparse_optimizer(model, rule)
    sharded = shard(model, ranks, batch_size=8, seed=0)
    return sharded, build_optimizer(ADAM, sharded, rule)


def first_rows(sizes: tuple[int, ...] = SIZES) -> KeyedJaggedTensor:
    """Returns a batch of one row that looks up row 0 of every table."""
    keys, values = [f"f{size}" for size in sizes], torch.zeros(len(sizes), dtype=torch.int64)
    return KeyedJaggedTensor.from_lengths_sync(keys, values, torch.ones(len(sizes)).int())


def names_by_optimizer(ranks: Ranks) -> tuple[set[str], set[str], set[str]]:
    rule = adagrad(lr=1.0, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.0)
    model, optimizer = built(ranks, rule)
    parts = dict(optimizer.optimizers)
    model(first_rows()).backward()
    optimizer.step()
    state_names = {
        name.rpartition(".")[2]
        for state in parts["sparse"].state_dict()["state"].values()
        for name in state
    }
    return set(parts["sparse"].params), set(parts["dense"].params), state_names


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_table_has_the_sparse_optimizer_whatever_its_size(world_size):
    results = run(names_by_optimizer, world_size)

    sparse = set().union(*[names for names, _, _ in results])
    assert sparse == {f"ebc.embedding_bags.t{size}.weight" for size in SIZES}
    assert all(dense == {"scale"} for _, dense, _ in results)
    assert all(names == {"momentum1"} for _, _, names in results)  # Adagrad's sum, nothing of Adam


def rows_after_a_step(ranks: Ranks, rule: SparseRule) -> tuple[Tensor, Tensor]:
    model, optimizer = built(ranks, rule, (10,))
    weight = model.module.ebc.embedding_bags["t10"].weight
    before = weight.detach().clone()
    optimizer.zero_grad()
    model(first_rows((10,))).backward()
    optimizer.step()
    return before, weight.detach().clone()


@pytest.mark.parametrize(("clip", "gradient"), [(False, 3.0), (True, 0.25)])
def test_gradient_clipping_limits_every_element_of_the_gradient(clip, gradient):
    rule = sgd(lr=0.5, gradient_clipping=clip, max_gradient=0.25)

    ((before, after),) = run(rows_after_a_step, 1, rule)

    torch.testing.assert_close(after[0], before[0] - 0.5 * gradient)
    assert torch.equal(after[1:], before[1:])


def rows_with_a_changed_rate(ranks: Ranks) -> tuple[Tensor, Tensor]:
    model, optimizer = built(ranks, sgd(lr=0.5, gradient_clipping=False, max_gradient=1.0), (10,))
    weight = model.module.ebc.embedding_bags["t10"].weight
    before = weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0625
    optimizer.zero_grad()
    model(first_rows((10,))).backward()
    return before, weight.detach().clone()


def test_a_changed_learning_rate_reaches_the_tables_with_zero_grad():
    ((before, after),) = run(rows_with_a_changed_rate, 1)

    torch.testing.assert_close(after[0], before[0] - 0.0625 * 3.0)


def test_tables_do_not_share_one_dictionary_of_arguments():
    rule = sgd(lr=0.5, gradient_clipping=True, max_gradient=0.25)
    model = Sums()

    apply_sparse_optimizer(model, rule)

    arguments = [weight._optimizer_kwargs[0] for weight in model.ebc.parameters()]
    assert len({id(of_table) for of_table in arguments}) == len(SIZES)
    assert rule.arguments == {"lr": 0.5, "gradient_clipping": True, "max_gradient": 0.25}
