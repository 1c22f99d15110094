import pytest
import torch
from sklearn.metrics import roc_auc_score

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.grouped_auc import grouped_auc


def mean_over_groups(preds, target, keys):
    scores = []
    for key in keys.unique():
        rows = keys == key
        if key != NULL_ID and len(target[rows].unique()) == 2:
            scores.append(roc_auc_score(target[rows], preds[rows]))
    return sum(scores) / len(scores), len(scores)


@pytest.mark.parametrize("levels", [4, 1000])
def test_grouped_auc_is_the_mean_over_groups_with_both_classes(levels):
    generator = torch.Generator().manual_seed(0)
    preds = torch.randint(0, levels, (600,), generator=generator) / levels
    target = torch.randint(0, 2, (600,), generator=generator)
    # From groups of one row to groups of many; negative and huge keys; rows without a key.
    keys = (torch.rand(600, generator=generator) ** 3 * 150).long() * 2**56 - 2**62
    keys[::20] = NULL_ID

    expected, num_groups = mean_over_groups(preds, target, keys)

    assert 10 < num_groups < len(keys.unique()) - 10
    assert grouped_auc(preds, target, keys).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        ([0, 1, 1], [1, 2, 2]),
        ([0, 1, 1], [NULL_ID] * 3),
        ([], []),
    ],
)
def test_without_a_group_of_both_classes_there_is_no_value_and_one_warning(target, keys):
    with pytest.warns(UserWarning, match="no group has both classes") as warned:
        value = grouped_auc(
            torch.rand(len(target)), torch.tensor(target), torch.tensor(keys, dtype=torch.int64)
        )
    assert value.isnan()
    assert len(warned) == 1


def test_nan_predictions_and_labels_other_than_0_and_1_are_refused():
    keys = torch.tensor([1, 1])
    with pytest.raises(ValueError, match="1 predictions"):
        grouped_auc(torch.tensor([0.5, float("nan")]), torch.tensor([0, 1]), keys)
    with pytest.raises(ValueError, match="1 targets"):
        grouped_auc(torch.tensor([0.5, 0.1]), torch.tensor([0, 5]), keys)
