"""docs/cluster.md names what there is, and all of it."""

import dataclasses
import re
from pathlib import Path

import pytest

from components import secrets
from components.launch_train.settings import Settings as WorkerSettings
from pipelines import attempts
from pipelines.arguments import check_workers, typed_arguments
from pipelines.training import training

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cluster.md").read_text()
INPUTS = training.pipeline_spec.root.input_definitions.parameters


def section(title):
    """Returns the section of a heading, of any level."""
    (_, text) = re.split(rf"^#+ {re.escape(title)}$", TEXT, flags=re.MULTILINE)
    return re.split(r"^#", text, flags=re.MULTILINE)[0]


def first_column(text):
    """Returns the names in the first column of the table in a text."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for cell in rows[2:] for name in re.findall(r"`([\w-]+)`", cell)}


def test_the_table_has_all_parameters_and_no_other():
    assert first_column(section("Parameters")) == {*INPUTS}


def test_the_variables_that_the_compiler_reads_are_in_a_table():
    known = {attempts.RETRIES_VARIABLE, attempts.TIMEOUTS_VARIABLE}

    assert first_column(section("What is compiled in")) >= known


def test_everything_that_workers_may_be_told_is_in_the_table():
    named = first_column(section("worker_json"))

    assert named == {field.name for field in dataclasses.fields(WorkerSettings)}


def test_the_keys_of_secrets_and_their_variables_are_in_the_table():
    text = section("MLflow and object stores")
    for keys in (secrets.MLFLOW_CONFIG_MAP, secrets.MLFLOW_SECRET, secrets.OBJECT_STORE_SECRET):
        for variable, key in keys.items():
            assert f"`{key}`" in text
            assert f"`{variable}`" in text or variable == key


@pytest.mark.parametrize("command", ["submit --host", "run create"])
def test_an_example_of_a_run_has_parameters_that_go_together(command):
    (text,) = re.findall(rf"{command} (?:.*\\\n)*.*", section("Submit"))
    given = dict(re.findall(r"(?<!-)\b(\w+)=('[^']*'|\S+)", text))

    arguments = typed_arguments({name: v.strip("'") for name, v in given.items()}, INPUTS)
    assert arguments.keys() >= {"pipeline_config", "launcher", "num_workers"}
    check_workers(arguments, INPUTS)


def test_files_and_sections_that_it_refers_to_are_there():
    for path in re.findall(r"deploy/[\w./-]+", TEXT):
        assert (ROOT / path).exists(), path
    headings = re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors
