"""The launcher's image, as a pod with the project's own role, and workers that really train."""

import json

import pytest
from mlflow import MlflowClient

from components.launch_train.job import job_name
from components.volume import CLAIM
from tests.cluster.cluster import wait_until
from tests.cluster.workplace import RUN_DIR
from tzrec_core.training import finished

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SECRET = "correct-horse-battery-staple"


def make_long(workplace):
    """Makes a training long enough to do something to it."""
    workplace.edit_config("batch_size: 100", "batch_size: 8")
    workplace.edit_config("save_checkpoints_steps: 10", "save_checkpoints_steps: 20")


def outcome(namespace, pod="launcher"):
    """Waits for the end of a pod; returns the exit code and the log."""
    (status,) = namespace.ended(pod)["status"]["containerStatuses"]
    return status["state"]["terminated"]["exitCode"], namespace.log(pod)


def checkpoint_step(log):
    """Returns what the step has printed at the end."""
    return json.loads(log[log.rindex("\n{\n") :])["checkpoint_step"]


def restored_step(log):
    """Returns the step that the training last went on from."""
    restored = [line for line in log.splitlines() if "Restored" in line]
    assert restored, log
    return int(restored[-1].partition("model.ckpt-")[2].split()[0].rstrip(":,."))


def wait_for_checkpoint(workplace):
    return wait_until(lambda: workplace.checkpoints() or None, "a checkpoint", seconds=300)


def workers_of(namespace, launcher="launcher"):
    """Waits until both pods of a job run; returns its name and theirs."""
    job = namespace.wait_for_job(launcher)
    workers = [f"{job}-worker-0", f"{job}-worker-1"]

    def run():
        pods = namespace.pods()
        phases = [pods[name]["status"].get("phase") for name in workers if name in pods]
        return True if phases == ["Running", "Running"] else None

    wait_until(run, "a start of both workers", seconds=300)
    return job, *workers


def test_two_workers_train_until_rank_0_has_marked_the_end(workplace, mlflow):
    namespace = workplace.namespace
    about = {"metadata": {"name": "tzrec-mlflow"}}
    keys = {"username": "somebody", "password": SECRET}
    namespace.apply(
        {"kind": "ConfigMap", **about, "data": {"tracking_uri": mlflow}},
        {"kind": "Secret", **about, "stringData": keys},
    )

    workplace.start_launcher()
    job, _, worker = workers_of(namespace)
    entries = namespace.container(worker).attrs["Config"]["Env"]
    environment = dict(entry.split("=", 1) for entry in entries)
    (container,) = namespace.pod(worker)["spec"]["containers"]
    code, log = outcome(namespace)
    worker_log = namespace.log(worker)

    assert code == 0, log
    assert job == job_name(CLAIM, RUN_DIR)
    marker = finished.read(workplace.run_dir / "checkpoints")
    assert marker.world_size == 2
    assert checkpoint_step(log) == marker.global_step == workplace.checkpoints()[-1]
    assert "Training Epoch" in log  # the first worker's own words
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert not [path for path in mounts if "serviceaccount" in path]

    assert environment["MLFLOW_TRACKING_URI"] == mlflow
    assert environment["MLFLOW_TRACKING_USERNAME"] == "somebody"
    assert environment["MLFLOW_TRACKING_PASSWORD"] == SECRET
    assert SECRET not in log + worker_log + json.dumps(namespace.jobs())
    run = MlflowClient(mlflow).get_run(environment["MLFLOW_RUN_ID"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["job"] == job  # by the launcher
    assert [name for name in run.data.metrics if name.endswith("auc")]  # by rank 0


def test_a_rank_that_crashes_whenever_it_is_started_is_quoted(workplace):
    namespace = workplace.namespace
    for part in (workplace.run_dir / "data").rglob("train/*.parquet"):
        part.write_bytes(b"this is no Parquet file")

    workplace.start_launcher(backoff_limit=1)
    code, log = outcome(namespace)

    assert code == 1, log
    error = log[log.index("error: ") :]
    assert "backoff limit" in error
    assert "exit code 1" in error
    assert "Parquet" in error
    assert "-worker-0" in error


def test_a_worker_that_is_killed_costs_no_more_than_the_steps_since_the_last_checkpoint(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher(max_restarts=2, backoff_limit=6)
    _, _, worker = workers_of(namespace)
    before = wait_for_checkpoint(workplace)[-1]
    namespace.container(worker).kill("SIGKILL")
    code, log = outcome(namespace)

    assert code == 0, log
    assert f"{worker}: exit code 137" in log
    assert restored_step(log) >= before
    assert checkpoint_step(log) == workplace.checkpoints()[-1]


def test_a_launcher_that_is_killed_finds_its_job_again(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher()
    job, _, _ = workers_of(namespace)
    uid = namespace.jobs()[job]["metadata"]["uid"]
    namespace.container("launcher").kill("SIGKILL")
    assert outcome(namespace)[0] == 137
    workplace.start_launcher("again")
    namespace.wait_for_log("again", "following it")
    # The pod of the first attempt may be cleaned up at any time.
    namespace.api.delete(f"/api/v1/namespaces/{namespace.name}/pods/launcher")
    code, log = outcome(namespace, "again")

    assert code == 0, log
    assert namespace.jobs()[job]["metadata"]["uid"] == uid
    assert checkpoint_step(log) == workplace.checkpoints()[-1]


def test_a_run_that_is_submitted_again_stops_what_an_earlier_one_has_left_behind(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher()
    job, _, _ = workers_of(namespace)
    uid = namespace.jobs()[job]["metadata"]["uid"]
    before = wait_for_checkpoint(workplace)[-1]
    namespace.container("launcher").kill("SIGKILL")
    assert outcome(namespace)[0] == 137
    info = workplace.run_dir / "run.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "pipeline_run_id": "another"}))
    workplace.start_launcher("again")
    code, log = outcome(namespace, "again")

    assert code == 0, log
    assert "whose launcher is gone; anew" in log
    assert namespace.jobs()[job]["metadata"]["uid"] != uid
    assert restored_step(log) >= before


def test_a_launcher_that_is_told_to_stop_takes_its_job_along(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher()
    _, *workers = workers_of(namespace)
    before = wait_for_checkpoint(workplace)[-1]
    namespace.container("launcher").kill("SIGTERM")
    code, log = outcome(namespace)

    assert code == 143, log
    namespace.wait_until_gone(*workers)
    assert workplace.checkpoints()[-1] > before  # torchrun had the time for a last one


def test_a_job_is_deleted_with_the_pod_that_watches_it(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher()
    _, *workers = workers_of(namespace)
    wait_for_checkpoint(workplace)
    pod = f"/api/v1/namespaces/{namespace.name}/pods/launcher"
    namespace.api.delete(pod, gracePeriodSeconds=0)

    namespace.wait_until_gone("launcher", *workers)


def test_an_account_without_the_role_is_told_what_it_may_not_do(workplace):
    namespace = workplace.namespace
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace.name}/rolebindings"
    for binding in namespace.api.get(path)["items"]:
        namespace.api.delete(f"{path}/{binding['metadata']['name']}")

    workplace.start_launcher()
    code, log = outcome(namespace)

    assert code == 1, log
    error = log[log.index("error: ") :]
    account = f"system:serviceaccount:{namespace.name}:{workplace.account}"
    assert f"{account} may not get" in error
    assert "deploy/" in error
    assert namespace.jobs() == {}


def test_a_job_that_takes_too_long_is_deleted(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher(timeout_seconds=4)
    _, *workers = workers_of(namespace)
    code, log = outcome(namespace)

    assert code == 1, log
    assert "was not finished after 4 s" in log[log.index("error: ") :]
    namespace.wait_until_gone(*workers)  # although torchrun may not have begun to listen


def test_a_job_that_somebody_deletes_is_a_failure(workplace):
    namespace = workplace.namespace
    make_long(workplace)

    workplace.start_launcher()
    job, *_ = workers_of(namespace)
    namespace.wait_for_log("launcher", "is running")
    namespace.delete_job(job)
    code, log = outcome(namespace)

    assert code == 1, log
    assert "was deleted by somebody else" in log[log.index("error: ") :]


def test_success_without_the_marker_of_this_training_is_not_believed(workplace):
    namespace = workplace.namespace
    stub = workplace.run_dir.parent / "stub"
    stub.mkdir()
    (stub / "sitecustomize.py").write_text("import os\nos._exit(0)  # a success without work\n")
    stale = workplace.run_dir / "checkpoints"
    (stale / "model.ckpt-7").mkdir(parents=True)
    finished.mark(stale, finished.Finished(global_step=7, world_size=2, launch=None))
    for path in (stub, stale, stale / "model.ckpt-7", stale / finished.FILE):
        workplace.give(path)

    workplace.start_launcher(env={"PYTHONPATH": "/runs/stub"})
    code, log = outcome(namespace)

    assert code == 1, log
    assert "rank 0 has not come to the end" in log[log.index("error: ") :]
