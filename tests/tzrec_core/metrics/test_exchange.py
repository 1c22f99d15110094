import numpy as np
import pytest
import torch

from tests.distributed.ranks import run
from tzrec_core.batch import NULL_ID
from tzrec_core.data.shuffle import mix64
from tzrec_core.metrics.exchange import (
    by_key,
    mixed,
    num_ranks,
    own_rank,
    rank_of,
    to_rank_0,
    together,
)

SIZES = [40, 0, 13]


def own_rows(rank):
    """Keys, row numbers that are unique over ranks, and a column of vectors."""
    size = SIZES[rank]
    generator = torch.Generator().manual_seed(rank)
    keys = torch.randint(-4, 4, (size,), generator=generator) * 10
    keys[::5] = NULL_ID
    numbers = torch.arange(size) + 1000 * rank
    return keys, numbers, torch.stack([numbers, -numbers], dim=1).float()


def fails_on(ranks, *failing):
    def action():
        if own_rank() in failing:
            raise ValueError(f"rank {own_rank()} has found something")
        return own_rank()

    try:
        return together(action)
    except ValueError as error:
        return str(error)


def exchange_all(ranks):
    keys, numbers, vectors = own_rows(ranks.rank)
    (numbers_by_key, vectors_by_key), keys_by_key = by_key([numbers, vectors], keys)
    return {
        "rank": (own_rank(), num_ranks()),
        "by_key": (keys_by_key, numbers_by_key, vectors_by_key),
        "to_rank_0": to_rank_0([numbers, vectors]),
        "together": [fails_on(ranks), fails_on(ranks, 1), fails_on(ranks, 2, 1)],
        "after an error": together(lambda: ranks.rank),
    }


@pytest.fixture(scope="module")
def results():
    return run(exchange_all, 3)


def test_ranks_are_those_of_the_process_group(results):
    assert [result["rank"] for result in results] == [(0, 3), (1, 3), (2, 3)]
    assert (own_rank(), num_ranks()) == (0, 1)


def test_rows_of_one_key_meet_on_one_rank_and_no_row_is_lost(results):
    keys = [result["by_key"][0] for result in results]
    known = [set(found[found != NULL_ID].tolist()) for found in keys]
    assert not known[0] & known[1]
    assert not known[0] & known[2]
    assert not known[1] & known[2]
    sent = {(n, k) for rank in range(3) for k, n, _ in zip(*own_rows(rank), strict=True)}
    arrived = [
        (number, key)
        for result in results
        for key, number in zip(*(column.tolist() for column in result["by_key"][:2]), strict=True)
    ]
    assert sorted(arrived) == sorted((int(n), int(k)) for n, k in sent)
    assert len(arrived) == sum(SIZES)


def test_columns_stay_beside_each_other(results):
    for result in results:
        _, numbers, vectors = result["by_key"]
        torch.testing.assert_close(vectors, torch.stack([numbers, -numbers], dim=1).float())


def test_rows_without_a_key_stay_where_they_are(results):
    for rank, result in enumerate(results):
        keys, numbers, _ = own_rows(rank)
        arrived_keys, arrived, _ = result["by_key"]
        assert arrived[arrived_keys == NULL_ID].tolist() == numbers[keys == NULL_ID].tolist()


def test_rank_0_gets_the_rows_of_all_ranks_in_their_order(results):
    numbers, vectors = (
        torch.cat([own_rows(rank)[column] for rank in range(3)]) for column in (1, 2)
    )
    torch.testing.assert_close(results[0]["to_rank_0"], [numbers, vectors])
    for result in results[1:]:
        assert [len(column) for column in result["to_rank_0"]] == [0, 0]


def test_an_error_of_one_rank_is_raised_on_every_rank_and_none_is_left_waiting(results):
    for result in results:
        assert result["together"] == [
            [0, 1, 2],
            "rank 1 has found something",
            "rank 1 has found something",
        ]
        assert result["after an error"] == [0, 1, 2]


def test_mixing_is_that_of_splitmix64():
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 1234567890123456789])
    expected = mix64(keys.numpy().view(np.uint64)).view(np.int64)
    assert mixed(keys).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "keys",
    [
        torch.arange(30_000),
        -torch.arange(30_000) * 8,
        torch.arange(30_000) * 2**33,
        torch.arange(30_000) << 48,
    ],
    ids=["consecutive", "negative multiples of 8", "multiples of 2^33", "high bits only"],
)
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_regular_keys_spread_evenly(keys, world_size):
    counts = torch.bincount(rank_of(keys, world_size), minlength=world_size)
    # Six standard deviations of throwing dice.
    spread = 6 * (len(keys) / world_size) ** 0.5
    assert (counts - len(keys) / world_size).abs().max() < spread
