"""Runs a compiled pipeline on this machine with kfp.local, and repairs what kfp.local gets wrong.

Of kfp 2.17.0, each with a test that fails without the repair:

* the subprocess runner writes its Python's path wherever ``python3`` occurs, in user's values too;
* a step that fails is reported by name only, without its error;
* a step's output is indented, which breaks what reads its lines; Ctrl-C leaves the step running;
* a run gets a random id, so one that is started again over its run_dir would be another to MLflow;
* an output with a long metadata, such as a curve, fills the screen;
* a condition on a named output of a step is not resolved, and what it guards is silently skipped.

kfp.local also deletes the workspace folder one passes it: none is ever passed.
"""

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kfp import components, dsl, local
from kfp.local import logging_utils, subprocess_task_handler
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from components import child
from components.steps import StepFailedError
from tzrec_core.run_dir import RunDir, new_run_id

_BOOLEANS = {"true": True, "false": False}


def run(yaml_path: Path, values: Mapping[str, str], *, env: Mapping[str, str]) -> RunDir:
    """Runs a compiled pipeline and returns its run directory.

    Args:
        yaml_path: What ``python -m pipelines compile`` wrote.
        values: The pipeline's parameters as text. Without a ``run_dir`` the run gets one of its
            own in ``runs``.
        env: Added to the environment of every step.

    Raises:
        ValueError: No such pipeline, or a parameter is unknown, missing or of the wrong type.
        StepFailedError: A step failed; the message is the step's own error.
    """
    text = _text(yaml_path)
    if values.get("run_dir"):
        run_dir = RunDir(values["run_dir"])
        run_id = run_dir.read_info().pipeline_run_id if run_dir.has_info() else new_run_id()
    else:
        run_id = new_run_id()
        run_dir = RunDir(Path("runs") / run_id)
    pipeline = _load(text.replace(dsl.PIPELINE_JOB_ID_PLACEHOLDER, run_id), yaml_path)
    inputs = pipeline.pipeline_spec.root.input_definitions.parameters
    arguments = typed_arguments({**values, "run_dir": str(run_dir.path)}, inputs)
    failures: list[str] = []
    with repaired_kfp_local(env, failures):
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(run_dir.path / "kfp"),
        )
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            if not failures:
                raise
            raise StepFailedError(failures[-1]) from error
    if failures:  # a condition that could not be evaluated does not end a run by itself
        raise StepFailedError(failures[-1])
    return run_dir


def typed_arguments(values: Mapping[str, str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters of a pipeline in the types that its inputs have.

    Args:
        values: The parameters as text.
        inputs: The ``ParameterSpec`` of each input.

    Raises:
        ValueError: A parameter is unknown, missing or of the wrong type.
    """
    unknown = sorted(values.keys() - inputs.keys())
    if unknown:
        raise ValueError(
            f"the pipeline has no parameter {unknown[0]!r}; it has {', '.join(sorted(inputs))}"
        )
    missing = [name for name, spec in inputs.items() if name not in values and not spec.is_optional]
    if missing:
        raise ValueError(f"the pipeline needs {', '.join(f'{name}=...' for name in missing)}")
    return {
        name: _typed(name, value, inputs[name].parameter_type) for name, value in values.items()
    }


@contextmanager
def repaired_kfp_local(env: Mapping[str, str], failures: list[str]) -> Iterator[None]:
    """Replaces functions of kfp.local while a pipeline runs.

    Args:
        env: Added to the environment of every step.
        failures: Gets what went wrong in each step that fails.
    """

    def run_step(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        ended = child.run(full_command, env={**env, **(env_vars or {})})
        if ended.code != 0:
            failures.append(f"{_task(full_command)} failed: {child.error_of(ended.lines)}")
        return ended.code

    def output_of(reference: str, outputs: Any) -> Any:
        task, _, key = reference.removeprefix("pipelinechannel--").partition("-")
        while key:
            try:
                return outputs.get_task_output(task, key)
            except ValueError:  # names of tasks have hyphens, as what joins them to an output's
                more, _, key = key.partition("-")
                task = f"{task}-{more}"
        failures.append(f"a condition needs {reference}, which no step has put out")
        return None

    def artifact_line(artifact: dsl.Artifact) -> list[str]:
        return [f"{type(artifact).__name__} {artifact.uri}"]

    def text_without_color(text: str, color: str) -> str:
        return text

    with ExitStack() as stack:
        for owner, name, replacement in (
            (subprocess_task_handler, "replace_python_executable", with_this_python),
            (subprocess_task_handler, "run_local_subprocess", run_step),
            (logging_utils, "make_log_lines_for_artifact", artifact_line),
            (ConditionEvaluator, "_resolve_pipeline_channel", output_of),
        ):
            stack.enter_context(_replaced(owner, name, replacement))
        if not sys.stdout.isatty():
            stack.enter_context(_replaced(logging_utils, "color_text", text_without_color))
        # It asks whether the image has a Python, which no image is started to answer.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="You may be attemp")
        yield


def with_this_python(full_command: Sequence[str], new_executable: str) -> list[str]:
    """Returns the command with ``new_executable`` for the program, if that is Python."""
    program, *arguments = full_command
    return [new_executable if program in ("python", "python3") else program, *arguments]


@contextmanager
def _replaced(owner: object, name: str, replacement: object) -> Iterator[None]:
    original = getattr(owner, name)  # a kfp without it must not pass for repaired
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


def _text(yaml_path: Path) -> str:
    try:
        return yaml_path.read_text()
    except OSError as error:
        raise ValueError(f"{yaml_path} cannot be read: {error.strerror}") from error


def _load(text: str, yaml_path: Path) -> Any:
    """Returns the pipeline as a function."""
    try:
        return components.load_component_from_text(text)
    # kfp parses YAML, JSON and protobuf here, and says nothing of what it raises.
    except Exception as error:
        raise ValueError(
            f"{yaml_path} is not a compiled pipeline; `python -m pipelines compile` writes one"
        ) from error


def _typed(name: str, value: str, kind: int) -> Any:
    try:
        match kind:
            case ParameterType.NUMBER_INTEGER:
                return int(value)
            case ParameterType.NUMBER_DOUBLE:
                return float(value)
            case ParameterType.BOOLEAN:
                return _BOOLEANS[value.lower()]
            case _:
                return value
    except (ValueError, KeyError):
        expected = ParameterType.ParameterTypeEnum.Name(kind)
        raise ValueError(f"parameter {name} must be of type {expected}, got {value!r}") from None
