"""Says loudly when a metric has no value.

Binned metrics count bad rows while they are updated, which needs no wait for the device, and raise
when computed, which waits for it anyway.
"""

import math
import warnings

from torch import Tensor


def refuse_nan(name: str, num_nan: Tensor) -> None:
    """Raises ValueError if there were NaN predictions or targets."""
    if num_nan > 0:
        raise ValueError(f"{name}: {_count(num_nan)} predictions or targets are NaN")


def refuse_not_binary(name: str, num_rows: Tensor) -> None:
    """Raises ValueError if there were targets other than 0 and 1."""
    if num_rows > 0:
        raise ValueError(f"{name}: {_count(num_rows)} targets are neither 0 nor 1")


def refuse_not_class(name: str, num_rows: Tensor, num_class: int) -> None:
    """Raises ValueError if there were targets other than 0 .. num_class - 1."""
    if num_class == 2:
        refuse_not_binary(name, num_rows)
    if num_rows > 0:
        raise ValueError(
            f"{name}: {_count(num_rows)} targets are no integers from 0 to {num_class - 1}"
        )


def warn_if_nan(name: str, value: Tensor, reason: str) -> Tensor:
    """Returns the 0-d ``value``; warns that there is none, and why, if it is NaN."""
    if value.isnan():
        warnings.warn(f"{name} is NaN: {reason}", stacklevel=3)
    return value


def _count(num_rows: Tensor) -> int:
    # In training counts fade, but some row there was.
    return math.ceil(num_rows)
