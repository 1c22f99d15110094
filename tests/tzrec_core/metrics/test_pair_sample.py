from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tzrec_core.metrics.pair_sample import pair_of, permuted


def permutation(size, key):
    number = torch.arange(size)
    return permuted(number, torch.full_like(number, size), torch.full_like(number, key))


@given(st.integers(1, 400), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_every_key_permutes(size, key):
    assert permutation(size, key).sort().values.tolist() == list(range(size))


def test_a_large_permutation_takes_no_number_twice():
    drawn = permutation(3_000_000, 7)
    assert drawn.min() >= 0
    assert drawn.max() < 3_000_000
    assert len(drawn.unique()) == 3_000_000


def test_permutations_of_different_sizes_and_keys_are_drawn_at_once():
    sizes, keys = torch.tensor([1, 2, 45, 46, 1 << 40]), torch.tensor([3, 3, 5, -5, 0])
    number = torch.tensor([0, 1, 44, 0, 12345])
    together = permuted(number, sizes, keys)
    one_by_one = [permuted(number[[i]], sizes[[i]], keys[[i]]).item() for i in range(5)]
    assert together.tolist() == one_by_one


@pytest.mark.parametrize("size", [3, 10, 45, 1000])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_number_goes_everywhere_equally_often_over_the_keys(size, number):
    keys = torch.arange(20_000)
    drawn = permuted(torch.full_like(keys, number), torch.full_like(keys, size), keys)
    assert chisquare(torch.bincount(drawn, minlength=size)).pvalue > 1e-3


@pytest.mark.parametrize("size", [6, 15])
def test_two_numbers_go_to_all_pairs_of_places_equally_often_over_the_keys(size):
    keys = torch.arange(50_000)
    sizes = torch.full_like(keys, size)
    first, second = (permuted(torch.full_like(keys, n), sizes, keys) for n in (0, 1))
    counts = torch.bincount(first * size + second, minlength=size * size).view(size, size)
    assert (counts.diagonal() == 0).all()
    assert chisquare(counts[~torch.eye(size, dtype=torch.bool)]).pvalue > 1e-3


def test_small_numbers_are_all_pairs_in_order():
    i, j = pair_of(torch.arange(45))
    expected = sorted(combinations(range(10), 2), key=lambda pair: pair[::-1])
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected


# From 4097 rows on float32 can no longer tell neighbouring pairs apart, from 2**27 on float64.
@pytest.mark.parametrize("num_rows", [4097, 6000, 100_000, 10**9])
def test_first_and_last_pair_of_every_row_are_right(num_rows):
    j = torch.arange(max(1, num_rows - 200_000), num_rows)
    first = j * (j - 1) // 2
    for number, row in ((first, torch.zeros_like(j)), (first + j - 1, j - 1)):
        smaller, larger = pair_of(number)
        assert torch.equal(smaller, row)
        assert torch.equal(larger, j)


@pytest.mark.parametrize("num_rows", [4097, 6000, 100_000])
def test_drawn_pairs_are_of_different_rows_that_there_are(num_rows):
    number = torch.arange(1_000_000)
    size = torch.full_like(number, num_rows * (num_rows - 1) // 2)
    i, j = pair_of(permuted(number, size, torch.zeros_like(number)))
    assert (i >= 0).all()
    assert (i < j).all()
    assert (j < num_rows).all()
