"""Runs a step inside its container: KFP's executor input in, executor output out.

``python3 -m components.kfp_entry <step> kfp.dsl.executor_main '<executor input as JSON>'``

It needs the standard library only: the images have no kfp.
"""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components import steps

_MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
"""Where KFP's launcher mounts object stores."""


def main(argv: Sequence[str] | None = None) -> None:
    """Calls the step and writes its outputs where the executor input says."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 3:
        raise ValueError(
            "kfp_entry takes a step, a marker and the executor input; "
            f"got {len(arguments)} arguments"
        )
    name, _, executor_input = arguments
    step = steps.load(name)
    message = json.loads(executor_input)
    parameters = message.get("inputs", {}).get("parameterValues", {})
    # Input artifacts order the steps and show on KFP's page; what they stand for is in run_dir.
    result = step(**_typed(step, parameters))
    write_outputs(message["outputs"], result)


def write_outputs(outputs: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Writes a step's result as KFP expects it.

    An artifact's file, which KFP shows and stores, is a page, or has the artifact's metadata.

    Args:
        outputs: the ``outputs`` of the executor input.
        result: see ``steps.Step``.
    """
    parameters = outputs.get("parameters", {})
    artifacts = outputs.get("artifacts", {})
    expected, got = {*parameters, *artifacts}, set(result)
    assert expected == got, f"outputs {expected} of the component, {got} of the step"
    for name, place in parameters.items():
        value = result[name]
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        _write(place["outputFile"], text)
    written = {}
    for name, places in artifacts.items():
        page = result[name] if isinstance(result[name], steps.Page) else None
        metadata = {} if page else dict(result[name])
        artifact = {**places["artifacts"][0], "metadata": metadata}
        text = page.path.read_text() if page else json.dumps(metadata, allow_nan=False, indent=1)
        _write(_path(artifact), text)
        written[name] = {"artifacts": [artifact]}
    values = {name: result[name] for name in parameters}
    message = {"parameterValues": values, "artifacts": written}
    _write(outputs["outputFile"], json.dumps(message, allow_nan=False))


def _typed(step: steps.Step, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the step's parameters in its types; JSON from KFP may have 2.0 for the integer 2.

    Other values are not the step's: KFP adds those of a task's Kubernetes settings to its inputs.
    """
    types = {name: p.annotation for name, p in inspect.signature(step).parameters.items()}
    return {
        name: _whole(value) if types[name] is list else types[name](value)
        for name, value in values.items()
        if name in types
    }


def _whole(values: list[Any]) -> list[Any]:
    """Returns a list with integers for its whole numbers."""
    return [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]


def _path(artifact: Mapping[str, Any]) -> str:
    if artifact.get("customPath"):
        return str(artifact["customPath"])
    uri = str(artifact["uri"])
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    return uri


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


if __name__ == "__main__":
    steps.run(main)
