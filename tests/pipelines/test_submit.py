"""Runs are sent to a server over HTTP, by our own command and by kfp's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.steps import StepFailedError
from pipelines import submit
from pipelines.__main__ import compile_pipeline
from pipelines.kfp_server import KfpServer, ServerUnavailableError
from tests.pipelines import kfp_api

CONFIG = {"pipeline_config": "/runs/my.config"}
NAMES = {"experiment": "tries", "namespace": "", "service_account": "", "run_name": ""}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path)
    return path


@pytest.fixture
def api():
    with kfp_api.serving() as server:
        yield server


def send(api, compiled, values=CONFIG, **names):
    return submit.submit(KfpServer(api.host), compiled, values, **{**NAMES, **names})


def command(api, compiled, *arguments, env=None):
    """Runs our command; its process knows no proxy."""
    full = [sys.executable, "-m", "pipelines", "submit", f"--host={api.host}/"]
    return subprocess.run(
        [*full, f"--yaml={compiled}", *arguments],
        env={**os.environ, "no_proxy": "*", **(env or {})},
        text=True, capture_output=True, cwd=compiled.parent,
    )  # fmt: skip


def test_the_server_gets_both_documents_of_the_pipeline_and_typed_parameters(api, compiled):
    given = {
        "num_processes": "2", "eval_fraction": "0.25", "evaluation_parts": "[0, 1]",
        "node_selector": '{"disktype": "ssd"}', "cpu_limit": "16", "run_dir": "/runs/a/b",
    }  # fmt: skip
    run_id = send(api, compiled, {**CONFIG, **given}, service_account="sa", run_name="first")

    (run,) = api.runs
    pipeline, platform = yaml.safe_load_all(compiled.read_text())
    assert run["pipeline_spec"] == {"pipeline_spec": pipeline, "platform_spec": platform}
    assert run["runtime_config"]["parameters"] == {
        **CONFIG, "num_processes": 2, "eval_fraction": 0.25, "evaluation_parts": [0, 1],
        "node_selector": {"disktype": "ssd"}, "cpu_limit": "16", "run_dir": "/runs/a/b",
    }  # fmt: skip
    assert (run["display_name"], run["service_account"]) == ("first", "sa")
    assert run["experiment_id"] == api.experiments["tries"]["experiment_id"]
    assert run_id == "r0"


def test_an_experiment_is_made_once_and_in_its_namespace(api, compiled):
    send(api, compiled, namespace="team")
    send(api, compiled, namespace="team")

    assert [run["experiment_id"] for run in api.runs] == ["e0", "e0"]
    assert api.experiments["tries"]["namespace"] == "team"
    assert all(run["display_name"].startswith("tzrec-training 20") for run in api.runs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"the pipeline needs pipeline_config=\.\.\."),
        ({"launchr": "local"}, "no parameter 'launchr'; it has accelerator_count, "),
        ({"launcher": "mpijob"}, "one of local, pytorchjob, trainjob, got 'mpijob'"),
        ({"num_workers": "2"}, "num_workers has no effect with launcher=local"),
        ({"num_processes": "0"}, "num_processes must be at least 1, got 0"),
        ({"pipeline_config": "my.config"}, "pipeline_config must be an absolute path, .* got 'my"),
        ({"pipeline_config": "s3://a/my.config"}, "pipeline_config must be an absolute path, "),
        ({"train_input_path": "s3://a/b, c"}, "train_input_path must be an absolute .* got 'c'"),
        ({"eval_input_path": "./x"}, "eval_input_path must be an absolute path"),
        ({"memory_limit": "8GB"}, "memory_limit: '8GB' is no quantity, such as "),
        ({"num_processes": "two"}, "num_processes must be of type NUMBER_INTEGER, got 'two'"),
        ({"evaluation_parts": "0,1"}, "evaluation_parts must be of type LIST, got '0,1'"),
        ({"evaluation_parts": "[]"}, r"must be different integers, as \[0, 1\], got \[\]"),
        ({"evaluation_parts": "[1, 1]"}, "must be different integers"),
        ({"evaluation_parts": '[["a"]]'}, "must be different integers"),
        ({"node_selector": "[]"}, "node_selector must be of type STRUCT"),
        ({"run_dir": "runs/first"}, "must be a folder in /runs, .* got 'runs/first'"),
        ({"run_dir": "/runs"}, "must be a folder in /runs"),
        ({"accelerator_count": "1.5"}, "accelerator_count must be a whole number, got '1.5'"),
        (
            {"launcher": "pytorchjob", "worker_json": '{"gpus": 8}'},
            "worker_json has no 'gpus'; there are resources, ",
        ),
        ({"edit_config_json": "{"}, "JSON"),
        ({"mlflow_secret": ""}, "mlflow_secret must not be empty; what it names need not be there"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_sent(api, compiled, values, message):
    with pytest.raises(ValueError, match=message):
        send(api, compiled, {**CONFIG, **values} if values else {})

    assert api.requests == []


@pytest.mark.parametrize("text", [None, "", "a: 1", "{", "- x", "root: {}"])
def test_a_file_that_is_no_pipeline_is_refused_before_anything_is_sent(api, tmp_path, text):
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ValueError, match=r"cannot be read|is no YAML|is not a compiled pipeline"):
        send(api, path)
    assert api.requests == []


def test_the_command_prints_the_page_of_the_run_and_waits_for_its_end(api, compiled):
    api.token = "secret-token"
    ended = command(
        api, compiled, "--wait", "pipeline_config=/runs/my.config",
        env={"KFP_TOKEN": api.token},
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        f"run r0: {api.host}/#/runs/details/r0", "run r0: succeeded",
    ]  # fmt: skip
    assert "secret-token" not in ended.stdout + ended.stderr


def test_a_token_that_is_replaced_in_its_file_is_read_anew(api, compiled, tmp_path):
    file = tmp_path / "token"
    server = KfpServer(api.host, token=file)
    for api.token in ("first", "second"):
        file.write_text(f"{api.token}\n")
        submit.submit(server, compiled, CONFIG, **NAMES)

    ended = command(
        api, compiled, "pipeline_config=/runs/my.config",
        env={"KFP_TOKEN_FILE": str(file), "KFP_TOKEN": "old"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert len(api.runs) == 3


@pytest.mark.parametrize("text", [None, " \n"])
def test_a_file_without_a_token_is_named_and_says_nothing_of_the_run(api, tmp_path, text):
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ValueError, match=rf"{file}.*; run r7 goes on all the same"):
        submit.wait(KfpServer(api.host, token=file), "r7", poll_seconds=0)
    assert api.requests == []


def test_a_token_that_expires_while_one_waits_does_not_mean_that_the_run_has_failed(api):
    api.failures = [401]

    with pytest.raises(ValueError, match=r"refuses access \(401\).*; run r7 goes on all the same"):
        submit.wait(KfpServer(api.host), "r7", poll_seconds=0)


def test_a_server_that_does_not_know_the_caller_says_what_to_set(api, compiled):
    api.token = "secret-token"

    with pytest.raises(ValueError, match=r"refuses access \(401\): Request header error") as told:
        submit.submit(KfpServer(api.host, token="wrong"), compiled, CONFIG, **NAMES)
    assert "KFP_TOKEN" in str(told.value)
    assert "wrong" not in str(told.value)
    assert api.runs == []


def test_a_server_that_is_not_there_is_told_by_its_address(compiled):
    with kfp_api.serving() as gone:
        pass

    with pytest.raises(ServerUnavailableError, match=rf"^{gone.host} cannot be reached: .*refused"):
        send(gone, compiled)


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (400, ValueError, r"refuses the request \(400\): not now"),
        (403, ValueError, r"refuses access \(403\): not now; .* KFP_TOKEN"),
        (404, ValueError, r"has no /apis/v2beta1/experiments \(not now\); .* as /pipeline"),
        (503, ServerUnavailableError, r"cannot answer \(503\): not now"),
    ],
)
def test_what_a_server_answers_is_told_apart(api, compiled, code, kind, message):
    api.failures = [code]

    with pytest.raises(kind, match=message):
        send(api, compiled)
    assert api.runs == []


def test_a_page_to_log_in_is_told_from_an_answer(api, compiled, monkeypatch):
    monkeypatch.setattr(kfp_api._Handler, "_experiments", lambda *_: b"<html>Log in</html>")

    with pytest.raises(ValueError, match=r"does not answer as a KFP server; .* KFP_COOKIE"):
        send(api, compiled)


def test_a_cookie_goes_to_the_server_and_to_no_other(api, compiled):
    server = KfpServer(api.host, token="secret", cookie="authservice_session=x")
    with kfp_api.serving() as other:
        submit.submit(server, compiled, CONFIG, **NAMES)
        api.redirect = f"{other.host}/login"

        with pytest.raises(ValueError, match=f"KFP server, but sends to {api.redirect}; "):
            submit.submit(server, compiled, CONFIG, **NAMES)
        assert other.requests == []
    assert set(api.cookies) == {"authservice_session=x"}


@pytest.mark.parametrize("host", ["kubeflow.example", "ftp://x", "http://", ""])
def test_a_host_without_a_scheme_is_an_error(host):
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        KfpServer(host)


def test_waiting_shows_each_state_once_and_outlasts_a_server_that_is_away(api, capsys):
    api.states = [
        {"state": "PENDING"}, {"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "SUCCEEDED"},
    ]  # fmt: skip
    api.failures = [503, 500]
    submit.wait(KfpServer(api.host), "r7", poll_seconds=0)

    assert capsys.readouterr().out.splitlines() == [
        "run r7: pending", "run r7: running", "run r7: succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"state": "CANCELED"}, "run r7 canceled; see "),
        ({"state": "FAILED", "error": {"message": "no nodes"}}, "run r7 failed: no nodes; see "),
        (
            {
                "state": "FAILED",
                "run_details": {
                    "task_details": [
                        {"display_name": "train", "state": "FAILED"},
                        {"display_name": "prepare-data", "state": "SUCCEEDED"},
                    ]
                },
            },
            "run r7 failed in train; see http://.*/#/runs/details/r7",
        ),
    ],
)
def test_a_run_that_does_not_succeed_fails_the_one_who_waits(api, state, message):
    api.states = [state]

    with pytest.raises(StepFailedError, match=message):
        submit.wait(KfpServer(api.host), "r7", poll_seconds=0)


def test_the_plain_kfp_command_runs_the_same_file(api, compiled, tmp_path):
    kfp = Path(sys.executable).with_name("kfp")
    create = [kfp, "--endpoint", api.host, "run", "create", "-e", "tries", "-r", "by-kfp"]
    ended = subprocess.run(
        [*create, "-f", compiled, "pipeline_config=/runs/my.config", "num_processes=2",
         "evaluation_parts=[0, 1]", 'cpu_limit="16"'],
        env={**os.environ, "HOME": str(tmp_path), "no_proxy": "*"},
        text=True, capture_output=True,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    (run,) = api.runs
    pipeline, platform = yaml.safe_load_all(compiled.read_text())
    sent = run["pipeline_spec"]
    assert [*sent["platform_spec"]["platforms"]] == ["kubernetes"]
    assert json.dumps(sent["platform_spec"], sort_keys=True) == json.dumps(platform, sort_keys=True)
    assert sent["pipeline_spec"]["root"].keys() == pipeline["root"].keys()
    assert run["runtime_config"]["parameters"] == {
        **CONFIG, "num_processes": 2, "evaluation_parts": [0, 1], "cpu_limit": "16",
    }  # fmt: skip
