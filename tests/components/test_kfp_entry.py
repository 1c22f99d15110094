import json

import pytest

from components import kfp_entry, steps


def executor_input(folder, parameters, *, artifacts=(), output_parameters=()):
    """Returns what KFP's launcher passes, as JSON."""
    return json.dumps(
        {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {"before": {"artifacts": [{"name": "before", "uri": "s3://x/y"}]}},
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": str(folder / "parameters" / name)}
                    for name in output_parameters
                },
                "artifacts": {
                    name: {
                        "artifacts": [
                            {
                                "name": name,
                                "uri": str(folder / "artifacts" / name),
                                "type": {"schemaTitle": "system.Model"},
                            }
                        ]
                    }
                    for name in artifacts
                },
                "outputFile": str(folder / "output" / "executor_output.json"),
            },
        }
    )


@pytest.fixture
def step(monkeypatch):
    """A step that returns what it got."""

    def double(*, text: str, count: int, share: float = 0.5):
        return {"count": count * 2, "text": text, "model": {"share": share, "list": [1, 2]}}

    monkeypatch.setattr(steps, "load", lambda name: {"double": double}[name])
    return "double"


def run(step, message):
    kfp_entry.main([step, "kfp.dsl.executor_main", message])


def test_outputs_are_written_where_kfp_looks_for_them(step, tmp_path):
    message = executor_input(
        tmp_path, {"text": "it's \"é\" \n{{$}}", "count": 3.0},
        artifacts=["model"], output_parameters=["count", "text"],
    )  # fmt: skip
    run(step, message)

    output = json.loads((tmp_path / "output" / "executor_output.json").read_text())
    assert output["parameterValues"] == {"count": 6, "text": 'it\'s "é" \n{{$}}'}
    (artifact,) = output["artifacts"]["model"]["artifacts"]
    assert artifact["metadata"] == {"share": 0.5, "list": [1, 2]}
    assert artifact["uri"] == str(tmp_path / "artifacts" / "model")
    assert json.loads((tmp_path / "artifacts" / "model").read_text()) == artifact["metadata"]
    # KFP takes a string as it is and reads anything else as JSON.
    assert (tmp_path / "parameters" / "count").read_text() == "6"
    assert (tmp_path / "parameters" / "text").read_text() == 'it\'s "é" \n{{$}}'


def test_whole_numbers_of_a_list_are_integers_as_they_were_before_kfp_passed_them_on(
    monkeypatch, tmp_path
):
    got = {}
    monkeypatch.setattr(steps, "load", lambda name: lists)

    def lists(*, part: int, parts: list):
        got.update(part=part, parts=parts)
        return {}

    parts = [0.0, 1.0, 2.5, "a", True, None, [3.0]]
    run("lists", executor_input(tmp_path, {"part": 1.0, "parts": parts}))

    assert got == {"part": 1, "parts": [0, 1, 2.5, "a", True, None, [3.0]]}
    assert [type(part) for part in got["parts"][:3]] == [int, int, float]
    assert type(got["part"]) is int


def test_values_of_kubernetes_settings_that_kfp_adds_do_not_reach_the_step(step, tmp_path):
    added = {"cpu_limit": "8", "pipelinechannel--cpu_limit": "8", "pipelinechannel--volume": "v"}
    message = executor_input(
        tmp_path, {"text": "", "count": 1, **added},
        artifacts=["model"], output_parameters=["count", "text"],
    )  # fmt: skip
    run(step, message)

    output = json.loads((tmp_path / "output" / "executor_output.json").read_text())
    assert output["parameterValues"] == {"count": 2, "text": ""}


def test_a_value_that_the_step_needs_and_does_not_get_is_an_error(step, tmp_path):
    with pytest.raises(TypeError, match="count"):
        run(step, executor_input(tmp_path, {"text": ""}))


def test_a_page_is_the_artifact(monkeypatch, tmp_path):
    page = tmp_path / "index.html"
    page.write_text("<h1>é</h1>")
    monkeypatch.setattr(steps, "load", lambda name: lambda: {"report": steps.Page(page)})

    run("report", executor_input(tmp_path, {}, artifacts=["report"]))

    assert (tmp_path / "artifacts" / "report").read_text() == "<h1>é</h1>"
    output = json.loads((tmp_path / "output" / "executor_output.json").read_text())
    assert output["artifacts"]["report"]["artifacts"][0]["metadata"] == {}


def test_an_artifact_in_an_object_store_is_written_to_its_mount(step, tmp_path, monkeypatch):
    monkeypatch.setattr(kfp_entry, "_MOUNTS", {"s3://": f"{tmp_path}/mount/"})
    message = json.loads(
        executor_input(
            tmp_path, {"text": "", "count": 1}, artifacts=["model"],
            output_parameters=["count", "text"],
        )
    )  # fmt: skip
    message["outputs"]["artifacts"]["model"]["artifacts"][0]["uri"] = "s3://bucket/run/model"
    run(step, json.dumps(message))

    assert (tmp_path / "mount" / "bucket" / "run" / "model").exists()


def test_outputs_that_the_component_does_not_have_are_refused(step, tmp_path):
    with pytest.raises(AssertionError, match="outputs"):
        run(step, executor_input(tmp_path, {"text": "", "count": 1}, artifacts=["model"]))


def test_a_metadata_value_that_is_not_finite_is_refused_because_kfp_cannot_read_it(step, tmp_path):
    message = executor_input(
        tmp_path, {"text": "", "count": 1, "share": "nan"},
        artifacts=["model"], output_parameters=["count", "text"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="not JSON compliant"):
        run(step, message)


def test_wrong_arguments_and_unknown_steps_are_errors():
    with pytest.raises(ValueError, match="got 1 arguments"):
        kfp_entry.main(["train"])
    with pytest.raises(ValueError, match="must be one of prepare_data, train"):
        kfp_entry.main(["trian", "kfp.dsl.executor_main", "{}"])
