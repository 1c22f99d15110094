"""The step over a prepared run directory, on a cluster whose jobs do what the test says."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
from kubernetes import config
from mlflow import MlflowClient

from components import volume
from components.launch_train import step
from components.launch_train.job import job_name
from components.launch_train.step import launch_train
from components.prepare_data.step import prepare_data
from components.steps import StepFailedError
from components.volume import CLAIM
from tests.components.launch_train.fake_cluster import NAMESPACE, TIME
from tests.components.launch_train.test_life_cycle import begin, fail, succeed, told
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.run_dir import RunDir
from tzrec_core.training import finished
from tzrec_core.training.finished import Finished


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A prepared run directory on what is the volume here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(volume, "MOUNT", str(tmp_path))
    (tmp_path / "small.config").write_text(CONFIG)
    data = write_click_logs(tmp_path / "clicks.parquet", num_rows=300, seed=0)
    place = RunDir(tmp_path / "run")
    prepare_data(
        run_dir=str(place.path),
        pipeline_config=str(tmp_path / "small.config"),
        train_input_path=str(data),
        eval_fraction=0.2,
    )
    return place


@pytest.fixture
def here(cluster, place, tmp_path, monkeypatch):
    """Makes the cluster the one that the step finds."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)
    monkeypatch.setattr(step, "_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(step, "_MARKER_SECONDS", 0.1)
    return cluster


def launch(place, **parameters):
    values = {"launcher": "pytorchjob", "image": "runtime@sha256:1", "num_workers": 2, **parameters}
    return launch_train(run_dir=str(place.path), **values)


def name_of(place):
    return job_name(CLAIM, str(place.path))


def train(place, global_step=8):
    """Leaves behind what workers leave behind."""

    def leave(_):
        place.checkpoint(global_step).mkdir(parents=True)
        finished.mark(place.checkpoints, Finished(global_step, 2, None))

    return leave


def container(cluster, place):
    job = cluster.job(name_of(place))
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return container


def test_a_training_elsewhere_has_the_outputs_of_one_here(here, place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # as a config map may have it
    here.script.extend([begin(here), train(place), succeed(here)])

    assert launch(place) == {
        "checkpoints": {"path": str(place.checkpoints), "step": 8},
        "checkpoint_step": 8,
    }
    command = container(here, place)["command"]
    assert command == ["python3", "-u", "-m", "components.train.worker", f"--run_dir={place.path}"]
    assert not [variable for variable in container(here, place)["env"] if "value" in variable]


def test_a_success_without_the_word_of_rank_0_is_not_believed(here, place):
    train(place)(None)  # of a training before this one
    here.script.extend([begin(here), succeed(here)])

    with pytest.raises(StepFailedError, match="rank 0 has not come to the end"):
        launch(place)


def test_a_retry_knows_its_job_though_another_run_was_prepared_meanwhile(here, place):
    here.script.extend([begin(here), fail(here)])
    with pytest.raises(StepFailedError):
        launch(place, pipeline_run_id="first")
    here.holds(name_of(place), "Running")
    place.write_info(dataclasses.replace(place.read_info(), pipeline_run_id="second"))
    here.script.extend([begin(here), train(place), succeed(here)])

    assert launch(place, pipeline_run_id="first")["checkpoint_step"] == 8
    assert len(here.requests("POST")) == 1


def test_a_second_attempt_finds_the_finished_job(here, place):
    here.script.extend([begin(here), train(place), succeed(here)])
    first = launch(place)

    assert launch(place) == first
    assert len(here.requests("POST")) == 1


def test_workers_log_into_the_run_of_the_step(here, place, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    here.script.extend([begin(here), train(place), succeed(here)])
    launch(place, mlflow_secret="mine")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(place.read_info().experiment)
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")

    env = {variable["name"]: variable for variable in container(here, place)["env"]}
    assert env["MLFLOW_RUN_ID"]["value"] == run.info.run_id
    assert env["MLFLOW_TRACKING_URI"]["value"] == uri
    password = env["MLFLOW_TRACKING_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert password == {"name": "mine", "key": "password", "optional": True}
    assert run.info.status == "FINISHED"
    assert run.data.tags["launcher"] == "pytorchjob"
    assert run.data.tags["job"] == name_of(place)
    assert run.data.tags["num_workers"] == "2"


def test_a_failed_training_marks_its_run(here, place, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    here.script.extend([begin(here), fail(here)])

    with pytest.raises(StepFailedError):
        launch(place)

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(place.read_info().experiment)
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")
    assert run.info.status == "FAILED"


def test_a_job_is_deleted_with_the_pod_of_the_step(here, place, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "mine")
    here.pods["mine"] = {
        "metadata": {"name": "mine", "uid": "7", "labels": {}, "creationTimestamp": TIME},
        "status": {"phase": "Running"},
    }
    here.script.extend([begin(here), train(place), succeed(here)])
    launch(place)

    (owner,) = here.job(name_of(place))["metadata"]["ownerReferences"]
    assert owner == {
        "apiVersion": "v1", "kind": "Pod", "name": "mine", "uid": "7", "blockOwnerDeletion": False,
    }  # fmt: skip


def test_a_pod_that_is_not_there_owns_nothing(here, place, monkeypatch, caplog):
    monkeypatch.setenv("KFP_POD_NAME", "mine")
    here.script.extend([begin(here), train(place), succeed(here)])
    launch(place)

    assert "ownerReferences" not in here.job(name_of(place))["metadata"]
    assert any("there is no pod mine" in line for line in told(caplog))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"launcher": "mpijob"}, "launcher must be pytorchjob or trainjob, got 'mpijob'"),
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"worker_json": '{"gpus": 1}'}, "worker_json has no 'gpus'"),
        (
            {"num_processes": 4, "worker_json": '{"resources": {"nvidia.com/gpu": 2}}'},
            "4 processes share 2 nvidia.com/gpu of a worker",
        ),
        ({"image": ""}, "image is empty, and so is TZREC_IMAGE"),
        ({"launcher": "trainjob", "worker_json": '{"min_workers": 1}'}, "is for a PyTorchJob"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(here, place, parameters, message, monkeypatch):
    monkeypatch.delenv("TZREC_IMAGE", raising=False)

    with pytest.raises(ValueError, match=message):
        launch(place, **parameters)
    assert list(here.api) == []


@pytest.mark.parametrize(
    "uri", ["https://me:pw@host/x", " http://me@host", "postgres://:pw@host/x"]
)
@pytest.mark.parametrize("by", ["environment", "worker_json"])
def test_credentials_in_an_address_are_refused_and_not_repeated(here, place, monkeypatch, uri, by):
    variables = {"MLFLOW_TRACKING_URI": uri}
    if by == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    settings = {} if by == "environment" else {"env": variables}

    with pytest.raises(ValueError, match="belong into the secret mine, as its keys") as refused:
        launch(place, mlflow_secret="mine", worker_json=json.dumps(settings))
    assert "host" not in str(refused.value)
    assert list(here.api) == []


def test_an_at_sign_elsewhere_in_an_address_is_no_credential(here, place, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/me@host.db")
    here.script.extend([begin(here), train(place), succeed(here)])

    assert launch(place)["checkpoint_step"] == 8


def test_workers_must_find_the_run_directory(here, place, monkeypatch):
    monkeypatch.setattr(volume, "MOUNT", "/runs")

    with pytest.raises(ValueError, match="is not below /runs, where workers find the volume"):
        launch(place)


def test_a_run_directory_must_be_prepared(here, tmp_path):
    with pytest.raises(ValueError, match="run prepare_data on this run_dir first"):
        launch(RunDir(tmp_path / "other"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_deletes_the_job_and_ends_the_process(here, place, tmp_path, signum, code):
    here.script.append(begin(here))
    program = (
        "import sys; from components import cli, steps, volume\n"
        f"volume.MOUNT = {str(tmp_path)!r}\n"
        "steps.run(cli.main, sys.argv[1:])"
    )
    flags = [f"--run_dir={place.path}", "--launcher=pytorchjob", "--num_workers=2", "--image=x"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program, "launch_train", *flags],
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if "0: Training Epoch 0" in line:
            process.send_signal(signum)
    process.wait()

    assert process.returncode == code
    assert here.job(name_of(place)) is None
    assert len(here.requests("DELETE", NAMESPACE)) == 1
