import numpy as np
import pytest
import torch

from tzrec_core.modules.quantization import dequantize_rows, half_rows, quantize_rows


@pytest.fixture
def weight():
    """Rows of very different scales, one of equal numbers, one of zeros."""
    rows = torch.randn(300, 13, generator=torch.Generator().manual_seed(0))
    rows *= torch.logspace(-30, 30, 300).unsqueeze(1)
    rows[7], rows[8] = 0.3, 0
    return rows


def test_no_number_moves_by_more_than_half_a_step(weight):
    codes, scale, offset = quantize_rows(weight)

    error = (dequantize_rows(codes, scale, offset) - weight).abs().double()
    step = (weight.amax(1) - weight.amin(1)).double() / 255
    largest = weight.abs().amax(1).double()
    assert (error <= (0.5 * step + 1e-6 * largest).unsqueeze(1)).all()
    assert error.amax() > 0
    assert codes.dtype == torch.uint8


def test_a_row_of_equal_numbers_does_not_change(weight):
    assert torch.equal(dequantize_rows(*quantize_rows(weight))[7:9], weight[7:9])


def test_quantized_rows_are_those_of_torch(weight):
    ours = dequantize_rows(*quantize_rows(weight))

    packed = torch.ops.quantized.embedding_bag_byte_prepack(weight)
    theirs = torch.ops.quantized.embedding_bag_byte_unpack(packed)
    step = (weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)) / 255
    # Its step has 1e-8 added where ours has none, so small rows round otherwise.
    ordinary = step.squeeze(1) > 1e-3
    same = (ours - theirs).abs() <= 1e-4 * step
    assert same[ordinary].float().mean() > 0.999
    assert ((ours - theirs).abs() <= 1.01 * step)[ordinary].all()


def test_float16_is_that_of_numpy_and_too_large_numbers_are_refused(weight):
    small = weight[:150]

    assert np.array_equal(half_rows(small).numpy(), small.numpy().astype(np.float16))
    with pytest.raises(ValueError, match=r"up to 65504, the largest is 70000"):
        half_rows(torch.tensor([[1.0, -70000.0]]))


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_refused(number):
    with pytest.raises(ValueError, match="not finite"):
        quantize_rows(torch.tensor([[1.0, 2.0], [number, 1.0]]))
