import pytest
import torch

from tzrec_core.optim.precision import autocast_dtype, tf32


def switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("cudnn", [False, True])
def test_tf32_is_what_was_asked_for_and_then_what_it_was_before(matmul, cudnn):
    before = switches()

    with tf32(matmul=matmul, cudnn=cudnn):
        assert switches() == (matmul, cudnn)

    assert switches() == before


def test_tf32_is_what_it_was_before_after_an_error():
    before = switches()

    with pytest.raises(KeyError), tf32(matmul=not before[0], cudnn=not before[1]):
        raise KeyError

    assert switches() == before


def test_precisions_have_torchs_types():
    assert autocast_dtype("") is None
    assert autocast_dtype("BF16") is torch.bfloat16
    assert autocast_dtype("FP16") is torch.float16
    with pytest.raises(ValueError, match="must be one of BF16, FP16, got 'FP8'"):
        autocast_dtype("FP8")
