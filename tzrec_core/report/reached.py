"""How much of what is possible a metric has reached."""

import math

_UNINFORMED = 0.5


def share_reached(value: float | None, best_possible: float | None) -> float:
    """Returns how far a metric has come from 0.5, which knowing nothing gives, to the best.

    It is NaN if one of the two is not known, or if the best is 0.5.
    """
    if value is None or best_possible is None or best_possible == _UNINFORMED:
        return math.nan
    return (value - _UNINFORMED) / (best_possible - _UNINFORMED)
