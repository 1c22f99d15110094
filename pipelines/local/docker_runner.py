"""Runs each step in a container of its image, with no more rights and folders than it needs."""

import fcntl
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, Mount
from docker.utils.config import load_general_config

from components import child
from pipelines.local import mlflow_server
from pipelines.local.folders import User, check_readable, make_writable, named_in, user_of_steps
from pipelines.local.repairs import RunStep
from tzrec_core.run_dir import RunDir

_LABEL = "tzrec-pipelines.run_dir"
_SAVING_SECONDS = 330
"""What a step that is stopped has to save its work; torchrun, in it, lets its ranks have 300."""
_SHARED_MEMORY = "2g"
"""Ranks and loaders pass tensors through it; what is not used is not taken from the machine."""

# What MLflow's client and object stores are told by; which threads and GPUs a step may use.
_HANDED_ON = ("MLFLOW_", "AWS_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

_THIS_MACHINE = ("localhost", "127.0.0.1")

_NO_ANSWER = 70
"""What a container ends with that has not reached an address: nothing that Docker itself says."""
_ASK = f"""
import sys
from urllib.request import ProxyHandler, build_opener
try:
    build_opener(ProxyHandler({{}})).open(sys.argv[1] + "/health", timeout=10)
except OSError:
    sys.exit({_NO_ANSWER})
"""


@contextmanager
def containers(
    run_dir: RunDir, values: Mapping[str, str], *, env: Mapping[str, str], mounts: Sequence[Path]
) -> Iterator[RunStep]:
    """Gives what runs a step in a container, and leaves none behind.

    A container runs as the caller, or as the images' user if that is root, on a read-only root
    file system without capabilities. It has the host's network, so that every address means the
    same in it, the working directory's path, so that relative paths do, and these folders, each
    under its own path: the run directory, to write; the files and folders that parameters and
    environment name, to read. Where Docker is in a machine or a network of its own, the first step
    fails that would not reach a local MLflow store.

    Args:
        run_dir: Is made if it is not there.
        values: The pipeline's parameters as text.
        env: Added to every container's environment, with the caller's variables for MLflow and
            object stores, and the caller's cluster if ``launcher`` is not local.
        mounts: What else containers may read.

    Raises:
        ValueError: Docker cannot be reached, a folder cannot be used, or another run is at work
            in ``run_dir``.
    """
    with ExitStack() as stack:
        client = stack.enter_context(_connected())
        engine = client.info()
        user = user_of_steps(rootless=_has(engine, "rootless"))
        make_writable(run_dir.path, user, is_ours=run_dir.has_info())
        make_writable(run_dir.path / "kfp", user, is_ours=True)
        stack.enter_context(_alone_in(run_dir))
        env = {**_no_proxy(), **_handed_on(values), **env}
        readable = [path for text in (*values.values(), *_paths(env)) for path in named_in(text)]
        readable += map(_existing, mounts)
        writable = [run_dir.path]
        store = env.get("MLFLOW_TRACKING_URI", "")
        is_local = _is_local(store)
        if is_local:
            writable.append(mlflow_server.artifacts_of(store))
            make_writable(writable[-1], user, is_ours=True)
        settings = {
            **_rights(user, engine),
            **_devices(engine),
            "working_dir": os.getcwd(),
            "mounts": _mounts(writable, readable, user),
            "labels": {_LABEL: str(run_dir.path)},
        }
        if is_local:
            env["MLFLOW_TRACKING_URI"] = stack.enter_context(mlflow_server.served(store))
        stack.callback(_remove_containers, client, run_dir)
        _remove_containers(client, run_dir)  # of a run that was killed

        def run_step(
            image: str, command: Sequence[str], env_of_step: Mapping[str, str]
        ) -> child.Ended:
            try:
                container = client.containers.create(
                    image,
                    # As on a cluster, the command stands for what the image would run by itself.
                    entrypoint=command[:1],
                    command=command[1:],
                    environment={**env, **env_of_step},
                    **settings,
                )
            except ImageNotFound:
                what_to_do = "`make images` builds those of this project"
                return child.Ended(1, [f"error: no image {image} on this machine; {what_to_do}"])
            except APIError as error:
                return child.Ended(1, [f"error: Docker makes no container: {error.explanation}"])
            return _run(container)

        yield _once_reached(run_step, env["MLFLOW_TRACKING_URI"]) if is_local else run_step


def _is_local(store: str) -> bool:
    """Returns whether MLflow keeps runs in a file here, and not at a server or nowhere."""
    scheme = urlsplit(store).scheme
    if not store or scheme in ("http", "https"):
        return False
    if scheme != "sqlite":
        raise ValueError(
            "containers reach MLflow at http(s)://... or in a sqlite:///... store, "
            f"MLFLOW_TRACKING_URI begins with {store.partition(':')[0]!r}"
        )
    return True


def _once_reached(run_step: RunStep, address: str) -> RunStep:
    """Returns what fails the first step if containers do not reach the server at ``address``.

    A program of the step's own image asks: one without Python has no client of MLflow either.
    """
    is_asked = False

    def run_checked(
        image: str, command: Sequence[str], env_of_step: Mapping[str, str]
    ) -> child.Ended:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            if run_step(image, ["python3", "-c", _ASK, address], {}).code == _NO_ANSWER:
                return child.Ended(1, [
                    f"error: containers do not reach MLflow at {address}: they do not share this "
                    "machine's network; enable host networking in Docker Desktop's settings, or "
                    "set MLFLOW_TRACKING_URI to the address of a server that containers reach, "
                    "as rootless Docker needs"
                ])  # fmt: skip
        return run_step(image, command, env_of_step)

    return run_checked


def _mounts(writable: Sequence[Path], readable: Sequence[Path], user: User) -> list[Mount]:
    """Returns each folder under its own path."""
    # A file in a writable folder can be replaced only if it is no mount of its own.
    outside = {
        path for path in readable if not any(path.is_relative_to(folder) for folder in writable)
    }
    for path in outside:
        check_readable(path, user)
    return [
        *(Mount(str(path), str(path), type="bind") for path in writable),
        *(Mount(str(path), str(path), type="bind", read_only=True) for path in sorted(outside)),
    ]


def _rights(user: User, engine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_identity(user, engine),
        "read_only": True,
        "tmpfs": {"/tmp": "mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "host",
        "shm_size": _SHARED_MEMORY,
        # A first process of its own ends orphans, and lets a signal end a step that expects none.
        "init": True,
    }


def _identity(user: User, engine: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that make a container's processes the user's, seen from outside."""
    if _has(engine, "rootless"):  # there the caller is whom containers call root
        return {"user": "0:0"}
    settings = {
        "user": f"{user.uid}:{user.gid}",
        "group_add": list(map(str, user.other_groups)),
    }
    # Else containers have other numbers for users, and may not have the host's network.
    return {**settings, "userns_mode": "host"} if _has(engine, "userns") else settings


def _has(engine: Mapping[str, Any], option: str) -> bool:
    """Returns whether an engine, as it describes itself, has one of its security options on."""
    return f"name={option}" in (engine.get("SecurityOptions") or ())


def _devices(engine: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that hand on all GPUs, if Docker has NVIDIA's runtime.

    Which of them a step sees is then a matter of CUDA_VISIBLE_DEVICES; if that names none, no
    container asks for any.
    """
    is_wanted = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    if not is_wanted or "nvidia" not in engine.get("Runtimes", {}):
        return {}
    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]}


def _no_proxy() -> dict[str, str]:
    """Returns what keeps the proxies of Docker's settings from addresses of this machine.

    Docker's client gives them to every container; exceptions that are set there stay.
    """
    proxies = load_general_config().get("proxies", {})
    theirs = [one["noProxy"] for one in proxies.values() if one.get("noProxy")]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join([*theirs, *_THIS_MACHINE]))


def _handed_on(values: Mapping[str, str]) -> dict[str, str]:
    """Returns what containers get of the caller's environment."""
    env = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    if values.get("launcher", "local") != "local":
        usual = Path.home() / ".kube" / "config"
        if "KUBECONFIG" in os.environ:
            env["KUBECONFIG"] = os.environ["KUBECONFIG"]
        elif usual.exists():
            env["KUBECONFIG"] = str(usual)
    return env


def _paths(env: Mapping[str, str]) -> list[str]:
    """Returns the values that can only be paths: certificates, credentials, a cluster's file."""
    return [value for value in env.values() if value.startswith("/")]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path} does not exist, so containers cannot read it")
    return Path(os.path.abspath(path))


@contextmanager
def _connected() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise ValueError(f"Docker cannot be reached: {error}") from error
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _alone_in(run_dir: RunDir) -> Iterator[None]:
    """Holds a lock that ends with this process, however that ends."""
    with open(run_dir.path / "kfp" / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work in {run_dir.path}") from None
        yield


def _remove_containers(client: docker.DockerClient, run_dir: RunDir) -> None:
    """Stops and removes the containers of a run directory; there are none unless a run was cut."""
    label = {"label": f"{_LABEL}={run_dir.path}"}
    for container in client.containers.list(all=True, filters=label, ignore_removed=True):
        if container.status == "running":
            print(f"stopping container {container.name}, which an earlier run has left behind")
        container.stop(timeout=_SAVING_SECONDS)
        container.remove(force=True)


def _run(container: Any) -> child.Ended:
    """Runs a container to its end, as ``child.run`` does a command, and removes it.

    kfp.local has Docker remove it: one that ends at once is then gone before its exit code is read.
    """
    lines: deque[str] = deque(maxlen=child.NUM_KEPT_LINES)
    try:
        # Before it starts, so that nothing it writes is missed. In a thread, which no signal
        # interrupts: what a step writes while it is stopped is shown, too.
        output = container.attach(stdout=True, stderr=True, stream=True)
        shown = threading.Thread(target=child.show, args=(output, lines), daemon=True)
        shown.start()
        try:
            container.start()
            while shown.is_alive():
                shown.join(child.MAX_DEAF_SECONDS)
            return child.Ended(int(container.wait()["StatusCode"]), list(lines))
        except APIError as error:
            return child.Ended(1, [*lines, f"error: Docker says of its container: {error}"])
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            container.stop(timeout=_SAVING_SECONDS)
            shown.join()
            raise
    finally:
        with suppress(NotFound):  # somebody else has removed it
            container.remove(force=True)
