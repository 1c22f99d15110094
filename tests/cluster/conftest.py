import itertools
import json
import os
import shutil
import signal
from contextlib import suppress
from importlib.metadata import version

import docker
import docker.errors
import pytest
import urllib3

from components.images import LAUNCHER_IMAGE, RUNTIME_IMAGE
from components.volume import CLAIM
from tests.cluster import binaries
from tests.cluster import cluster as clusters
from tests.cluster.pods import pod
from tests.cluster.workplace import RUN_DIR, Workplace, copy_run, step_pod
from tests.pipeline_inputs import CONFIG, write_click_logs

MLFLOW_IMAGE = f"tzrec-pipelines/mlflow:{version('tzrec-pipelines')}"
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def engine():
    """Docker, with the images that pods run."""
    if os.geteuid() != 0:
        raise binaries.MissingError("the cluster tests need root: they give files to user 1000")
    try:
        found = docker.from_env()
    except docker.errors.DockerException as error:
        raise binaries.MissingError(f"Docker does not answer: {error}") from None
    for image in (RUNTIME_IMAGE, LAUNCHER_IMAGE):
        binaries.require_image(found, image)
    yield found
    found.close()


@pytest.fixture(scope="session")
def cluster(engine, tmp_path_factory):
    """One cluster for all tests; SIGTERM ends it as Ctrl-C does."""
    folder = tmp_path_factory.mktemp("cluster")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with clusters.running(engine, folder) as running:
            yield running
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def namespace(cluster):
    """An empty namespace, and the certainty that no stand-in made a mistake."""
    yield cluster.namespace(f"tests-{next(_NUMBERS)}")
    assert cluster.errors == []


@pytest.fixture(scope="session")
def mlflow(cluster):
    """The address of an MLflow server, for pods and for this machine."""
    binaries.require_image(cluster.engine, MLFLOW_IMAGE)
    namespace = cluster.namespace("mlflow")
    any_host = {"name": "MLFLOW_SERVER_ALLOWED_HOSTS", "value": "*"}
    server = pod("mlflow", MLFLOW_IMAGE, (), container={"env": [any_host]})
    namespace.start(server)

    def answers():
        address = (namespace.pod("mlflow")["status"]).get("podIP")
        with suppress(urllib3.exceptions.HTTPError):
            if address and urllib3.request("GET", f"http://{address}:5000/health").status == 200:
                return f"http://{address}:5000"
        return None

    return clusters.wait_until(answers, "an answer of MLflow", seconds=180)


@pytest.fixture(scope="session")
def prepared(cluster):
    """A run directory that the step prepare_data has filled, in the image that it is run in."""
    namespace = cluster.namespace("prepared")
    namespace.apply(*(m for m in clusters.manifests() if m["kind"] == "PersistentVolumeClaim"))
    disk = namespace.folder(CLAIM)
    write_click_logs(disk / "clicks.parquet", num_rows=4000, seed=0)
    (disk / "small.config").write_text(CONFIG)
    for path in disk.iterdir():
        shutil.chown(path, 1000, 1000)
    edits = {"data_config.batch_size": 100, "train_config.save_checkpoints_steps": 10}
    command = [
        "python3", "-m", "components.cli", "prepare_data", f"--run_dir={RUN_DIR}",
        "--pipeline_config=/runs/small.config", "--train_input_path=/runs/clicks.parquet",
        "--eval_fraction=0.05", f"--edit_config_json={json.dumps(edits)}",
    ]  # fmt: skip
    namespace.start(step_pod("prepare-data", RUNTIME_IMAGE, command))
    ended = namespace.ended("prepare-data")
    assert ended["status"]["phase"] == "Succeeded", namespace.log("prepare-data")
    return disk / "run"


@pytest.fixture
def bare_workplace(namespace):
    """A namespace with the project's manifests, and nothing on its volume."""
    manifests = clusters.manifests()
    namespace.apply(*manifests)
    (account,) = [m["metadata"]["name"] for m in manifests if m["kind"] == "ServiceAccount"]
    return Workplace(namespace, account)


@pytest.fixture
def workplace(bare_workplace, prepared):
    """The same with a prepared run directory."""
    run_id = bare_workplace.namespace.name
    copy_run(prepared, bare_workplace.run_dir, pipeline_run_id=run_id)
    return bare_workplace
