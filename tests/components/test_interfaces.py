"""A step is described three times: its function, its KFP component, its command's flags."""

import inspect
import os
import re
import subprocess
import sys
import typing
from importlib import import_module
from pathlib import Path

import pytest
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from components import cli, steps
from components.container import EXECUTOR_MARKER
from tests.programs import run_without

TYPES = {
    ParameterType.STRING: str,
    ParameterType.NUMBER_INTEGER: int,
    ParameterType.NUMBER_DOUBLE: float,
    ParameterType.BOOLEAN: bool,
    ParameterType.LIST: list,
}
COMPONENTS = Path(cli.__file__).parent


def component(step):
    """Returns the interface of a step's component, and its container."""
    module = import_module(f"components.{step}.component")
    spec = getattr(module, step).pipeline_spec
    (interface,) = spec.components.values()
    (executor,) = spec.deployment_spec["executors"].values()
    return interface, executor["container"]


def test_every_folder_with_a_step_is_a_step():
    folders = {path.parent.name for path in COMPONENTS.glob("*/step.py")}

    assert folders == {path.parent.name for path in COMPONENTS.glob("*/component.py")}
    assert folders == set(steps.STEPS)


@pytest.mark.parametrize("step", steps.STEPS)
def test_a_component_has_the_parameters_of_its_function_and_of_its_command(step):
    function = steps.load(step)
    parameters = inspect.signature(function).parameters
    inputs = component(step)[0].input_definitions.parameters
    flags = [action for action in cli.flags(function)._actions if action.dest != "help"]

    types = {name: parameter.annotation for name, parameter in parameters.items()}
    assert {name: TYPES[spec.parameter_type] for name, spec in inputs.items()} == types
    flag_types = {a.dest: list if a.type is cli.json_list else a.type for a in flags}
    assert flag_types == types
    assert {action.dest for action in flags if action.required} == {
        name for name, parameter in parameters.items() if parameter.default is parameter.empty
    }


@pytest.mark.parametrize("step", steps.STEPS)
def test_a_component_has_the_outputs_that_its_function_returns(step):
    returned = typing.get_type_hints(steps.load(step))["return"]
    outputs = component(step)[0].output_definitions

    assert {*outputs.parameters, *outputs.artifacts} == returned.__annotations__.keys()
    for name, spec in outputs.parameters.items():
        assert returned.__annotations__[name] is TYPES[spec.parameter_type]


@pytest.mark.parametrize("step", steps.STEPS)
def test_a_component_runs_its_step_through_the_entry_point_without_a_shell(step):
    container = component(step)[1]

    assert list(container["command"]) == ["python3", "-u", "-m", "components.kfp_entry"]
    assert list(container["args"]) == [step, EXECUTOR_MARKER, "{{$}}"]


@pytest.mark.parametrize("step", steps.STEPS)
def test_every_parameter_is_described(step):
    function = steps.load(step)
    documented = set(re.findall(r"^    (\w+): ", inspect.getdoc(function), flags=re.MULTILINE))

    assert inspect.signature(function).parameters.keys() <= documented


def test_images_are_named_by_the_environment_when_the_pipeline_is_compiled():
    code = "from components.images import RUNTIME_IMAGE; print(RUNTIME_IMAGE)"
    images = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **env}, text=True, capture_output=True,
        ).stdout.strip()
        for env in ({}, {"TZREC_IMAGE": "registry/x@sha256:1"})
    ]  # fmt: skip

    assert re.fullmatch(r"tzrec-pipelines/runtime:\d+\.\d+\.\d+", images[0])
    assert images[1] == "registry/x@sha256:1"


def test_compiling_imports_neither_torch_nor_the_library_that_steps_use(tmp_path):
    program = (
        "from pipelines.__main__ import main\n"
        f"main(['compile', '--output={tmp_path / 'pipeline.yaml'}'])"
    )
    run_without(["torch", "torchrec", "pyarrow", "mlflow"], program)

    assert (tmp_path / "pipeline.yaml").exists()


IN_RUNTIME_ONLY = [
    "torch", "torchrec", "pyarrow", "numpy", "pandas", "psutil", "xxhash", "jinja2", "matplotlib",
    "tensorboard", "sklearn",
]  # fmt: skip


def test_the_launcher_runs_in_an_image_without_torch_and_arrow():
    program = "from components.cli import main; main(['launch_train', '--help'])"

    assert "--worker_json" in run_without([*IN_RUNTIME_ONLY, "kfp", "docker"], program)


def test_entry_points_import_only_the_standard_library_before_they_expect_a_signal():
    code = (
        "import sys; import components.kfp_entry, components.cli, components.train.worker\n"
        "third = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(third))"
    )
    command = [sys.executable, "-S", "-c", code]  # without site-packages
    env = {**os.environ, "PYTHONPATH": str(COMPONENTS.parent)}
    shown = subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout

    assert set(shown.split()) <= {"components", "tzrec_core", "__main__", "sitecustomize"}


@pytest.mark.parametrize("path", sorted(COMPONENTS.glob("*/*.py")), ids=str)
def test_components_know_nothing_of_the_library_and_steps_nothing_of_kfp(path):
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), flags=re.MULTILINE))

    forbidden = {"component.py": {"tzrec_core", "torch"}}.get(path.name, {"kfp"})
    assert not imported & forbidden
