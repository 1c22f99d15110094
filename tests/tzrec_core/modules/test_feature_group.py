import pytest
import torch

from tzrec_core.modules.feature_group import Concat, FeatureGroup, WideSum

DENSE = [torch.full((2, 1), 1.0), torch.full((2, 3), 2.0), torch.full((2, 2), 3.0)]
SPARSE = [torch.full((2, 4), 10.0), torch.full((2, 4), 20.0), torch.full((2, 4), 30.0)]


def test_concat_puts_the_members_and_no_others_side_by_side():
    group = FeatureGroup("g", dense=[2, 0], dense_widths=[2, 1], sparse=[1], sparse_dims=[4])
    outputs = Concat(group)(DENSE, SPARSE)
    assert outputs.tolist() == [[3.0, 3.0, 1.0, 20.0, 20.0, 20.0, 20.0]] * 2
    assert group.width == outputs.size(1)


def test_wide_sum_adds_embeddings_and_a_linear_map_of_dense_members():
    group = FeatureGroup("g", dense=[0, 1], dense_widths=[1, 3], sparse=[0, 2], sparse_dims=[4, 4])
    wide = WideSum(group, embedding_dim=4)
    assert wide.linear.bias is None
    by_hand = 40.0 + wide.linear.weight @ torch.tensor([1.0, 2.0, 2.0, 2.0])
    torch.testing.assert_close(wide(DENSE, SPARSE), by_hand.expand(2, 4))


def test_wide_sum_of_embeddings_only_has_no_parameters():
    wide = WideSum(FeatureGroup("g", sparse=[0, 1], sparse_dims=[4, 4]), embedding_dim=4)
    assert not list(wide.parameters())
    torch.testing.assert_close(wide(DENSE, SPARSE), torch.full((2, 4), 30.0))


@pytest.mark.parametrize("dims", [[4, 8], []])
def test_embeddings_without_one_size_are_refused_by_group(dims):
    group = FeatureGroup("fm", sparse=range(len(dims)), sparse_dims=dims)
    with pytest.raises(ValueError, match=r"'fm'.*embedding_dim"):
        group.common_dim()
