"""docker-compose: MLflow, every step as a service, and the whole pipeline in one command."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from components.secrets import MLFLOW_CONFIG_MAP, MLFLOW_SECRET, OBJECT_STORE_SECRET
from tests.pipeline_inputs import CONFIG, write_click_logs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

STEPS = ("prepare_data", "train", "evaluate", "select_best", "export")
# One checkpoint: a test that evaluates several takes twice as long and shows no more.
EDITS = '{"train_config.save_checkpoints_steps": 1000}'
PASSWORD = secrets.token_hex(16)
PROXY = "http://127.0.0.1:1"
RIGHTS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
shm = os.statvfs("/dev/shm")
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": int(status["CapBnd"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "writable": [p for p in ("/", "/opt", "/data", "/runs", "/tmp") if os.access(p, os.W_OK)],
    "shm": shm.f_blocks * shm.f_frsize,
}))
"""


class Compose:
    """A project of its own, whose run directories and data are folders of this machine."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.data = folder / "runs", folder / "data"
        for path in (self.runs, self.data, folder / "docker"):
            path.mkdir()
        # Docker's client then gives every container a proxy, and nobody is there.
        proxies = {"default": {"httpProxy": PROXY, "httpsProxy": PROXY}}
        (folder / "docker" / "config.json").write_text(json.dumps({"proxies": proxies}))
        self.runs.chmod(0o777)
        self.project = f"tzrec-test-{secrets.token_hex(4)}"
        self.env = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "CUDA_VISIBLE_DEVICES": "",
            "DOCKER_CONFIG": str(folder / "docker"),
            "MLFLOW_PORT": "0",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.example:*",
            "MLFLOW_TRACKING_URI": "sqlite:///of-this-machine.db",
            "MLFLOW_TRACKING_USERNAME": "somebody",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            "NO_PROXY": ".example",
            "OMP_NUM_THREADS": "1",
            "TZREC_RUNS": str(self.runs),
            "TZREC_DATA": str(self.data),
            "TZREC_DEMO_ROWS": "6000",
            "TZREC_SHM_SIZE": "512m",
        }
        self.env.pop("TZREC_MLFLOW_URI", None)
        self.said = ""

    def run(self, *arguments: str) -> str:
        """Runs a command that must succeed; keeps all that it says."""
        ended = subprocess.run(
            arguments,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        self.said += ended.stdout
        assert ended.returncode == 0, ended.stdout[-3000:]
        return ended.stdout

    def step(self, service: str, *flags: str) -> str:
        return self.run(*COMPOSE, "run", "--rm", "-T", service, *flags)

    def fail(self, service: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Runs a step that need not succeed; keeps all that it says, too."""
        command = [*COMPOSE, "run", "--rm", "-T", service, *flags]
        ended = subprocess.run(command, env=self.env, text=True, capture_output=True, check=False)
        self.said += ended.stdout + ended.stderr
        return ended


COMPOSE = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


@pytest.fixture(scope="module")
def compose(tmp_path_factory):
    project = Compose(tmp_path_factory.mktemp("compose"))
    try:
        said = project.run("make", "up")
        project.mlflow = said.split("MLflow is up: ")[1].split()[0]
        yield project
    finally:
        subprocess.run([*COMPOSE, "down", "--volumes"], env=project.env, check=False)


@pytest.fixture(scope="module")
def in_compose(compose):
    """The folder of a run whose steps were services, trained by two ranks."""
    write_click_logs(compose.data / "rows.parquet", num_rows=3000, seed=0)
    (compose.data / "my.config").write_text(CONFIG)
    compose.step(
        "prepare_data", "--pipeline_config=/data/my.config", "--experiment=compose",
        "--train_input_path=/data/rows.parquet", "--seed=7", f"--edit_config_json={EDITS}",
    )  # fmt: skip
    compose.step("train", "--num_processes=2")
    compose.step("evaluate", "--num_processes=2")
    compose.step("select_best")
    compose.step("export")
    return compose.runs / "first"


@pytest.fixture(scope="module")
def on_this_machine(compose, in_compose, tmp_path_factory):
    """The folder of the same run by the local runner."""
    run_dir = tmp_path_factory.mktemp("local") / "run"
    values = {
        "pipeline_config": compose.data / "my.config",
        "train_input_path": compose.data / "rows.parquet",
        "run_dir": run_dir,
        "seed": 7,
        "edit_config_json": EDITS,
        "num_processes": 2,
        "experiment": "local",
    }
    subprocess.run(
        [sys.executable, "-m", "pipelines", "run", *(f"{k}={v}" for k, v in values.items())],
        env={**compose.env, "MLFLOW_TRACKING_URI": compose.mlflow},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return run_dir


def best(run_dir: Path) -> dict:
    return json.loads((run_dir / "evaluation" / "best.json").read_text())


def test_services_give_the_results_of_the_local_runner(in_compose, on_this_machine):
    here, there = best(on_this_machine), best(in_compose)

    assert there["checkpoint"] == here["checkpoint"]
    assert there["metrics"] == pytest.approx(here["metrics"], rel=1e-5)
    assert there["metrics"]["auc"] > 0.7
    assert (in_compose / "export" / "scripted_model.pt").exists()
    assert (in_compose / "report" / "index.html").exists()


def test_mlflow_has_the_run_of_every_step(compose, in_compose):
    client = MlflowClient(compose.mlflow)
    experiment = client.get_experiment_by_name("compose")
    runs = client.search_runs([experiment.experiment_id])
    of_steps = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    [parent] = [run for run in runs if run not in of_steps]

    assert {run.info.run_name.split(" · ")[0] for run in of_steps} == set(STEPS)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert {run.data.tags["mlflow.parentRunId"] for run in of_steps} == {parent.info.run_id}
    image = f"tzrec-pipelines/runtime:{version('tzrec-pipelines')}"
    images = {run.data.tags["stage"]: run.data.tags.get("image") for run in of_steps}
    assert {step: images[step] for step in ("prepare_data", "train")} == {
        "prepare_data": image, "train": image,
    }  # fmt: skip
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files  # they came over the network, into the server's volume


def test_mlflow_shows_its_page_to_this_machine_only(compose):
    with urllib.request.urlopen(compose.mlflow) as page:
        assert "<title>MLflow</title>" in page.read().decode()
    request = urllib.request.Request(compose.mlflow, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert compose.mlflow.startswith("http://127.0.0.1:")


def test_a_name_for_browsers_is_added_to_those_by_which_steps_reach_mlflow(compose, in_compose):
    request = urllib.request.Request(compose.mlflow, headers={"Host": "mlflow.example:5000"})
    with urllib.request.urlopen(request) as page:
        assert page.status == 200


def test_a_proxy_of_dockers_settings_is_not_for_mlflow(compose, in_compose):
    program = "import os; print([os.environ[n] for n in ('HTTP_PROXY', 'NO_PROXY', 'no_proxy')])"
    said = compose.run(
        *COMPOSE, "run", "--rm", "-T", "--entrypoint", "python3", "train", "-c", program
    )

    exceptions = "localhost,127.0.0.1,mlflow,.example"
    assert said.splitlines()[-1] == str([PROXY, exceptions, exceptions])


def test_an_image_that_is_not_there_is_not_pulled_and_is_said_with_what_builds_it(compose):
    image = "tzrec-pipelines/none:0"
    images = {"TZREC_IMAGE": image, "TZREC_MLFLOW_IMAGE": image}
    env = {**compose.env, **images, "COMPOSE_PROJECT_NAME": f"{compose.project}-missing"}
    said = []
    try:
        for command in (["make", "up"], [*COMPOSE, "run", "--rm", "-T", "train", "--help"]):
            ended = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
            assert ended.returncode != 0
            said.append(ended.stdout + ended.stderr)
    finally:
        subprocess.run([*COMPOSE, "down", "--volumes"], env=env, check=False)

    assert "'make images' builds it" in said[0]
    assert "run-make-images-first" in said[1]
    assert not any("pull" in one.lower() for one in said)


def test_a_step_has_no_rights(compose):
    said = compose.run(
        *COMPOSE, "run", "--rm", "-T", "--entrypoint", "python3", "train", "-c", RIGHTS
    )
    seen = json.loads(said[said.index("{") :])

    assert seen == {
        "ids": [1000, 1000],
        "capabilities": 0,
        "no_new_privileges": 1,
        "writable": ["/runs", "/tmp"],
        "shm": 512 << 20,
    }


@pytest.fixture(scope="module")
def services(compose):
    # Not by compose.run: it prints the environment, as is its purpose.
    shown = subprocess.run(
        [*COMPOSE, "--profile", "steps", "config"],
        env=compose.env,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return yaml.safe_load(shown)["services"]


def test_every_service_is_confined(services):
    assert set(services) == {"mlflow", "demo", *STEPS}
    for name, service in services.items():
        assert service["user"] == "1000:1000", name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["image"].endswith(f":{version('tzrec-pipelines')}"), name
        assert service["pull_policy"] == "never", name


def test_steps_see_the_gpus_that_the_caller_sees(services):
    assert {services[step]["environment"]["CUDA_VISIBLE_DEVICES"] for step in STEPS} == {""}


def test_steps_get_what_a_cluster_takes_from_secrets_and_the_docs_name_all_of_it():
    services = yaml.safe_load(Path("docker-compose.yaml").read_text())["services"]
    [environment] = {frozenset(services[step]["environment"]) for step in STEPS}
    handed_on = {name for name in environment if name.startswith(("AWS_", "MLFLOW_"))}
    docs = Path("docs/containers.md").read_text()

    assert handed_on == {*MLFLOW_CONFIG_MAP, *MLFLOW_SECRET, *OBJECT_STORE_SECRET}
    assert [name for name in handed_on if f"`{name}`" not in docs] == []


def test_export_asks_the_gate_of_the_run_directory_that_its_flag_names(compose, in_compose):
    shutil.copytree(in_compose, compose.runs / "blocked")
    gate = compose.runs / "blocked" / "evaluation" / "gate.json"
    gate.write_text(gate.read_text().replace('"pass"', '"block"'))

    ended = compose.fail("export", "--run_dir=/runs/blocked")

    assert ended.returncode == 1
    assert "error: the gate blocks model.ckpt-" in ended.stderr
    assert str(gate.relative_to(compose.runs)) in ended.stderr
    compose.step("export")  # of the run that the environment names


def test_flags_of_a_mistake_end_in_one_line(compose, in_compose):
    ended = compose.fail("export", "--run_dir=/runs/none")

    assert ended.returncode == 2
    [line] = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert "/runs/none" in line


def test_the_demo_runs_the_whole_pipeline(compose):
    said = compose.step("demo")

    run_dir = compose.runs / said.split("everything is in /runs/")[1].split()[0]
    assert (run_dir / "export" / "scripted_model.pt").exists()
    assert best(run_dir)["metrics"]["auc"] > 0.55


def test_a_demo_that_is_stopped_stops_its_step(compose):
    container = f"{compose.project}-stopped"
    rows = ["-e", "ROWS=200000"]  # for a training of ten seconds
    compose.run(*COMPOSE, "run", "--detach", *rows, "--name", container, "demo")
    try:
        with subprocess.Popen(
            ["docker", "logs", "--follow", container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as log:
            said = iter(log.stdout)
            assert any("Training Epoch" in line for line in said), "it has not trained"
            compose.run("docker", "stop", container)
            rest = "".join(said)
        facts = "--format={{.Config.StopTimeout}} {{.State.ExitCode}}"
        ended = compose.run("docker", "inspect", facts, container).split()
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=False)

    assert ended == ["330", "143"]  # its limit, and its exit code
    assert "Stopped after step" in rest
    assert "--- evaluate" not in rest


def test_secrets_are_said_nowhere(compose, in_compose):
    compose.run(*COMPOSE, "logs", "--no-color", "mlflow")

    assert "chose model.ckpt-" in compose.said  # it has what the steps have said
    assert PASSWORD not in compose.said
    holders = [
        path
        for path in in_compose.rglob("*")
        if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert holders == []


def test_down_keeps_what_mlflow_knows(compose, in_compose):
    compose.run("make", "down")
    said = compose.run("make", "up")
    compose.mlflow = said.split("MLflow is up: ")[1].split()[0]

    assert MlflowClient(compose.mlflow).get_experiment_by_name("compose") is not None


def test_clean_deletes_the_volumes(compose, tmp_path):
    """In a folder of its own: it deletes more than volumes."""
    shutil.copy("docker-compose.yaml", tmp_path)
    (tmp_path / "images").mkdir()  # where an image that is missing would be built
    env = {**compose.env, "COMPOSE_PROJECT_NAME": f"{compose.project}-clean"}
    env = {name: env[name] for name in env if name not in ("TZREC_RUNS", "TZREC_DATA")}
    label = f"label=com.docker.compose.project={env['COMPOSE_PROJECT_NAME']}"

    def volumes():
        command = ["docker", "volume", "ls", "--quiet", "--filter", label]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()

    for command in (
        [*COMPOSE, "--profile", "steps", "up", "--no-start", "train", "mlflow"],
        ["make", "--file", str(Path("Makefile").absolute()), "clean"],
    ):
        found = volumes()
        subprocess.run(command, cwd=tmp_path, env=env, check=True)

    assert len(found) == 3
    assert volumes() == []
