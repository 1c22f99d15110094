import pytest
import torch
from torch import nn

from tzrec_core.models.serving_tables import rounded, serving_table

LENGTHS = [2, 0, 1, 3, 0]
IDS = torch.tensor([3, 3, 0, 5, 1, 3])
STARTS = torch.tensor([0, 2, 2, 3, 6])
WEIGHTS = torch.tensor([0.5, 2.0, -1.0, 3.0, 0.25, 1.0])
WEIGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("precision", ["FP32", "FP16", "INT8"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_table_pools_the_rows_that_its_precision_holds(precision, weights, mean):
    table = torch.jit.script(serving_table(nn.Parameter(WEIGHT), precision))

    rows = rounded(WEIGHT, precision)
    expected, start = [], 0
    for length in LENGTHS:
        bag = range(start, start + length)
        total = torch.zeros(4)
        for i in bag:
            total += rows[IDS[i]] * (1.0 if weights is None else weights[i])
        expected.append(total / max(length, 1) if mean else total)
        start += length
    found = table(IDS, STARTS, weights, mean)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("precision", "size"), [("FP32", 96), ("FP16", 48), ("INT8", 72)])
def test_a_table_takes_the_memory_of_its_precision(precision, size):
    state = serving_table(nn.Parameter(WEIGHT), precision).state_dict()

    # INT8: 24 codes, and a scale and an offset of 4 bytes for each of 6 rows.
    assert sum(t.numel() * t.element_size() for t in state.values()) == size


@pytest.mark.parametrize("function", [serving_table, rounded])
def test_an_unknown_precision_is_refused(function):
    with pytest.raises(ValueError, match=r"must be FP32, FP16 or INT8, got 'FP8'"):
        function(nn.Parameter(WEIGHT), "FP8")
