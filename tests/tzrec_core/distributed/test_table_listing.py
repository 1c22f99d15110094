"""The listed plan is what each rank really holds."""

from tests.distributed.ranks import run
from tests.tzrec_core.checkpoints.test_saved_plan import PLANS, build
from tests.tzrec_core.small_model import TABLES
from tests.tzrec_core.small_training import ROWWISE
from tzrec_core.distributed.table_listing import listed, tables


def listings(ranks):
    """Returns by plan the listed tables, and the bytes of weights that this rank has by table."""
    found = {}
    for plan in PLANS:
        model, _ = build(ranks, ROWWISE, plan)
        held = {
            name: sum(shard.nbytes for shard in weight.to_local().local_shards())
            for name, weight in model.state_dict().items()
            if ".embedding_bags." in name
        }
        found[plan] = tables(model), held
    return found


def test_tables_are_listed_with_the_bytes_that_each_rank_has():
    of_ranks = run(listings, 2)

    sizes = [(table.num_embeddings, table.embedding_dim) for table in TABLES[:2]] + [(40, 16)]
    for plan in PLANS:
        [(listing, _), (same, _)] = (found[plan] for found in of_ranks)
        assert same == listing
        assert [table.name for table in listing] == ["ebc.a", "ebc.b", "ebc.c"]
        assert [(table.rows, table.dim) for table in listing] == sizes
        assert listing[2].kind == f"{plan.split()[0]}/fused"
        for rank, found in enumerate(of_ranks):
            held = found[plan][1]
            assert [table.bytes_of_ranks.get(rank, 0) for table in listing] == [
                held[f"ebc.embedding_bags.{name}.weight"] for name in "abc"
            ]
        head, *lines = listed(listing, 2).splitlines()
        assert head.startswith("3 embedding tables, ")
        assert [line.split()[0] for line in lines] == ["ebc.a", "ebc.b", "ebc.c"]


def test_a_model_without_tables_says_so():
    assert listed([], 2) == (
        "0 embedding tables, 0 B without the optimizer's state; rank 0: 0 B, rank 1: 0 B"
    )
