"""The listed plan is what each rank really holds."""

from tests.distributed.ranks import run
from tests.tzrec_core.checkpoints.test_saved_plan import PLANS, build
from tests.tzrec_core.small_model import TABLES
from tests.tzrec_core.small_training import ROWWISE
from tzrec_core.distributed.table_listing import Part, Table, listed, tables

# Of table c, 40 x 16, as people read it.
PLACES = {
    "table_wise": "2.5 KiB  rank 0",
    "row_wise": "rank 0, 1: 20 x 16",
    "column_wise 2": "rank 0, 1: 40 x 8",
    "column_wise 4": "rank 0, 1: 40 x 4 + 40 x 4",
}


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
            assert [table.bytes_of(rank) for table in listing] == [
                held[f"ebc.embedding_bags.{name}.weight"] for name in "abc"
            ]
        head, *lines = listed(listing, 2).splitlines()
        assert head.startswith("3 embedding tables, ")
        assert [line.split()[0] for line in lines] == ["ebc.a", "ebc.b", "ebc.c"]
        assert lines[2].endswith(PLACES[plan])


def test_ranks_with_unequal_parts_are_listed_apart_and_those_with_none_not_at_all():
    parts = (Part(0, 2, 8), Part(1, 2, 8), Part(2, 1, 8), Part(3, 0, 8))
    listing = listed([Table("ebc.a", 5, 8, "row_wise/fused", parts)], 4)

    assert listing.splitlines()[1].endswith("160 B  rank 0, 1: 2 x 8; rank 2: 1 x 8")


def test_a_model_without_tables_says_so():
    assert listed([], 2) == (
        "0 embedding tables, 0 B without the optimizer's state; rank 0: 0 B, rank 1: 0 B"
    )
