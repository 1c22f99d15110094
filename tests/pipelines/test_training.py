import pytest
from kfp import components, dsl

from pipelines.__main__ import main


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """The compiled training pipeline."""
    path = tmp_path_factory.mktemp("compiled") / "folder" / "pipeline.yaml"
    main(["compile", f"--output={path}"])
    return components.load_component_from_file(str(path)).pipeline_spec


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
        ("select-best", "export"),
    }


def test_steps_are_not_cached_because_their_work_is_in_the_run_directory(spec):
    tasks = spec.root.dag.tasks.values()

    assert [task.caching_options.enable_cache for task in tasks] == [False] * 5


def test_all_steps_get_the_same_run_directory(spec):
    sources = {
        task.inputs.parameters["run_dir"].component_input_parameter
        for task in spec.root.dag.tasks.values()
    }

    assert sources == {"run_dir"}


def test_the_steps_learn_which_pipeline_run_they_are_in(spec):
    parameters = spec.root.dag.tasks["prepare-data"].inputs.parameters

    value = parameters["pipeline_run_id"].runtime_value.constant.string_value
    assert value == dsl.PIPELINE_JOB_ID_PLACEHOLDER


def test_only_the_config_must_be_given(spec):
    inputs = spec.root.input_definitions.parameters

    assert [name for name, i in inputs.items() if not i.is_optional] == ["pipeline_config"]
