"""Reads the parameters of a pipeline run, given as text, and checks which go together."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from components.launch_train import settings

_LAUNCHERS = ("local", "pytorchjob", "trainjob")
_BOOLEANS = {"true": True, "false": False}


def typed_arguments(values: Mapping[str, str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters of a pipeline in the types that its inputs have.

    Args:
        values: The parameters as text; lists and dictionaries as JSON.
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


def check_workers(arguments: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Checks what is said of the training's processes; a pipeline without a launcher passes.

    Args:
        arguments: What ``typed_arguments`` has returned; the pipeline's defaults are the rest.
        inputs: As there.

    Raises:
        ValueError: There is no such launcher, a number is less than 1, ``worker_json`` is wrong,
            or workers are described that the launcher has none of.
    """
    if "launcher" not in inputs:
        return
    defaults = {name: json_format.MessageToDict(i.default_value) for name, i in inputs.items()}
    given = {**defaults, **arguments}
    launcher, num_workers = given["launcher"], given.get("num_workers", 1)
    worker_json = given.get("worker_json", "")
    if launcher not in _LAUNCHERS:
        raise ValueError(f"launcher must be one of {', '.join(_LAUNCHERS)}, got {launcher!r}")
    for name in ("num_workers", "num_processes"):
        if given.get(name, 1) < 1:
            raise ValueError(f"{name} must be at least 1, got {given[name]}")
    settings.parse(worker_json)
    if launcher == "local" and (num_workers != 1 or worker_json):
        name = "num_workers" if num_workers != 1 else "worker_json"
        raise ValueError(
            f"{name} has no effect with launcher=local, which trains in the container of the step: "
            "leave it out, or choose launcher=pytorchjob or launcher=trainjob"
        )


def _typed(name: str, value: str, kind: int) -> Any:
    try:
        match kind:
            case ParameterType.NUMBER_INTEGER:
                return int(value)
            case ParameterType.NUMBER_DOUBLE:
                return float(value)
            case ParameterType.BOOLEAN:
                return _BOOLEANS[value.lower()]
            case ParameterType.LIST:
                return _json(value, list)
            case ParameterType.STRUCT:
                return _json(value, dict)
            case _:
                return value
    except (ValueError, KeyError):
        expected = ParameterType.ParameterTypeEnum.Name(kind)
        raise ValueError(f"parameter {name} must be of type {expected}, got {value!r}") from None


def _json(text: str, kind: type) -> Any:
    value = json.loads(text)
    if not isinstance(value, kind):
        raise ValueError(f"{text} is no {kind.__name__} in JSON")
    return value
