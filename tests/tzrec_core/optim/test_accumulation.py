import dataclasses

import pytest
import torch

from tests.tzrec_core.small_model import Rows
from tzrec_core.optim.accumulation import accumulated

ROWS = Rows(40)


def batches(weights):
    """Returns batches of growing size, as ranks have agreed on them; 0 is one without weight."""
    return iter(
        [
            dataclasses.replace(
                ROWS.batch(0, size),
                normalizer=torch.tensor(weight or 1.0),
                share=torch.tensor(1.0 if weight else 0.0),
            )
            for size, weight in enumerate(weights, start=1)
        ]
    )


def steps(weights, **arguments):
    passed = list(accumulated(batches(weights), **arguments))
    assert [len(batch) for batch in passed] == list(range(1, len(passed) + 1))  # none is lost
    ends = [i for i, batch in enumerate(passed, start=1) if batch.completes_step]
    return [
        [batch.share for batch in passed[start:end]]
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def test_shares_are_parts_of_the_weight_of_the_step():
    assert steps([1, 3, 5, 5, 2], num_batches=2, limit=None) == [[0.25, 0.75], [0.5, 0.5], [1.0]]


def test_every_batch_is_a_step_without_accumulation():
    assert steps([1, 3, 0], num_batches=1, limit=None) == [[None], [None], [None]]


def test_the_limit_ends_a_step():
    assert steps([1, 1, 1, 3, 9], num_batches=3, limit=5) == steps(
        [1, 1, 1, 3, 9, 7, 7], num_batches=3, limit=5
    )
    assert steps([1, 1, 1, 3], num_batches=3, limit=2) == [[0.5, 0.5]]


def test_each_task_has_shares_of_its_own():
    first, second = (
        dataclasses.replace(ROWS.batch(0, 1), normalizer=normalizer, share=torch.tensor([1.0, 0.0]))
        for normalizer in (torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0]))
    )
    second.share = torch.ones(2)

    passed = accumulated(iter([first, second]), num_batches=2, limit=None)

    assert [batch.share.tolist() for batch in passed] == [[0.25, 0.0], [0.75, 1.0]]


def test_batches_without_weight_have_no_share():
    assert steps([0, 4, 0, 0], num_batches=2, limit=None) == [[0.0, 1.0], [0.0, 0.0]]


def test_no_more_batches_are_taken_than_passed_on_and_their_step_needs():
    source = batches([1] * 9)
    passed = accumulated(source, num_batches=2, limit=6)

    next(passed)
    assert len(next(source)) == 3
    list(passed)
    assert len(next(source)) == 8


@pytest.mark.parametrize("num_batches", [1, 3])
def test_no_batch_at_all_is_no_step(num_batches):
    assert list(accumulated(iter([]), num_batches=num_batches, limit=None)) == []
