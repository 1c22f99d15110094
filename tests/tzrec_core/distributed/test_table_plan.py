"""Plans respect memory, and say what does not fit."""

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

from tzrec_core.distributed.table_plan import plan_tables
from tzrec_core.optim.sparse import adagrad, apply_sparse_optimizer, sgd

MIB = 2**20
SGD = sgd(lr=0.1, gradient_clipping=False, max_gradient=1.0)
ADAGRAD = adagrad(lr=0.1, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.0)


def plan(rows: dict[str, int], *, memory: int, world_size: int, rule=SGD, **changes: object):
    tables = [
        EmbeddingBagConfig(
            name=name, num_embeddings=num_rows, embedding_dim=64, feature_names=[f"f_{name}"]
        )
        for name, num_rows in rows.items()
    ]
    model = nn.ModuleDict(
        {"ebc": EmbeddingBagCollection(tables=tables, device=torch.device("meta"))}
    )
    apply_sparse_optimizer(model, rule)
    arguments = {
        "world_size": world_size,
        "local_world_size": world_size,
        "device_type": "cpu",
        "host_memory": memory,
        "device_memory": 0,
        "batch_size": 1,
        **changes,
    }
    planned = plan_tables(model, [EmbeddingBagCollectionSharder()], tables, **arguments)
    return {table: sharding.ranks for table, sharding in planned.plan["ebc"].items()}


def test_tables_that_need_two_ranks_go_to_two_ranks():
    ranks = plan({"big": 2**20, "also_big": 2**20}, memory=400 * MIB, world_size=2)  # 256 MiB each

    assert sorted(ranks.values()) == [[0], [1]]


@pytest.mark.parametrize(
    ("rows", "world_size"),
    [({"big": 2**20, "also_big": 2**20}, 1), ({"small": 10, "big": 2**21}, 4)],
    ids=["too much together", "one too large for a rank"],
)
def test_tables_that_do_not_fit_are_named_with_their_sizes_and_the_memory(rows, world_size):
    with pytest.raises(ValueError, match="do not fit") as caught:
        plan(rows, memory=400 * MIB, world_size=world_size)

    message = str(caught.value)
    assert f"{world_size} ranks with 0.332 GiB" in message  # 400 MiB less 15 %
    assert f"big {rows['big']} x 64 = {rows['big'] / 2**22:.3g} GiB" in message
    assert message.index("big") < message.index("small") if "small" in rows else True


def test_the_optimizers_state_takes_memory_too():
    plan({"big": 2**20}, memory=400 * MIB, world_size=1)

    with pytest.raises(ValueError, match="do not fit"):
        plan({"big": 2**20}, memory=400 * MIB, world_size=1, rule=ADAGRAD)


def test_on_a_gpu_its_own_memory_counts():
    gpu = {"device_type": "cuda", "world_size": 1}
    plan({"big": 2**20}, memory=MIB, device_memory=800 * MIB, **gpu)

    with pytest.raises(ValueError, match="do not fit"):
        plan({"big": 2**20}, memory=800 * MIB, device_memory=MIB, **gpu)
