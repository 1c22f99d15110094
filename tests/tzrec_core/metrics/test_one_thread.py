import pytest
import torch

from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.xauc import xauc


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@one_thread()
def num_threads_within(*, error=None):
    if error is not None:
        raise error
    with one_thread():
        pass
    return torch.get_num_threads()


def test_there_is_one_thread_within_and_then_as_many_as_before(three_threads):
    assert num_threads_within() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="bad rows"):
        num_threads_within(error=ValueError("bad rows"))
    assert torch.get_num_threads() == 3


def test_a_formula_leaves_the_number_of_threads_as_it_was(three_threads):
    xauc(torch.rand(100_000), torch.rand(100_000))
    with pytest.raises(ValueError, match="NaN"):
        xauc(torch.tensor([torch.nan]), torch.rand(1))
    assert torch.get_num_threads() == 3
