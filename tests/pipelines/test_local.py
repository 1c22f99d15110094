"""kfp.local runs a compiled pipeline; the tests fail for kfp.local as it is."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from kfp import compiler, components, dsl

from components.container import EXECUTOR_MARKER
from components.steps import StepFailedError
from pipelines.arguments import typed_arguments
from pipelines.local import runner as local
from tzrec_core.run_dir import RunDir, RunInfo

STEP = """
import json, os, sys
message = json.loads(sys.argv[2])
values = message["inputs"]["parameterValues"]
outputs = message["outputs"]
print("[log] first line\\n[log] second line", flush=True)
exec(values["code"])
artifact = outputs["artifacts"]["said"]["artifacts"][0]
artifact["metadata"] = {"values": values, "python": sys.executable, "many": list(range(1000))}
os.makedirs(os.path.dirname(outputs["outputFile"]), exist_ok=True)
with open(outputs["outputFile"], "w") as file:
    json.dump({"artifacts": {"said": {"artifacts": [artifact]}}}, file)
with open(values["run_dir"] + "/" + values["name"] + ".json", "w") as file:
    before = message["inputs"].get("artifacts")
    json.dump(artifact["metadata"] | {"env": dict(os.environ), "before": before}, file)
"""


@dsl.container_component
def first(
    run_dir: str, name: str, code: str, text: str, count: int, run_id: str,
    said: dsl.Output[dsl.Artifact],
):  # fmt: skip
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


@dsl.container_component
def second(
    run_dir: str, name: str, code: str, before: dsl.Input[dsl.Artifact],
    said: dsl.Output[dsl.Artifact],
):  # fmt: skip
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


@dsl.pipeline(name="two-steps")
def two_steps(run_dir: str, text: str = "", count: int = 3, code: str = "", share: float = 0.5):
    one = first(
        run_dir=run_dir, name="first", code=code, text=text, count=count,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )  # fmt: skip
    second(run_dir=run_dir, name="second", code="", before=one.outputs["said"])


@pytest.fixture(scope="module")
def yaml(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiler.Compiler().compile(two_steps, str(path))
    return path


def run(yaml, run_dir, **values):
    """Runs the pipeline; returns what its first step got, and where it ran."""
    run_dir.mkdir(exist_ok=True)
    local.run(yaml, {"run_dir": str(run_dir), **values}, env={})
    return json.loads((run_dir / "first.json").read_text())


@pytest.mark.parametrize(
    "text",
    [
        "/usr/lib/python3/x python3",
        '{"a.b[c=\'d\']": "1; \\"2\\""}',
        "three\nlines\n\tof $HOME `text` %s",
        "",
        "é世 \\ {'a'}",
    ],
)
def test_values_reach_a_step_as_they_were_given(yaml, tmp_path, text):
    got = run(yaml, tmp_path / "run", text=text, count="7")

    assert got["values"]["text"] == text
    assert got["values"]["count"] == 7
    assert isinstance(got["values"]["count"], int)


def test_steps_run_with_this_python_and_the_given_environment(yaml, tmp_path, monkeypatch):
    monkeypatch.setenv("INHERITED", "1")
    local.run(yaml, {"run_dir": str(tmp_path)}, env={"GIVEN": "2"})
    got = json.loads((tmp_path / "second.json").read_text())

    assert got["python"] == sys.executable
    assert got["env"]["INHERITED"] == "1"
    assert got["env"]["GIVEN"] == "2"
    assert "GIVEN" not in os.environ


def test_metadata_of_an_artifact_reaches_the_next_step(yaml, tmp_path):
    run(yaml, tmp_path, text="x")
    before = json.loads((tmp_path / "second.json").read_text())["before"]

    (artifact,) = before["before"]["artifacts"]
    assert artifact["metadata"]["values"]["text"] == "x"


def test_output_of_a_step_is_shown_as_the_step_wrote_it(yaml, tmp_path, capfd):
    run(yaml, tmp_path)

    lines = capfd.readouterr().out.splitlines()
    assert lines.count("[log] first line") == 2
    assert lines.count("[log] second line") == 2
    assert max(len(line) for line in lines) < 1000  # not a thousand numbers of metadata
    assert not any("\x1b" in line for line in lines)
    print("not indented")
    assert capfd.readouterr().out == "not indented\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("sys.exit('error: no column named x')", "no column named x"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("os.kill(os.getpid(), 9)", "[log] second line"),
    ],
)
def test_a_step_that_fails_fails_the_run_with_its_own_error(yaml, tmp_path, code, error):
    with pytest.raises(StepFailedError) as raised:
        run(yaml, tmp_path, code=code)

    assert str(raised.value) == f"first failed: {error}"
    assert not (tmp_path / "second.json").exists()


def test_a_run_that_is_started_again_over_its_run_dir_has_the_same_id(yaml, tmp_path):
    ids = [run(yaml, tmp_path / name)["values"]["run_id"] for name in ("a", "b")]
    RunDir(tmp_path / "b").write_info(RunInfo(ids[1], "tzrec", data=""))
    again = run(yaml, tmp_path / "b")["values"]["run_id"]

    assert ids[0] != ids[1]
    assert again == ids[1]


def test_a_run_without_a_run_dir_gets_a_folder_named_after_its_id(yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "os.makedirs(values['run_dir'], exist_ok=True)"
    run_dir = local.run(yaml, {"code": code}, env={}).path

    got = json.loads((run_dir / "first.json").read_text())["values"]
    assert run_dir == tmp_path / "runs" / got["run_id"]


def test_nothing_of_kfp_local_stays_replaced(yaml, tmp_path):
    from kfp.local import docker_task_handler, logging_utils, subprocess_task_handler
    from kfp.local.orchestrator import enhanced_dag_orchestrator, task_executor

    places = (
        logging_utils,
        task_executor,
        docker_task_handler.DockerTaskHandler,
        subprocess_task_handler.SubprocessTaskHandler,
        enhanced_dag_orchestrator.ConditionEvaluator,
        enhanced_dag_orchestrator.ParallelExecutor,
    )

    def functions():
        return [dict(vars(place)) for place in places]

    before = functions()
    run(yaml, tmp_path)
    with pytest.raises(StepFailedError):
        run(yaml, tmp_path, code="sys.exit(1)")

    assert functions() == before


def test_no_workspace_folder_is_left_and_the_run_dir_is_not_taken_for_one(
    yaml, tmp_path, monkeypatch
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    run(yaml, tmp_path / "run")

    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "run" / "first.json").exists()


def interrupted(yaml, sent, **values):
    """Sends a signal to a run as soon as a step is ready; returns its exit code and the rest."""
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom components import steps\n"
        "from pipelines.local import runner as local\n"
        "values = json.loads(sys.argv[2])\n"
        "steps.run(lambda argv: local.run(Path(sys.argv[1]), values, env={}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, yaml, json.dumps(values)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if line == "ready\n":
            break
    process.send_signal(sent)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_stops_its_step(yaml, tmp_path, sent):
    code = textwrap.dedent("""
        import signal, time
        def stop(*_):
            print("stopped", flush=True)
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        time.sleep(60)
    """)
    code_of_run, output = interrupted(yaml, sent, run_dir=str(tmp_path), code=code)

    assert "stopped" in output.splitlines()
    assert code_of_run == 128 + sent


def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed():
    program = (
        "import os, signal\nfrom components import steps\n"
        "steps.run(lambda _: os.kill(os.getpid(), signal.SIGHUP))"
    )

    nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    ended = subprocess.run(["nohup", sys.executable, "-c", program], **nowhere)

    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"texts": "x"}, "no parameter 'texts'; it has code, count, run_dir, share, text"),
        ({"count": "two"}, "count must be of type NUMBER_INTEGER, got 'two'"),
        ({"share": "half"}, "share must be of type NUMBER_DOUBLE, got 'half'"),
    ],
)
def test_a_parameter_that_the_pipeline_does_not_take_is_an_error(yaml, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        run(yaml, tmp_path, **values)


def test_a_missing_parameter_is_an_error(yaml):
    inputs = components.load_component_from_file(str(yaml)).pipeline_spec.root.input_definitions

    with pytest.raises(ValueError, match=r"the pipeline needs run_dir=\.\.\."):
        typed_arguments({}, inputs.parameters)


@pytest.mark.parametrize("content", [None, "", "a: 1", "{", "- x", "root: {}"])
def test_a_file_that_is_no_pipeline_is_an_error(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ValueError, match=r"cannot be read|is not a compiled pipeline"):
        local.run(path, {}, env={})
    assert not (tmp_path / "runs").exists()


@dsl.container_component
def verdict(run_dir: str, name: str, code: str, count: int, said: dsl.Output[dsl.Artifact],
            my_verdict: dsl.OutputPath(str)):  # fmt: skip
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


SAY = """
place = outputs["parameters"]["my_verdict"]["outputFile"]
os.makedirs(os.path.dirname(place), exist_ok=True)
open(place, "w").write({1: "pass", 2: "block"}.get(values["count"], ""))
"""


@dsl.pipeline(name="guarded")
def guarded(run_dir: str, count: int):
    told = verdict(run_dir=run_dir, name="told", code=SAY, count=count)
    with dsl.If(told.outputs["my_verdict"] == "pass"):
        second(run_dir=run_dir, name="second", code="", before=told.outputs["said"])


@pytest.mark.parametrize(("count", "is_run"), [("1", True), ("2", False)])
def test_a_step_behind_a_condition_runs_if_it_holds(tmp_path, count, is_run):
    compiler.Compiler().compile(guarded, str(tmp_path / "guarded.yaml"))

    local.run(tmp_path / "guarded.yaml", {"run_dir": str(tmp_path), "count": count}, env={})

    assert (tmp_path / "second.json").exists() == is_run


@dsl.pipeline(name="either")
def either(run_dir: str, text: str = "here", count: int = 1):
    with dsl.If(text == "here"):
        here = verdict(run_dir=run_dir, name="here", code=SAY, count=count)
    with dsl.Else():
        there = verdict(run_dir=run_dir, name="there", code=SAY, count=count)
    told = dsl.OneOf(here.outputs["my_verdict"], there.outputs["my_verdict"])
    first(run_dir=run_dir, name="first", code="", text=told, count=3, run_id="")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("here", "here"),
        ("elsewhere", "there"),
        ("it's", "there"),
        ("' == ''", "there"),
        ("here' && 'x\\", "there"),
        ("a\n\u00e9 pipelinechannel--count !(", "there"),
    ],
)
def test_a_parameter_chooses_one_of_two_steps_whose_output_is_used(tmp_path, text, name):
    compiler.Compiler().compile(either, str(tmp_path / "either.yaml"))

    got = run(tmp_path / "either.yaml", tmp_path / "run", text=text)

    assert {path.stem for path in (tmp_path / "run").glob("*.json")} == {name, "first"}
    assert got["values"]["text"] == "pass"


@dsl.container_component
def of_part(run_dir: str, name: str, code: str, part: int, parts: list,
            said: dsl.Output[dsl.Artifact]):  # fmt: skip
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


@dsl.container_component
def of_all(run_dir: str, name: str, code: str, before: dsl.Input[list[dsl.Artifact]],
           said: dsl.Output[dsl.Artifact]):  # fmt: skip
    return dsl.ContainerSpec("image", ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])


@dsl.pipeline(name="loop")
def loop(run_dir: str, code: str = "", parts: list[int] = [4]):  # noqa: B006
    told = verdict(run_dir=run_dir, name="told", code=SAY, count=1)
    with dsl.ParallelFor(parts) as part:
        one = of_part(
            run_dir=run_dir, name=told.outputs["my_verdict"], code=code, part=part, parts=parts
        )
    of_all(
        run_dir=run_dir, name="first", code="", before=dsl.Collected(one.outputs["said"])
    )  # fmt: skip


@pytest.fixture(scope="module")
def loop_yaml(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "loop.yaml"
    compiler.Compiler().compile(loop, str(path))
    return path


@pytest.mark.parametrize(("given", "parts"), [({}, [4]), ({"parts": "[2, 0, 1]"}, [2, 0, 1])])
def test_the_artifacts_of_a_loop_are_collected_in_order(loop_yaml, tmp_path, capfd, given, parts):
    code = "print('got', json.dumps([values['part'], values['parts']]), flush=True)"

    got = run(loop_yaml, tmp_path, code=code, **given)

    collected = got["before"]["before"]["artifacts"]
    assert [one["metadata"]["values"]["part"] for one in collected] == parts
    lines = capfd.readouterr().out.splitlines()
    shown = [json.loads(line[4:]) for line in lines if line.startswith("got ")]
    assert shown == [[part, parts] for part in parts]
    assert all(isinstance(part, int) for part, _ in shown)
    assert (tmp_path / "pass.json").exists()  # its name is what the step before the loop has said


def test_the_steps_of_a_loop_run_one_after_the_other_and_none_after_one_that_fails(
    loop_yaml, tmp_path, capfd
):
    code = (
        "import time\nprint('begin', flush=True)\ntime.sleep(0.1)\nprint('end', flush=True)\n"
        "if values['part'] == 2: sys.exit('error: part 2 is bad')"
    )

    with pytest.raises(StepFailedError, match=r"^of-part failed: part 2 is bad$"):
        run(loop_yaml, tmp_path, code=code, parts="[1, 2, 3]")

    shown = [line for line in capfd.readouterr().out.splitlines() if line in ("begin", "end")]
    assert shown == ["begin", "end"] * 2
    assert not (tmp_path / "first.json").exists()


def test_a_loop_that_is_told_to_stop_starts_no_other_step(loop_yaml, tmp_path):
    code = "import time\nprint('ready', flush=True)\ntime.sleep(60)"
    code_of_run, output = interrupted(
        loop_yaml, signal.SIGTERM, run_dir=str(tmp_path), code=code, parts="[1, 2, 3]"
    )

    assert "ready" not in output.splitlines()
    assert code_of_run == 143


@dsl.pipeline(name="patient")
def patient(run_dir: str, code: str):
    one = first(run_dir=run_dir, name="first", code=code, text="", count=1, run_id="")
    one.set_retry(3, backoff_duration="600s").set_cpu_limit("1").set_display_name("First")


def test_a_step_that_fails_here_is_not_tried_again_and_a_clusters_settings_are_no_warning(
    tmp_path, capfd, recwarn
):
    compiler.Compiler().compile(patient, str(tmp_path / "patient.yaml"))

    with pytest.raises(StepFailedError, match=r"^first failed: no$"):
        run(tmp_path / "patient.yaml", tmp_path, code="sys.exit('error: no')")

    assert capfd.readouterr().out.count("[log] first line") == 1
    assert not [w for w in recwarn if "no effect" in str(w.message)]
