import pytest
from kfp import dsl

from pipelines.arguments import check_workers, typed_arguments
from pipelines.training import training


@dsl.container_component
def step(text: str):
    return dsl.ContainerSpec("image", ["true"], [text])


@dsl.pipeline
def of_all_types(
    text: str,
    whole: int = 1,
    share: float = 0.5,
    on: bool = False,
    parts: list = [],  # noqa: B006
    labels: dict = {},  # noqa: B006
):
    step(text=text)


TRAINING_INPUTS = training.pipeline_spec.root.input_definitions.parameters
INPUTS = of_all_types.pipeline_spec.root.input_definitions.parameters


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("text", "[0, 1]", "[0, 1]"),
        ("text", "7", "7"),
        ("whole", "-7", -7),
        ("share", "1e-3", 0.001),
        ("on", "True", True),
        ("on", "false", False),
        ("parts", '[0, "a", {"b": [1]}]', [0, "a", {"b": [1]}]),
        ("labels", '{"disktype": "ssd", "n": 1}', {"disktype": "ssd", "n": 1}),
    ],
)
def test_a_parameter_gets_the_type_of_the_pipelines_input(name, given, value):
    typed = typed_arguments({"text": "", name: given}, INPUTS)[name]

    assert typed == value
    assert type(typed) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("whole", "1.5", "NUMBER_INTEGER"),
        ("share", "half", "NUMBER_DOUBLE"),
        ("on", "1", "BOOLEAN"),
        ("parts", "0,1", "LIST"),
        ("parts", '{"a": 1}', "LIST"),
        ("labels", "[1]", "STRUCT"),
        ("labels", "disktype=ssd", "STRUCT"),
        ("labels", "null", "STRUCT"),
    ],
)
def test_a_value_of_another_type_is_an_error(name, given, kind):
    with pytest.raises(ValueError, match=f"parameter {name} must be of type {kind}, got ") as told:
        typed_arguments({"text": "", name: given}, INPUTS)
    assert repr(given) in str(told.value)


def test_unknown_and_missing_parameters_are_errors():
    with pytest.raises(ValueError, match="no parameter 'txt'; it has labels, on, parts, share, "):
        typed_arguments({"txt": "x"}, INPUTS)
    with pytest.raises(ValueError, match=r"the pipeline needs text=\.\.\."):
        typed_arguments({"whole": "1"}, INPUTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"launcher": "mpijob"}, "one of local, pytorchjob, trainjob, got 'mpijob'"),
        ({"num_workers": 4}, "num_workers has no effect with launcher=local"),
        ({"launcher": "local", "num_workers": 4}, "num_workers has no effect with launcher=local"),
        ({"worker_json": '{"shm_size": "1Gi"}'}, "worker_json has no effect with launcher=local"),
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"launcher": "trainjob", "worker_json": "{"}, "worker_json is not JSON"),
        ({"launcher": "trainjob", "worker_json": '{"gpus": 8}'}, "worker_json has no 'gpus'"),
    ],
)
def test_workers_that_there_would_not_be_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_workers(arguments, TRAINING_INPUTS)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_workers": 1, "worker_json": "", "num_processes": 2},
        {"launcher": "pytorchjob"},
        {"launcher": "trainjob", "num_workers": 4, "worker_json": '{"shm_size": "1Gi"}'},
    ],
)
def test_workers_that_there_would_be_are_not(arguments):
    check_workers(arguments, TRAINING_INPUTS)


def test_what_a_pipeline_has_by_default_counts_as_given():
    @dsl.pipeline
    def elsewhere(launcher: str = "pytorchjob", num_workers: int = 2):
        step(text=launcher)

    inputs = elsewhere.pipeline_spec.root.input_definitions.parameters
    check_workers({"num_workers": 4}, inputs)
    with pytest.raises(ValueError, match="num_workers has no effect with launcher=local"):
        check_workers({"launcher": "local"}, inputs)
    check_workers({}, INPUTS)  # of a pipeline without a launcher
