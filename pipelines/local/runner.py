"""Runs a compiled pipeline on this machine, its steps as processes or in their containers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import components, dsl, local

from components import child
from components.steps import StepFailedError
from components.volume import RUNS_VARIABLE
from pipelines.arguments import check_workers, typed_arguments
from pipelines.local.repairs import RunStep, repaired_kfp_local, with_this_python
from tzrec_core.run_dir import RunDir, new_run_id

_OF_CONTAINERS = ("TZREC_IMAGE", RUNS_VARIABLE)


def run(
    yaml_path: Path,
    values: Mapping[str, str],
    *,
    env: Mapping[str, str],
    runner: str = "subprocess",
    mounts: Sequence[Path] = (),
) -> RunDir:
    """Runs a compiled pipeline and returns its run directory.

    Args:
        yaml_path: What ``python -m pipelines compile`` wrote.
        values: The pipeline's parameters as text. Without a ``run_dir`` the run gets one of its
            own in ``runs``.
        env: Added to the environment of every step.
        runner: What steps are: subprocess, processes of this environment; docker, containers of
            their images.
        mounts: What containers may read beside the values that name a file or a folder.

    Raises:
        ValueError: No such pipeline, a parameter is unknown, missing or wrong, or containers
            cannot be run as they are asked for.
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
    check_workers(arguments, inputs)
    if mounts and runner != "docker":
        raise ValueError("--mount is for containers, so it needs --runner docker")
    failures: list[str] = []
    if runner == "subprocess":
        place, kfp_runner = _processes(env), local.SubprocessRunner(use_venv=False)
    else:
        from pipelines.local.docker_runner import containers

        place = containers(run_dir, values, env=env, mounts=mounts)
        kfp_runner = local.DockerRunner()
    with place as run_step, repaired_kfp_local(run_step, failures):
        local.init(runner=kfp_runner, pipeline_root=str(run_dir.path / "kfp"))
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            if not failures:
                raise
            raise StepFailedError(failures[-1]) from error
    if failures:  # a condition that could not be evaluated does not end a run by itself
        raise StepFailedError(failures[-1])
    return run_dir


@contextmanager
def _processes(env: Mapping[str, str]) -> Iterator[RunStep]:
    """Gives what runs a step as a process of this environment, whatever its image is."""

    def run_step(_: str, command: Sequence[str], env_of_step: Mapping[str, str]) -> child.Ended:
        # What it says of its image and of the volume is not true of a process.
        own = {name: value for name, value in env_of_step.items() if name not in _OF_CONTAINERS}
        return child.run(with_this_python(command), env={**env, **own})

    yield run_step


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
