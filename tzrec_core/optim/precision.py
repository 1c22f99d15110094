"""What numbers a training computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DTYPES = {"BF16": torch.bfloat16, "FP16": torch.float16}


def autocast_dtype(mixed_precision: str) -> torch.dtype | None:
    """Returns what matrices are multiplied in, None for float32, which "" stands for."""
    if not mixed_precision:
        return None
    if mixed_precision not in _DTYPES:
        raise ValueError(
            f"mixed_precision must be one of {', '.join(_DTYPES)}, got {mixed_precision!r}"
        )
    return _DTYPES[mixed_precision]


@contextmanager
def tf32(*, matmul: bool, cudnn: bool) -> Iterator[None]:
    """Lets CUDA round the factors of float32 products to 10 bits for the ``with`` block, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
