"""Says loudly when a metric has no value.

Binned metrics count bad rows while they are updated, which needs no wait for the device, and raise
when computed, which waits for it anyway.
"""

import warnings

from torch import Tensor


def refuse_nan(name: str, num_nan: Tensor) -> None:
    """Raises ValueError if there were NaN predictions or targets."""
    if num_nan > 0:
        raise ValueError(f"{name}: {num_nan:.0f} predictions or targets are NaN")


def refuse_not_binary(name: str, num_rows: Tensor) -> None:
    """Raises ValueError if there were targets other than 0 and 1."""
    if num_rows > 0:
        raise ValueError(f"{name}: {num_rows:.0f} targets are neither 0 nor 1")


def warn_if_nan(name: str, value: Tensor, reason: str) -> Tensor:
    """Returns the 0-d ``value``; warns that there is none, and why, if it is NaN."""
    if value.isnan():
        warnings.warn(f"{name} is NaN: {reason}", stacklevel=3)
    return value
