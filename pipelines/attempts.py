"""How often a step is tried on a cluster, and for how long: read when the pipeline is compiled.

KFP has no parameters for either, so that the environment says what a run does not want by default.
"""

import json
import os

from components.launch_train.job import MAX_SECONDS

RETRIES_VARIABLE = "TZREC_RETRIES"
TIMEOUTS_VARIABLE = "TZREC_TIMEOUTS"

_DAY = 24 * 60 * 60
_TIMEOUTS = {
    "prepare_data": 2 * _DAY,
    "train": 14 * _DAY,
    "launch_train": MAX_SECONDS,
    "evaluate": 2 * _DAY,
    "select_best": _DAY // 2,
    "export": _DAY // 2,
}
_RETRIES = 2
_MAX_RETRIES = 10  # before that one, it waits for half a day


def retries() -> int:
    """Returns how often a step that has failed is tried again.

    Raises:
        ValueError: The environment has no such number for it.
    """
    text = os.environ.get(RETRIES_VARIABLE) or str(_RETRIES)
    if not text.isdecimal() or int(text) > _MAX_RETRIES:
        raise ValueError(
            f"{RETRIES_VARIABLE} must be a whole number from 0 to {_MAX_RETRIES}, got {text!r}"
        )
    return int(text)


def timeouts() -> dict[str, int]:
    """Returns the seconds after which each step, if it hangs, is ended and counts as failed.

    Raises:
        ValueError: The environment has no JSON of steps and seconds for it.
    """
    text = os.environ.get(TIMEOUTS_VARIABLE) or "{}"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{TIMEOUTS_VARIABLE} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f'{TIMEOUTS_VARIABLE} must be as {{"train": 86400}}, got {text!r}')
    for step, seconds in given.items():
        if step not in _TIMEOUTS:
            raise ValueError(
                f"{TIMEOUTS_VARIABLE} has no step {step!r}; there are {', '.join(_TIMEOUTS)}"
            )
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
            raise ValueError(
                f"{TIMEOUTS_VARIABLE}: {step} must be a whole number of seconds, got {seconds!r}"
            )
    return _TIMEOUTS | given
