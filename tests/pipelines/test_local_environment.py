"""What the compiled pipeline tells containers of themselves is not told to processes."""

import json

from kfp import compiler, dsl

from components.container import EXECUTOR_MARKER
from pipelines.local import runner

STEP = """
import json, os, sys
message = json.loads(sys.argv[2])
with open(message["inputs"]["parameterValues"]["run_dir"] + "/env.json", "w") as file:
    json.dump(dict(os.environ), file)
os.makedirs(os.path.dirname(message["outputs"]["outputFile"]), exist_ok=True)
with open(message["outputs"]["outputFile"], "w") as file:
    json.dump({}, file)
"""


@dsl.container_component
def show(run_dir: str):
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


@dsl.pipeline(name="shows-its-environment")
def showing(run_dir: str):
    task = show(run_dir=run_dir)
    for name in ("TZREC_IMAGE", "TZREC_RUNS", "OTHER"):
        task.set_env_variable(name, "of the container")


def test_a_process_is_not_taken_for_the_image_that_it_stands_for(tmp_path, monkeypatch):
    monkeypatch.delenv("TZREC_IMAGE", raising=False)
    monkeypatch.delenv("TZREC_RUNS", raising=False)
    compiler.Compiler().compile(showing, str(tmp_path / "pipeline.yaml"))
    runner.run(tmp_path / "pipeline.yaml", {"run_dir": str(tmp_path)}, env={})

    env = json.loads((tmp_path / "env.json").read_text())
    assert env["OTHER"] == "of the container"
    assert not {"TZREC_IMAGE", "TZREC_RUNS"} & env.keys()
