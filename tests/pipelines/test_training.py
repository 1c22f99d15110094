import pytest
from kfp import components, dsl

from pipelines.__main__ import main


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """The compiled training pipeline."""
    path = tmp_path_factory.mktemp("compiled") / "folder" / "pipeline.yaml"
    main(["compile", f"--output={path}"])
    return components.load_component_from_file(str(path)).pipeline_spec


GATE = "condition-1"
IN_GATE = "pipelinechannel--run_dir"
"""What the run directory is called within the gate."""


def inside_the_gate(spec):
    """Returns the tasks behind the gate by name."""
    component = spec.root.dag.tasks[GATE].component_ref.name
    return spec.components[component].dag.tasks


def test_each_step_runs_after_the_one_whose_output_it_needs(spec):
    edges = {
        (producer.producer_task, name)
        for name, task in spec.root.dag.tasks.items()
        for inputs in (
            [i.task_output_artifact for i in task.inputs.artifacts.values()],
            [i.task_output_parameter for i in task.inputs.parameters.values()],
        )
        for producer in inputs
        if producer.producer_task
    }

    assert edges == {
        ("prepare-data", "train"),
        ("train", "evaluate"),
        ("evaluate", "select-best"),
        ("select-best", GATE),
    }


def test_a_model_is_exported_only_if_the_gate_lets_it_pass(spec):
    condition = spec.root.dag.tasks[GATE].trigger_policy.condition

    assert condition.endswith("== 'pass'")
    assert [*inside_the_gate(spec)] == ["export"]


def test_steps_are_not_cached_because_their_work_is_in_the_run_directory(spec):
    tasks = {**spec.root.dag.tasks, **inside_the_gate(spec)}
    cached = {name: task.caching_options.enable_cache for name, task in tasks.items()}

    assert cached == {
        **dict.fromkeys(("prepare-data", "train", "evaluate", "select-best", "export"), False),
        GATE: False,
    }


def test_all_steps_get_the_same_run_directory(spec):
    sources = {
        name: (task.inputs.parameters.get("run_dir") or task.inputs.parameters[IN_GATE])
        for name, task in {**spec.root.dag.tasks, **inside_the_gate(spec)}.items()
    }

    assert {name: source.component_input_parameter for name, source in sources.items()} == {
        **dict.fromkeys(("prepare-data", "train", "evaluate", "select-best"), "run_dir"),
        GATE: "run_dir",
        "export": IN_GATE,
    }


def test_the_steps_learn_which_pipeline_run_they_are_in(spec):
    parameters = spec.root.dag.tasks["prepare-data"].inputs.parameters

    value = parameters["pipeline_run_id"].runtime_value.constant.string_value
    assert value == dsl.PIPELINE_JOB_ID_PLACEHOLDER


def test_only_the_config_must_be_given(spec):
    inputs = spec.root.input_definitions.parameters

    assert [name for name, i in inputs.items() if not i.is_optional] == ["pipeline_config"]
