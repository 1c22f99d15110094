"""Which results count: a step's number says little, training may have begun again."""

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult
from tzrec_core.run_dir import RunDir


def results(place: RunDir) -> list[EvalResult]:
    """Returns the results of the checkpoints that there are, in the order of their steps.

    Those of a checkpoint that is gone do not count, whether or not another has its number now.
    """
    found = [place.read_result(step) for step in place.checkpoint_steps()]
    return [eval_result.from_json(content) for content in found if content is not None]


def list_results(place: RunDir) -> None:
    """Writes all ``results`` into one file, one line each, in the place of an older one."""
    eval_result.write(place.eval_result, results(place))
