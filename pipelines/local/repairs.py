"""Repairs what kfp.local gets wrong.

Of kfp 2.17.0, each with a test that fails without the repair:

* the subprocess runner writes its Python's path wherever ``python3`` occurs, in user's values too;
* the Docker runner takes a container that fails at once for one that has succeeded, runs what is
  another image's entry point, and leaves the container running when it is stopped;
* a step that fails is reported by name only, without its error, and tried again for minutes if the
  cluster is to do so: here nothing is preempted, it would fail in the same way;
* a step's output is indented, which breaks what reads its lines; Ctrl-C leaves the step running;
* the tasks of a loop run two at a time in threads that no signal reaches and write into each
  other's lines: they run one after the other, each with the machine for itself;
* what a task in a loop gets of a step before the loop is replaced by the loop's item;
* a run gets a random id, so one that is started again over its run_dir would be another to MLflow;
* an output with a long metadata, such as a curve, fills the screen;
* a condition on a named output of a step, or on a parameter of the pipeline, is not resolved, and a
  text with a quote in it breaks it: what it guards is silently skipped;
* each task warns of the settings that only a cluster knows.

kfp.local also deletes the workspace folder one passes it: none is ever passed.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.local import docker_task_handler, logging_utils, subprocess_task_handler
from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor, task_spec_utils
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator, ParallelExecutor
from kfp.local.status import Status

from components import child

RunStep = Callable[[str, Sequence[str], Mapping[str, str]], child.Ended]
"""Runs a command of an image, with some environment, to its end, showing what it writes."""

_CHANNEL = "pipelinechannel--"


@contextmanager
def repaired_kfp_local(run_step: RunStep, failures: list[str]) -> Iterator[None]:
    """Replaces functions of kfp.local while a pipeline runs.

    Args:
        run_step: Runs the container of a step, or what stands for it.
        failures: Gets what went wrong in each step that fails.
    """

    def run_task(handler: Any) -> Status:
        ended = run_step(handler.image, handler.full_command, handler.env_vars)
        if ended.code == 0:
            return Status.SUCCESS
        failures.append(f"{_task(handler.full_command)} failed: {child.error_of(ended.lines)}")
        return Status.FAILURE

    def value_of(reference: str, store: Any) -> Any:
        value = _resolved(reference.removeprefix(_CHANNEL), store)
        if value is None:
            failures.append(f"a condition needs {reference}, which no step has put out")
        return _unmistakable(value) if isinstance(value, str) else value

    def artifact_line(artifact: dsl.Artifact) -> list[str]:
        return [f"{type(artifact).__name__} {artifact.uri}"]

    def text_without_color(text: str, color: str) -> str:
        return text

    with ExitStack() as stack:
        for owner, name, replacement in (
            (subprocess_task_handler.SubprocessTaskHandler, "run", run_task),
            (docker_task_handler.DockerTaskHandler, "run", run_task),
            (task_executor, "execute_single_task", _without_retries),
            (ParallelExecutor, "execute_parallel_tasks", _one_after_the_other),
            (task_spec_utils, "create_parameter_loop_iteration_task_spec", _iteration),
            (logging_utils, "make_log_lines_for_artifact", artifact_line),
            (ConditionEvaluator, "_resolve_pipeline_channel", value_of),
        ):
            stack.enter_context(_replaced(owner, name, replacement))
        if not sys.stdout.isatty():
            stack.enter_context(_replaced(logging_utils, "color_text", text_without_color))
        stack.enter_context(warnings.catch_warnings())
        # It asks whether the image has a Python, which no image is started to answer.
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="You may be attemp")
        warnings.filterwarnings("ignore", category=UserWarning, message="Task .* have no effect")
        yield


def with_this_python(command: Sequence[str]) -> list[str]:
    """Returns the command with this process's Python for the program, if that is Python."""
    program, *arguments = command
    return [sys.executable if program in ("python", "python3") else program, *arguments]


_execute_single_task = task_executor.execute_single_task


def _without_retries(*, task_spec: Any, **others: Any) -> Any:
    once = type(task_spec)()
    once.CopyFrom(task_spec)
    once.ClearField("retry_policy")
    return _execute_single_task(task_spec=once, **others)


def _one_after_the_other(
    _: ParallelExecutor,
    tasks: Sequence[tuple[str, Any]],
    *,
    io_store: Any,
    fail_stack: list[str],
    parallelism_limit: int = 0,
    **others: Any,
) -> tuple[dict[str, Any], Status]:
    """Does what ``execute_parallel_tasks`` does, in this thread; the first failure is the last."""
    all_outputs: dict[str, Any] = {}
    for name, task_spec in tasks:
        outputs, status = enhanced_dag_orchestrator.execute_task(
            task_name=name, task_spec=task_spec, io_store=io_store, fail_stack=fail_stack, **others
        )
        if status == Status.FAILURE:
            fail_stack.append(name)
            return {}, Status.FAILURE
        all_outputs[name] = outputs
        for key, output in outputs.items():
            io_store.put_task_output(name, key, output)
    return all_outputs, Status.SUCCESS


_create_iteration = task_spec_utils.create_parameter_loop_iteration_task_spec


def _iteration(loop: Any, item: Any, name: str) -> Any:
    task_spec = _create_iteration(loop, item, name)
    for parameter, source in loop.inputs.parameters.items():
        if source.HasField("task_output_parameter"):
            task_spec.inputs.parameters[parameter].CopyFrom(source)
    return task_spec


def _resolved(name: str, store: Any) -> Any:
    """Returns what a condition names: a parameter, or a task and an output; None if neither is."""
    for key in (name, _CHANNEL + name):  # of the pipeline, of a part of it
        try:
            return store.get_parent_input(key)
        except ValueError:
            continue
    task, _, key = name.partition("-")
    while key:
        try:
            return store.get_task_output(task, key)
        except ValueError:  # names of tasks have hyphens, as what joins them to an output's
            more, _, key = key.partition("-")
            task = f"{task}-{more}"
    return None


def _unmistakable(text: str) -> str:
    """Returns what means ``text`` between quotes, without anything that kfp.local would replace."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text)


@contextmanager
def _replaced(owner: object, name: str, replacement: object) -> Iterator[None]:
    original = vars(owner)[name]  # a kfp without it must not pass for repaired
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _task(full_command: Sequence[str]) -> str:
    """Returns the name of the task that a command runs, from the executor input among its parts."""
    for part in full_command:
        if part.startswith("{") and '"outputFile"' in part:
            # kfp.local has a folder for each task.
            return Path(json.loads(part)["outputs"]["outputFile"]).parent.name
    return "a step"
