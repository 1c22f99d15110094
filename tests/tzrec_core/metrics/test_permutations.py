import pytest
import torch

from tzrec_core.metrics.permutations import count_smaller_before


def count_by_hand(permutation):
    smaller = permutation[None, :] < permutation[:, None]
    return smaller.tril(diagonal=-1).sum(dim=1)


# Around the length up to which all pairs are compared, and around powers of 2.
@pytest.mark.parametrize("size", [0, 1, 2, 3, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096, 4097])
def test_a_random_permutation_is_counted_as_by_looking_at_every_pair(size):
    permutation = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    assert torch.equal(count_smaller_before(permutation), count_by_hand(permutation))


@pytest.mark.parametrize("size", [100, 1000, 5000])
def test_permutations_with_all_entries_in_few_cells_are_counted(size):
    up = torch.arange(size)
    shuffled = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    nearly_up = (up + shuffled * 1e-2).argsort()
    assert torch.equal(count_smaller_before(up), up)
    assert not count_smaller_before(up.flip(0)).any()
    for permutation in (nearly_up, nearly_up.flip(0), up.roll(size // 3), up * 7919 % size):
        assert len(permutation.unique()) == size
        assert torch.equal(count_smaller_before(permutation), count_by_hand(permutation))


def test_a_permutation_of_several_levels_and_its_reverse_share_all_pairs():
    # 2^17 and more entries make chunks of 2^9, which are too long to compare all pairs.
    size = 2**17 + 1234
    permutation = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    before = count_smaller_before(permutation)
    after = count_smaller_before(permutation.flip(0)).flip(0)
    assert torch.equal(before + after, permutation)  # as many are smaller as the entry's value


def test_the_permutation_is_left_as_it_was():
    permutation = torch.randperm(4096)
    before = permutation.clone()
    count_smaller_before(permutation)
    assert torch.equal(permutation, before)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [100, 5000, 2**20 + 1])
def test_a_gpu_counts_as_a_cpu_does(size):
    permutation = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    expected = count_smaller_before(permutation)
    assert torch.equal(count_smaller_before(permutation.cuda()).cpu(), expected)
