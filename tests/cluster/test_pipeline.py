"""The compiled pipeline on one machine, its training on the cluster."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.volume import CLAIM, MOUNT
from tests.cluster.control_plane import kubeconfig_text
from tests.cluster.host_path import linked
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.run_dir import RunDir
from tzrec_core.training import finished

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def run(command, **settings):
    """Runs a command, which may clean up if the test is stopped; returns its code and output."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, **settings,
    )  # fmt: skip
    try:
        output, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    return process.returncode, output


def test_the_whole_pipeline_runs_with_its_training_as_a_job(bare_workplace, mlflow, tmp_path):
    namespace = bare_workplace.namespace
    disk = namespace.folder(CLAIM)
    write_click_logs(disk / "clicks.parquet", num_rows=3000, seed=0)
    (disk / "small.config").write_text(CONFIG)
    for path in disk.iterdir():
        shutil.chown(path, 1000, 1000)
    plane = namespace.cluster.control_plane
    token = namespace.token(bare_workplace.account)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        kubeconfig_text(
            plane.admin.url, plane.authority.certificate_file, token, namespace=namespace.name
        )
    )
    tmp_path.chmod(0o755)
    edits = {"train_config.save_checkpoints_steps": 5, "data_config.batch_size": 100}
    command = [
        sys.executable, "-m", "pipelines", "run", "--runner=docker",
        f"run_dir={MOUNT}/dag", f"pipeline_config={MOUNT}/small.config",
        f"train_input_path={MOUNT}/clicks.parquet", "eval_fraction=0.2",
        "launcher=pytorchjob", "num_workers=2", "evaluation_parts=[0, 1]",
        "experiment=whole", f"edit_config_json={json.dumps(edits)}",
        f"worker_json={json.dumps({'env': {'OMP_NUM_THREADS': '1'}})}",
    ]  # fmt: skip
    env = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "MLFLOW_TRACKING_URI": mlflow,
        "OMP_NUM_THREADS": "1",
    }

    with linked(Path(MOUNT), disk):
        code, output = run(command, cwd=tmp_path, env=env)
        run_dir = RunDir(f"{MOUNT}/dag")
        assert code == 0, output
        marker = finished.read(run_dir.checkpoints)
        best = json.loads(run_dir.best.read_text())
        exported = (run_dir.export / "scripted_model.pt").exists()

    (job,) = namespace.jobs().values()
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert marker.world_size == 2
    assert best["metrics"]["auc"] > 0.6
    assert exported
    client = MlflowClient(mlflow)
    experiment = client.get_experiment_by_name("whole")
    (training,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")
    assert training.info.status == "FINISHED"
    assert training.data.tags["job"] == job["metadata"]["name"]
