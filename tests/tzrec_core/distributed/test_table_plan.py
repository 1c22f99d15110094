"""Plans respect memory, and say what does not fit."""

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from tzrec_core.distributed.sharder import Sharder
from tzrec_core.distributed.table_plan import TableConstraint, columns_of_part, plan_tables
from tzrec_core.optim.sparse import adagrad, apply_sparse_optimizer, sgd

MIB = 2**20
SGD = sgd(lr=0.1, gradient_clipping=False, max_gradient=1.0)
ADAGRAD = adagrad(lr=0.1, gradient_clipping=False, max_gradient=1.0, initial_accumulator_value=0.0)


def plan(
    rows: dict[str, int],
    *,
    memory: int,
    world_size: int,
    rule=SGD,
    constraints: dict[str, TableConstraint] | None = None,
    **changes: object,
):
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
    planned = plan_tables(model, [Sharder()], tables, constraints or {}, **arguments)
    return {table: sharding.ranks for table, sharding in planned.plan["ebc"].items()}


def by(*sharding_types: str) -> TableConstraint:
    return TableConstraint(sharding_types, ("fused",))


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


@pytest.mark.parametrize("kind", ["row_wise", "column_wise", "table_row_wise"])
def test_a_table_larger_than_a_rank_fits_if_it_may_be_split(kind):
    rows = {"small": 10, "big": 2**21}  # 512 MiB
    ranks = plan(rows, memory=400 * MIB, world_size=4, constraints={"big": by(kind)})

    assert sorted(set(ranks["big"])) == [0, 1, 2, 3]
    assert len(ranks["small"]) == 1


def test_of_several_types_the_one_that_fits_is_taken():
    constraints = {"big": by("table_wise", "row_wise")}
    ranks = plan({"big": 2**21}, memory=400 * MIB, world_size=4, constraints=constraints)

    assert ranks["big"] == [0, 1, 2, 3]


def test_what_does_not_fit_comes_with_the_constraint_that_is_in_the_way():
    constraints = {"big": by("table_wise", "column_wise"), "split": by("row_wise")}
    with pytest.raises(ValueError, match="do not fit") as caught:
        plan(
            {"big": 2**23, "split": 2**23, "small": 10},
            memory=400 * MIB,
            world_size=4,
            constraints=constraints,
        )

    message = str(caught.value)
    assert "big 8388608 x 64 = 2 GiB (table_wise or column_wise)" in message
    assert "split 8388608 x 64 = 2 GiB (row_wise)" in message
    assert 'or let ranks share the rows of big, with sharding_types: "row_wise" in' in message


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_rows_are_split_only_if_every_rank_gets_some(rows, caplog):
    ranks = plan({"t": rows}, memory=MIB, world_size=4, constraints={"t": by("row_wise")})

    # TorchRec's parts are of 1, 1, 2 and 3 rows: 1, 2, 3 and 3 ranks would have some.
    assert len(ranks["t"]) == 1
    assert "too few rows to be split over the ranks: t" in caplog.text
    ranks = plan({"t": 4 * rows}, memory=MIB, world_size=4, constraints={"t": by("row_wise")})
    assert ranks["t"] == [0, 1, 2, 3]


def test_without_tables_of_whole_rows_nothing_is_said_of_them():
    with pytest.raises(ValueError, match="do not fit") as caught:
        plan({"t": 2**24}, memory=400 * MIB, world_size=2, constraints={"t": by("row_wise")})

    assert str(caught.value).endswith("more ranks, or more memory.")


@pytest.mark.parametrize("dim", range(4, 132, 4))
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_columns_are_split_into_the_widest_equal_parts_that_all_ranks_get_some_of(dim, num_ranks):
    width = columns_of_part(dim, num_ranks)

    possible = [w for w in range(4, dim + 1, 4) if dim % w == 0]
    assert width in possible
    assert dim // width >= min(num_ranks, dim // 4)
    assert all(dim // wider < num_ranks for wider in possible if wider > width)


def test_the_optimizers_state_takes_memory_too():
    plan({"big": 2**20}, memory=400 * MIB, world_size=1)

    with pytest.raises(ValueError, match="do not fit"):
        plan({"big": 2**20}, memory=400 * MIB, world_size=1, rule=ADAGRAD)


def test_on_a_gpu_its_own_memory_counts():
    gpu = {"device_type": "cuda", "world_size": 1}
    plan({"big": 2**20}, memory=MIB, device_memory=800 * MIB, **gpu)

    with pytest.raises(ValueError, match="do not fit"):
        plan({"big": 2**20}, memory=800 * MIB, device_memory=MIB, **gpu)
