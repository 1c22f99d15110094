"""``python -m pipelines run --runner docker``: what a step is in its container, and its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from kfp import compiler, dsl
from mlflow import MlflowClient

from components.container import EXECUTOR_MARKER
from components.images import RUNTIME_IMAGE
from components.steps import StepFailedError
from pipelines.local import docker_runner, runner
from pipelines.local.docker_runner import containers
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.run_dir import RunDir

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

STEP = """
import json, os, sys
message = json.loads(sys.argv[2])
values = message["inputs"]["parameterValues"]
print("[log] first line", flush=True)
exec(values["code"])
"""


def component(image):
    @dsl.container_component
    def step(run_dir: str, code: str, source: str, seen: dsl.OutputPath(str)):
        return dsl.ContainerSpec(image, ["python3", "-c", STEP], [EXECUTOR_MARKER, "{{$}}"])

    return step


def compiled(path, image=RUNTIME_IMAGE):
    @dsl.pipeline(name="one-step")
    def one_step(run_dir: str, code: str, source: str = "", launcher: str = "local"):
        component(image)(run_dir=run_dir, code=code, source=source)

    compiler.Compiler().compile(one_step, str(path / "one.yaml"))
    return path / "one.yaml"


@pytest.fixture
def yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return compiled(tmp_path)


def run(yaml, run_dir, code, env=None, mounts=(), **values):
    values = {"run_dir": str(run_dir), "code": code, **values}
    return runner.run(yaml, values, env=env or {}, runner="docker", mounts=mounts)


def ours(run_dir=None):
    """The containers of a run, or of all."""
    label = "tzrec-pipelines.run_dir" + (f"={run_dir}" if run_dir else "")
    return docker.from_env().containers.list(all=True, filters={"label": label})


LOOK = """
def can_write(folder):
    try:
        open(folder + "/written", "w").close()
        return True
    except OSError:
        return False
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mounts = [line.split() for line in open("/proc/self/mountinfo")]
seen = {
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "cwd": os.getcwd(),
    "capabilities": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")],
    "no_new_privileges": int(status["NoNewPrivs"]),
    "folders": {  # those of the host: neither Docker's own nor parts of the kernel's
        m[4]: m[5].split(",")[0]
        for m in mounts
        if m[3] != "/" and not m[4].startswith(("/etc/", "/proc/", "/sys/", "/dev/"))
        and not m[4].endswith("/docker-init")
    },
    "writable": [
        folder
        for folder in ("/", "/usr", "/opt/venv", "/etc", "/tmp", "/dev/shm", values["run_dir"])
        if can_write(folder)
    ],
    "shared_memory": os.statvfs("/dev/shm").f_frsize * os.statvfs("/dev/shm").f_blocks,
    "env": dict(os.environ),
    "source": [open(path).read() for path in values["source"].split(",") if path],
}
json.dump(seen, open(values["run_dir"] + "/seen.json", "w"))
"""


def test_a_step_has_the_rights_and_the_folders_it_needs_and_no_others(
    yaml, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret-of-mlflow")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-of-s3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("UNRELATED", "1")
    for name in ("given.txt", "named.txt", "certificate.pem", "neither.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "certificate.pem"))

    env = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "GIVEN": "2"}
    mounts = [tmp_path / "given.txt"]
    run(yaml, tmp_path / "run", LOOK, source="named.txt", env=env, mounts=mounts)

    seen = json.loads((tmp_path / "run" / "seen.json").read_text())
    owner = os.getuid() or 1000
    assert seen["uid"] == owner
    assert seen["gid"] == (os.getgid() if os.getuid() else 1000)
    assert 0 not in seen["groups"]
    assert seen["capabilities"] == [0, 0, 0]
    assert seen["no_new_privileges"] == 1
    assert seen["writable"] == ["/tmp", "/dev/shm", str(tmp_path / "run")]
    assert seen["shared_memory"] >= 2**30
    read_only = {str(tmp_path / f"{name}"): "ro" for name in ("given.txt", "named.txt")}
    read_only[str(tmp_path / "certificate.pem")] = "ro"
    theirs = {
        path: mode for path, mode in seen["folders"].items() if Path(path).is_relative_to(tmp_path)
    }
    assert theirs == {str(tmp_path / "run"): "rw", **read_only}
    assert not {path for path in seen["folders"] if path.startswith(("/home", "/root", "/var"))}
    assert seen["source"] == ["named.txt"]  # the relative path means what it means here
    assert seen["cwd"] == str(tmp_path)
    assert seen["env"].items() >= {**env, "MLFLOW_TRACKING_PASSWORD": "s3cret-of-mlflow"}.items()
    assert seen["env"]["AWS_SECRET_ACCESS_KEY"] == "s3cret-of-s3"
    assert seen["env"]["CUDA_VISIBLE_DEVICES"] == ""
    assert "UNRELATED" not in seen["env"]
    assert "s3cret" not in "".join(capfd.readouterr())
    assert {path.stat().st_uid for path in (tmp_path / "run").glob("kfp/*/*")} <= {owner}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_what_steps_of_another_caller_than_root_write_is_the_callers_own(yaml, tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from pipelines.local import docker_runner, runner\n"
        "os.setgroups([os.stat('/var/run/docker.sock').st_gid, 4321])\n"
        "os.setgid(1234)\nos.setuid(1234)\nos.chdir(sys.argv[1])\n"
        "values = {'run_dir': 'run', 'code': sys.argv[3], 'source': 'theirs.txt'}\n"
        "runner.run(Path(sys.argv[2]), values, env={}, runner='docker')"
    )
    folder = Path(tempfile.mkdtemp(dir=tmp_path.parents[2]))  # pytest's own are closed to others
    try:
        (folder / "theirs.txt").write_text("theirs")
        (folder / "theirs.txt").chmod(0o040)
        os.chown(folder / "theirs.txt", 0, 4321)
        os.chown(folder, 1234, 1234)
        shutil.copy(yaml, folder)
        subprocess.run(
            [sys.executable, "-c", program, folder, folder / yaml.name, LOOK], check=True
        )

        seen = json.loads((folder / "run" / "seen.json").read_text())
        assert (seen["uid"], seen["gid"]) == (1234, 1234)
        assert {path.stat().st_uid for path in (folder / "run").rglob("*")} == {1234}
    finally:
        shutil.rmtree(folder)


def test_the_cluster_is_handed_on_only_to_a_run_that_trains_there(yaml, tmp_path, monkeypatch):
    (tmp_path / "kube").write_text("clusters: []")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kube"))
    code = (
        "has = os.path.exists(os.environ.get('KUBECONFIG', ''))\n"
        "open(values['run_dir'] + '/has', 'w').write(str(has))"
    )

    has = {}
    for launcher in ("local", "pytorchjob"):
        run(yaml, tmp_path / launcher, code, launcher=launcher)
        has[launcher] = (tmp_path / launcher / "has").read_text()

    assert has == {"local": "False", "pytorchjob": "True"}


def test_a_container_that_fails_at_once_is_never_taken_for_one_that_succeeded(tmp_path):
    with containers(RunDir(tmp_path / "run"), {}, env={}, mounts=()) as run_step:
        ended = [run_step(RUNTIME_IMAGE, ["sh", "-c", f"echo {i}; exit 3"], {}) for i in range(100)]

    assert [one.code for one in ended] == [3] * 100
    assert [one.lines for one in ended] == [[f"{i}\n"] for i in range(100)]
    assert not ours(tmp_path / "run")


def test_a_step_that_fails_fails_the_run_with_its_own_error(yaml, tmp_path):
    with pytest.raises(StepFailedError, match=r"^step failed: no column named é$"):
        run(yaml, tmp_path / "run", "sys.exit('error: no column named é')")

    assert not ours(tmp_path / "run")


def test_an_image_that_is_not_there_is_said_with_what_builds_it(tmp_path):
    yaml = compiled(tmp_path, "tzrec-pipelines/none:0")

    with pytest.raises(StepFailedError, match=r"no image tzrec-pipelines/none:0 .*`make images`"):
        run(yaml, tmp_path / "run", "")


def test_a_folder_that_cannot_be_a_mount_is_said(yaml, tmp_path):
    with pytest.raises(StepFailedError, match="invalid mount config"):
        run(yaml, tmp_path / "run", "", source="/")


def test_a_folder_that_containers_cannot_use_is_an_error_before_any_work(yaml, tmp_path):
    (tmp_path / "closed").write_text("")
    (tmp_path / "closed").chmod(0)

    with pytest.raises(ValueError, match=r"cannot read .*/closed"):
        run(yaml, tmp_path / "run", "", source="closed")
    with pytest.raises(ValueError, match=r"/none does not exist"):
        run(yaml, tmp_path / "run", "", mounts=[tmp_path / "none"])


def test_docker_that_cannot_be_reached_is_a_mistake_in_one_line(yaml, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with pytest.raises(ValueError, match=r"^Docker cannot be reached: "):
        run(yaml, tmp_path / "run", "")


@pytest.mark.parametrize("store", ["postgresql://me:s3cret@db/mlflow", "databricks"])
def test_a_store_that_containers_cannot_reach_is_an_error_without_its_password(
    yaml, tmp_path, store
):
    with pytest.raises(ValueError, match=r"sqlite:///\.\.\. store") as raised:
        run(yaml, tmp_path / "run", "", env={"MLFLOW_TRACKING_URI": store})

    assert "s3cret" not in str(raised.value)


def test_an_engine_with_a_network_of_its_own_is_an_error_before_the_first_step(
    yaml, tmp_path, monkeypatch
):
    rights = docker_runner._rights
    monkeypatch.setattr(
        docker_runner, "_rights", lambda *given: {**rights(*given), "network_mode": "bridge"}
    )
    code = "open(values['run_dir'] + '/begun', 'w')"
    store = f"sqlite:///{tmp_path}/mlflow.db"

    with pytest.raises(StepFailedError, match=r"^step failed: containers do not reach MLflow at "):
        run(yaml, tmp_path / "run", code, env={"MLFLOW_TRACKING_URI": store})

    assert not (tmp_path / "run" / "begun").exists()
    assert not ours(tmp_path / "run")


SLOW = """
import signal, time
def stop(*_):
    print("stopping", flush=True)
    time.sleep(1)
    open(values["run_dir"] + "/saved", "w").close()
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(100)
"""


@contextmanager
def started(yaml, run_dir, code):
    """A run in a process of its own, whose step has begun."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom components import steps\n"
        "from pipelines.local import runner\n"
        "values = {'run_dir': sys.argv[2], 'code': sys.argv[3]}\n"
        "steps.run(lambda _: runner.run(Path(sys.argv[1]), values, env={}, runner='docker'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, yaml, run_dir, code],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line == "ready\n":
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_lets_its_step_save_and_leaves_no_container(yaml, tmp_path, sent):
    with started(yaml, tmp_path / "run", SLOW) as process:
        assert len(ours(tmp_path / "run")) == 1
        process.send_signal(sent)
        output, _ = process.communicate(timeout=100)

    assert "saved" in output.splitlines()
    assert (tmp_path / "run" / "saved").exists()
    assert process.returncode == 128 + sent
    assert not ours(tmp_path / "run")


def test_a_second_interrupt_ends_a_step_that_takes_too_long(yaml, tmp_path):
    with started(yaml, tmp_path / "run", SLOW.replace("sleep(1)", "sleep(200)")) as process:
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            if line == "stopping\n":
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    assert not ours(tmp_path / "run")


def test_two_runs_are_not_at_work_in_one_folder_and_the_next_one_ends_what_a_killed_one_left(
    yaml, tmp_path
):
    with started(yaml, tmp_path / "run", SLOW) as process:
        with pytest.raises(ValueError, match="another run is at work in"):
            run(yaml, tmp_path / "run", "")
        process.kill()
        process.wait()
    assert [one.status for one in ours(tmp_path / "run")] == ["running"]

    run(yaml, tmp_path / "run", "assert os.path.exists(values['run_dir'] + '/saved')")

    assert not ours(tmp_path / "run")


def finished(folder, *arguments, **env):
    process = subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run in processes and then in containers, in one folder with one MLflow store."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_click_logs(folder / "clicks" / "part-0.parquet", num_rows=2000, seed=0)
    (folder / "small.config").write_text(CONFIG)
    (folder / "settings").mkdir()
    # Containers get a proxy, and nobody is there; MLflow is reached past it.
    proxies = {"default": {"httpProxy": "http://127.0.0.1:1"}}
    (folder / "settings" / "config.json").write_text(json.dumps({"proxies": proxies}))
    env = {"MLFLOW_TRACKING_URI": "", "CUDA_VISIBLE_DEVICES": ""}
    env["DOCKER_CONFIG"] = str(folder / "settings")
    for name in ("subprocess", "docker"):
        finished(
            folder, "run", f"--runner={name}", "pipeline_config=small.config", "num_processes=2",
            "train_input_path=clicks/*.parquet", f"run_dir={name}", **env,
        )  # fmt: skip
    return folder


def test_a_run_in_containers_gives_what_one_in_processes_gives(runs):
    first, second = (RunDir(runs / name) for name in ("subprocess", "docker"))

    best = [json.loads(one.best.read_text()) for one in (first, second)]
    assert best[0]["metrics"] == pytest.approx(best[1]["metrics"], abs=1e-6)
    assert best[0]["global_step"] == best[1]["global_step"]
    assert first.checkpoint_steps() == second.checkpoint_steps()
    assert (second.export / "scripted_model.pt").exists()
    assert not ours()


def test_both_are_tracked_in_the_same_local_store(runs):
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name("tzrec")
    tracked = client.search_runs([experiment.experiment_id])
    of_run = {
        RunDir(runs / name).read_info().pipeline_run_id: {} for name in ("subprocess", "docker")
    }
    for run in tracked:
        of_run[run.data.tags["kfp.pipeline_run_id"]][run.data.tags["stage"]] = run

    first, second = of_run.values()
    assert {run.info.status for run in tracked} == {"FINISHED"}
    assert first.keys() == second.keys() >= {"pipeline", "prepare_data", "train", "export"}
    for stage, run in first.items():
        assert run.data.params == second[stage].data.params
        # Files of runs are beside the store, whoever has written them.
        assert artifacts(client, run) == artifacts(client, second[stage])
    assert artifacts(client, second["train"])


def artifacts(client, run):
    return [file.path for file in client.list_artifacts(run.info.run_id)]
