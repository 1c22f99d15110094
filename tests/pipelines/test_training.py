"""The compiled training pipeline: its edges, its branches, and what KFP must be told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kfp import dsl

GOLDEN = Path(__file__).with_name("training.yaml")
"""What the pipeline compiles to; CONTRIBUTING.md says how to renew it."""

STEPS = {"prepare-data", "train", "launch-train", "evaluate", "select-best", "export"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The training pipeline, compiled as a user does it."""
    path = tmp_path_factory.mktemp("compiled") / "folder" / "pipeline.yaml"
    env = {name: value for name, value in os.environ.items() if not name.startswith("TZREC_")}
    command = [sys.executable, "-m", "pipelines", "compile", f"--output={path}"]
    # Golden files are compiled with other seeds: no order may depend on one.
    subprocess.run(command, env={**env, "PYTHONHASHSEED": "7"}, check=True)
    return path.read_text()


@pytest.fixture(scope="module")
def pipeline(text):
    return next(yaml.safe_load_all(text))


def dags(pipeline):
    """Yields each DAG with its own name and the component that it is: the root and all below."""
    yield "", pipeline["root"]
    for name, component in pipeline["components"].items():
        if "dag" in component:
            yield name, component


def tasks(pipeline):
    """Returns all tasks by name, wherever they are."""
    found = {}
    for _, component in dags(pipeline):
        found |= component["dag"]["tasks"]
    return found


def producers(task):
    """Returns the tasks whose outputs a task takes."""
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    given = [s.get("taskOutputParameter") or s.get("taskOutputArtifact") for s in sources]
    return {one["producerTask"] for one in given if one}


def test_the_pipeline_compiles_to_what_was_reviewed(text):
    assert text == GOLDEN.read_text(), (
        "the compiled pipeline has changed; look at the difference, then renew it with\n"
        "  .venv/bin/python -m pipelines compile --output tests/pipelines/training.yaml"
    )


def test_each_part_runs_after_the_ones_whose_outputs_it_needs(pipeline):
    edges = {name: producers(task) for name, task in pipeline["root"]["dag"]["tasks"].items()}

    assert edges == {
        "prepare-data": set(),
        "condition-branches-1": {"prepare-data"},
        "for-loop-4": {"prepare-data", "condition-branches-1"},
        "select-best": {"prepare-data", "for-loop-4"},
        "condition-5": {"prepare-data", "select-best"},
    }


def test_the_launcher_decides_who_trains_and_either_gives_the_step_to_evaluate(pipeline):
    branches = pipeline["components"]["comp-condition-branches-1"]["dag"]
    conditions = {
        next(iter(pipeline["components"][task["componentRef"]["name"]]["dag"]["tasks"])): (
            task["triggerPolicy"]["condition"]
        )
        for task in branches["tasks"].values()
    }
    ((_, output),) = branches["outputs"]["parameters"].items()

    local = "inputs.parameter_values['pipelinechannel--launcher'] == 'local'"
    assert conditions == {"train": local, "launch-train": f"!({local})"}
    assert {one["producerSubtask"] for one in output["valueFromOneof"]["parameterSelectors"]} == {
        *branches["tasks"]
    }


def test_parts_are_evaluated_in_a_loop_over_integers_and_collected(pipeline):
    root = pipeline["root"]["dag"]["tasks"]
    loop = pipeline["components"]["comp-for-loop-4"]
    item = root["for-loop-4"]["parameterIterator"]["itemInput"]
    evaluate = loop["dag"]["tasks"]["evaluate"]["inputs"]["parameters"]

    assert [*loop["dag"]["tasks"]] == ["evaluate"]
    assert evaluate["part"] == {"componentInputParameter": item}
    assert loop["inputDefinitions"]["parameters"][item]["parameterType"] == "NUMBER_INTEGER"
    assert evaluate["parts"] == {"componentInputParameter": "pipelinechannel--evaluation_parts"}
    inputs = pipeline["components"]["comp-select-best"]["inputDefinitions"]
    assert inputs["artifacts"]["evaluation"]["isArtifactList"]


def test_a_model_is_exported_only_if_the_gate_lets_it_pass(pipeline):
    gate = pipeline["root"]["dag"]["tasks"]["condition-5"]

    assert gate["triggerPolicy"]["condition"].endswith("== 'pass'")
    component = pipeline["components"][gate["componentRef"]["name"]]
    assert [*component["dag"]["tasks"]] == ["export"]


def test_all_steps_after_the_first_get_the_run_directory_that_it_has_found(pipeline):
    resolved = "prepare-data-resolved_run_dir"
    for name in STEPS - {"prepare-data"}:
        source = tasks(pipeline)[name]["inputs"]["parameters"]["run_dir"]
        if name == "select-best":
            assert source["taskOutputParameter"]["producerTask"] == "prepare-data"
        else:
            assert source == {"componentInputParameter": f"pipelinechannel--{resolved}"}


def test_nothing_is_cached_and_every_step_is_tried_again(pipeline):
    steps = {name: task for name, task in tasks(pipeline).items() if name in STEPS}

    assert steps.keys() == STEPS
    for task in steps.values():
        assert task["cachingOptions"] == {}  # caching is what would be said
        assert task["retryPolicy"]["maxRetryCount"] == 2


def test_the_steps_learn_which_pipeline_run_they_are_in(pipeline):
    for step in ("prepare-data", "launch-train"):
        parameters = tasks(pipeline)[step]["inputs"]["parameters"]

        value = parameters["pipeline_run_id"]["runtimeValue"]["constant"]
        assert value == dsl.PIPELINE_JOB_ID_PLACEHOLDER


def test_only_the_config_must_be_given(pipeline):
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]

    assert [name for name, i in inputs.items() if not i.get("isOptional")] == ["pipeline_config"]


def test_every_dag_is_given_what_its_tasks_take_from_it(text):
    """kfp 2.17 compiles references to inputs that a loop or a condition does not have."""
    pipeline, platform = yaml.safe_load_all(text)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, component in dags(pipeline):
        definitions = component.get("inputDefinitions", {})
        has = {*definitions.get("parameters", {}), *definitions.get("artifacts", {})}
        for task_name, task in component["dag"]["tasks"].items():
            taken = set(references(task.get("inputs", {})))
            label = pipeline["components"][task["componentRef"]["name"]].get("executorLabel")
            taken |= set(references(executors.get(label, {})))
            assert taken <= has, f"{task_name} in {name or 'the root'}"


def references(node):
    """Yields the inputs of a DAG that something below ``node`` refers to."""
    match node:
        case list():
            for child in node:
                yield from references(child)
        case dict():
            for key, child in node.items():
                if key in ("componentInputParameter", "componentInputArtifact"):
                    yield child
                else:
                    yield from references(child)


def test_placeholders_name_inputs_that_the_task_has(pipeline):
    for name, task in tasks(pipeline).items():
        if name not in STEPS:
            continue
        inputs = task["inputs"]["parameters"]
        label = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][label]["container"]
        for placeholder in placeholders(container["resources"]):
            channel = placeholder.removeprefix("{{$.inputs.parameters['").removesuffix("']}}")
            assert channel in inputs, f"{channel} of {name}"


def placeholders(node):
    """Yields the texts below ``node`` that KFP replaces by a value."""
    for child in node.values():
        if isinstance(child, dict):
            yield from placeholders(child)
        elif "{{" in str(child):
            yield child
