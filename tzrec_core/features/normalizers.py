"""The normalizers of raw features."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tzrec_core.features.expression import compile_expression

Numbers = npt.NDArray[np.float64]

SPELLINGS = (
    "method=log10[,threshold=..][,default=..]",
    "method=zscore,mean=..,standard_deviation=..",
    "method=minmax,min=..,max=..",
    "method=expression,expr=..",
)


def log10(x: Numbers, *, threshold: float, default: float) -> Numbers:
    """Returns the decimal logarithm where x > threshold, else ``default``."""
    above = x > threshold
    return np.where(above, np.log10(np.where(above, x, 1.0)), default)


def zscore(x: Numbers, *, mean: float, standard_deviation: float) -> Numbers:
    """Returns (x - mean) / standard_deviation."""
    return (x - mean) / standard_deviation


def minmax(x: Numbers, *, low: float, high: float) -> Numbers:
    """Returns (x - low) / (high - low); values outside the range are not clipped."""
    return (x - low) / (high - low)


def parse_normalizer(text: str) -> Callable[[Numbers], Numbers]:
    """Returns the normalizer that ``text`` describes, in one of ``SPELLINGS``.

    Raises:
        ValueError: The text has another form, or its numbers make no sense.
    """
    method, _, rest = text.strip().partition(",")
    match method.replace(" ", ""):
        case "method=expression" if rest.strip().startswith("expr="):
            return compile_expression(rest.strip().removeprefix("expr="))
        case "method=log10":
            # The two defaults are those of TorchEasyRec's feature generator.
            given = _parameters(text, rest, {"threshold": 1e-10, "default": -10.0})
            threshold, default = given["threshold"], given["default"]
            if threshold < 0:
                raise ValueError(f"normalizer {text!r}: threshold must be 0 or more")
            return lambda x: log10(x, threshold=threshold, default=default)
        case "method=zscore":
            given = _parameters(text, rest, {"mean": None, "standard_deviation": None})
            mean, deviation = given["mean"], given["standard_deviation"]
            if deviation <= 0:
                raise ValueError(f"normalizer {text!r}: standard_deviation must be more than 0")
            return lambda x: zscore(x, mean=mean, standard_deviation=deviation)
        case "method=minmax":
            given = _parameters(text, rest, {"min": None, "max": None})
            low, high = given["min"], given["max"]
            if high <= low:
                raise ValueError(f"normalizer {text!r}: max must be more than min")
            return lambda x: minmax(x, low=low, high=high)
    raise ValueError(f"normalizer must be one of {'; '.join(SPELLINGS)}; got {text!r}")


def _parameters(text: str, rest: str, defaults: dict[str, float | None]) -> dict[str, float]:
    """Returns the numbers in "a=1,b=2"; one whose default is None must be there."""
    values = dict(defaults)
    for part in filter(None, rest.split(",")):
        name, _, value = (side.strip() for side in part.partition("="))
        if name not in defaults:
            raise ValueError(f"normalizer {text!r}: {name!r} must be one of {', '.join(defaults)}")
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = math.nan
        if not math.isfinite(values[name] or 0.0):
            raise ValueError(f"normalizer {text!r}: {name} must be a number, got {value!r}")
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"normalizer {text!r} needs {' and '.join(missing)}")
    return {name: value for name, value in values.items() if value is not None}
