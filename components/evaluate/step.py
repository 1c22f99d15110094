"""Evaluates the checkpoints of a run."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from components import child, experiments, lineage, prepared, provenance
from components.steps import StepFailedError
from tzrec_core import config as configs
from tzrec_core import eval_result
from tzrec_core.data.publish import set_aside
from tzrec_core.evaluation.evaluator import evaluate_checkpoint
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.evaluation.results import describe
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir, identify, write_json


class Outputs(TypedDict):
    """What KFP gets."""

    evaluation: dict[str, Any]


def evaluate(
    *,
    run_dir: str,
    num_processes: int = 1,
    num_checkpoints: int = 0,
    part: int = 0,
    parts: list = [0],  # type: ignore[type-arg]  # noqa: B006  KFP knows lists of no type
    checkpoint_step: int = 0,
) -> Outputs:
    """Evaluates every checkpoint that has no result yet, or one part of them.

    The scored rows stay in ``evaluation/predictions``; ``evaluation/step-<step>.json`` has metrics
    with confidence intervals, of all rows and of slices, and says which checkpoint they are of: a
    result does not count for a later one of the same step. As every checkpoint has its own file,
    parts may run at the same time. ``evaluation/eval_result.txt`` has the results in one place;
    with several parts it is select_best that writes it.

    Args:
        run_dir: A folder that train has filled.
        num_processes: Ranks on this machine that share the rows.
        num_checkpoints: Evaluate only so many of the newest checkpoints; 0: all.
        part: Which of ``parts``: checkpoints are dealt to them in turn.
        parts: Names all parts, [0, 1, 2]: each evaluates a third.
        checkpoint_step: What train has ended with; only the order of the steps needs it.

    Raises:
        ValueError: There is no checkpoint, one is unusable, a number is negative, or ``part`` is
            none of ``parts``.
        StepFailedError: The ranks failed.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    if num_checkpoints < 0:
        raise ValueError(f"num_checkpoints must be at least 0, got {num_checkpoints}")
    place = RunDir(run_dir)
    if not place.checkpoint_steps():
        place.prepared_data()  # the earlier mistake is the one to name
        raise ValueError(f"{place.checkpoints} has no checkpoint; run train on this run_dir first")
    steps = deal(place.checkpoint_steps()[-num_checkpoints:], part=part, parts=parts)
    config = prepared.load(place)
    which = f"{parts.index(part) + 1} of {len(parts)}" if len(parts) > 1 else ""
    with experiments.track("evaluate", place, place.read_info(), config, part=which) as run:
        done = {result.step for result in provenance.results(place)}
        for step in steps:
            if step not in done or not place.predictions(step).exists():
                _evaluate(config, place, step, num_processes=num_processes)
        results = [result for result in provenance.results(place) if result.step in steps]
        if len(parts) == 1:
            provenance.list_results(place)
        number = experiments.counted(len(results), "checkpoint")
        names = ["evaluate", *([f"part {which}"] if which else []), number]
        run.rename(experiments.run_name(*names))
        for result in results:
            run.log_metrics(result.metrics, prefix="eval", step=result.step)
            run.log_artifact(place.result(result.step), "eval")
        fingerprint = place.prepared_data().name
        lineage.log_data(run, {"eval": (place.prepared_data() / "eval", fingerprint)})
        lineage.log_checkpoints(run, place, results, fingerprint)
    return {"evaluation": {"path": str(place.evaluation), "checkpoints": len(results)}}


def deal(steps: Sequence[int], *, part: int, parts: Sequence[int]) -> list[int]:
    """Returns the steps of one part; all parts have equally many, or one more.

    Every part deals alike, whatever is evaluated already, so that a part that is tried again gets
    what it had.

    >>> deal([10, 20, 30, 40, 50], part=7, parts=[3, 7])
    [20, 40]

    Raises:
        ValueError: ``part`` is none of ``parts``, or is in it twice.
    """
    if list(parts).count(part) != 1:
        raise ValueError(f"part must be once in parts, got part {part} and parts {list(parts)}")
    return list(steps[list(parts).index(part) :: len(parts)])


def _evaluate(config: EasyRecConfig, place: RunDir, step: int, *, num_processes: int) -> None:
    """Writes the result of a checkpoint, whose predictions, if there are any, are of an older one.

    The result comes last: until it is there, all is done again.
    """
    checkpoint = place.checkpoint(step)
    identity = identify(checkpoint)
    shutil.rmtree(place.predictions(step), ignore_errors=True)
    with set_aside(place.evaluation) as aside:
        line = aside / "result.txt"
        if num_processes == 1:
            evaluate_checkpoint(
                config,
                checkpoint_path=checkpoint,
                result_path=line,
                predictions_path=place.predictions(step),
            )
        else:
            command = _command(place, step, result=line, num_processes=num_processes)
            ended = child.run(command, env={})
            if ended.code != 0:
                raise StepFailedError(f"evaluation failed: {child.error_of(ended.lines)}")
        (result,) = eval_result.read(line)
    predictions = read_predictions(place.predictions(step), key=bootstrap_key(config))
    found = describe(config, predictions, result.metrics, step=step)
    write_json(place.result(step), {"checkpoint": identity, **found})


def _command(place: RunDir, step: int, *, result: Path, num_processes: int) -> list[str]:
    """Returns the command that scores with several ranks."""
    edits = {**prepared.edits(configs.load(place.config)), "model_dir": str(place.checkpoints)}
    return [
        *(sys.executable, "-u", "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={num_processes}", "-m", "tzrec_core.eval"),
        f"--pipeline_config_path={place.config}",
        f"--eval_input_path={place.prepared_data() / 'eval'}",
        f"--edit_config_json={json.dumps(edits)}",
        f"--checkpoint_path={place.checkpoint(step)}",
        f"--eval_result_filename={result}",
        f"--predictions_path={place.predictions(step)}",
    ]
