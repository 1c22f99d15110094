import pytest
import torch

from tests.tzrec_core.models.samples import make_batch, sparse
from tzrec_core.modules.embedding import PooledEmbeddings

CPU = torch.device("cpu")


def pool_by_hand(table, ids, row, *, mean):
    """Row ``row`` of one feature of a KJT, looked up id by id."""
    values, weights = ids.values(), ids.weights_or_none()
    start, end = int(ids.offsets()[row]), int(ids.offsets()[row + 1])
    total = torch.zeros(table.size(1))
    for position in range(start, end):
        weight = 1.0 if weights is None else weights[position]
        total = total + weight * table[values[position]]
    return total / max(1, end - start) if mean else total


@pytest.mark.parametrize(
    ("pooling", "weighted", "mean"),
    [("sum", False, False), ("mean", False, True), ("sum", True, False), ("mean", True, False)],
)
def test_embeddings_are_sums_or_means_of_the_rows_and_sums_of_weighted_ones(
    pooling, weighted, mean
):
    feature = sparse("a", pooling=pooling, weighted=weighted)
    batch = make_batch([feature])
    embeddings = PooledEmbeddings([feature], [], device=CPU)
    [table] = embeddings.parameters()

    [deep], wide = embeddings(batch.sparse, batch.weighted)

    ids = (batch.weighted if weighted else batch.sparse)["a"]
    expected = [pool_by_hand(table, ids, row, mean=mean) for row in range(6)]
    torch.testing.assert_close(deep["a"], torch.stack(expected))
    assert wide == []


def test_features_of_one_embedding_name_share_one_table():
    features = [sparse("a", table="t"), sparse("b", table="t")]
    embeddings = PooledEmbeddings(features, [], device=CPU)
    assert [name for name, _ in embeddings.named_parameters()] == ["deep.embedding_bags.t.weight"]
    batch = make_batch(features)
    [deep], _ = embeddings(batch.sparse, None)
    [table] = embeddings.parameters()
    for name in ("a", "b"):
        expected = [pool_by_hand(table, batch.sparse[name], row, mean=False) for row in range(6)]
        torch.testing.assert_close(deep[name], torch.stack(expected))


def test_default_initial_values_are_uniform_within_one_over_the_root_of_the_rows():
    embeddings = PooledEmbeddings([sparse("a", rows=10_000, dim=16)], [], device=CPU)
    [table] = embeddings.parameters()
    torch.testing.assert_close(table.abs().max(), torch.tensor(0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(table.std(), torch.tensor(0.01 / 3**0.5), rtol=0.01, atol=0)


def test_init_fn_of_the_config_is_used():
    feature = sparse("a", init_fn="nn.init.constant_,val=0.25")
    [table] = PooledEmbeddings([feature], [], device=CPU).parameters()
    assert (table == 0.25).all()


def test_tables_on_the_meta_device_take_no_memory():
    feature = sparse("a", rows=10**12, init_fn="nn.init.normal_,std=0.01")
    [table] = PooledEmbeddings([feature], [feature], device=torch.device("meta")).deep.parameters()
    assert table.is_meta


def test_a_table_shared_by_weighted_and_unweighted_ids_is_refused_by_name():
    features = [sparse("a", table="t"), sparse("b", table="t", weighted=True)]
    with pytest.raises(ValueError, match=r"'t'.*'[ab]'.*'[ab]'"):
        PooledEmbeddings(features, [], device=CPU)
