"""A stand-in for a kubelet and for the scheduler: one node, which runs pods as Docker containers.

It talks with nothing but the API server. Pods have one container, no probes, no init containers.
"""

import contextlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from tests.cluster.api import Api, ApiError
from tests.cluster.stand_ins import container as containers
from tests.cluster.stand_ins import pod_status, volumes
from tests.cluster.stand_ins.volumes import NotPossibleError, Volumes

_RESTART_SECONDS = 2
"""Before a container's second restart and each after it; a kubelet waits from 10 s to 5 min."""
_LOG_BYTES = 2048
"""Of a log that ``FallbackToLogsOnError`` keeps, as Kubernetes does."""


@dataclass
class Local:
    """What the node knows of a pod: its containers, the newest one last."""

    pod: dict[str, Any]
    containers: list[Container] = field(default_factory=list)
    last_state: dict[str, Any] = field(default_factory=dict)
    restart_at: float | None = None
    kill_at: float | None = None
    unreported: dict[str, Any] | None = None

    @property
    def restarts(self) -> int:
        return max(len(self.containers) - 1, 0)


@dataclass(frozen=True)
class Place:
    """Where the containers run.

    Attributes:
        engine: of Docker.
        network: of Docker, in which pods find each other by name.
        address: of this machine in that network.
        label: on every container, so that all can be found.
        environment: what a kubelet adds to every container.
    """

    engine: docker.DockerClient
    network: str
    address: str
    label: dict[str, str]
    environment: dict[str, str]


class Node:
    """The node; ``step`` does all that there is to do now."""

    def __init__(self, api: Api, place: Place, *, name: str, disks: Path, scratch: Path) -> None:
        self.name = name
        self.volumes = Volumes(api, disks=disks, scratch=scratch)
        self._api = api
        self._place = place
        self._scratch = scratch
        self._local: dict[str, Local] = {}

    def register(self, log_port: int) -> None:
        """Tells the API server where to ask for logs."""
        self._api.create("/api/v1/nodes", {"metadata": {"name": self.name}})
        self._api.merge(
            f"/api/v1/nodes/{self.name}/status",
            {
                "status": {
                    "addresses": [{"type": "InternalIP", "address": self._place.address}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": log_port}},
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
            },
        )

    def container_of(self, namespace: str, pod: str, *, previous: bool = False) -> Container | None:
        """Returns the newest container of a pod, or the one before it."""
        for local in list(self._local.values()):
            metadata = local.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, pod):
                found = local.containers[: -1 if previous else None]
                return found[-1] if found else None
        return None

    def step(self) -> None:
        """Brings the containers and the pods' status up to date."""
        pods = self._api.get("/api/v1/pods")["items"]
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._local if uid not in present]:
            self._forget(self._local.pop(uid))
        for pod in pods:
            # A pod may be deleted or changed between the list and the request.
            with _tolerating(404, 409):
                if "nodeName" not in pod["spec"]:
                    self._bind(pod)
                elif pod["spec"]["nodeName"] == self.name:
                    local = self._local.setdefault(pod["metadata"]["uid"], Local(pod))
                    local.pod = pod
                    self._sync(local)

    def stop(self) -> None:
        """Removes all containers."""
        for local in self._local.values():
            self._forget(local)
        self._local.clear()

    def _bind(self, pod: dict[str, Any]) -> None:
        self._api.create(
            f"{_path(pod)}/binding",
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": pod["metadata"]["name"]},
                "target": {"apiVersion": "v1", "kind": "Node", "name": self.name},
            },
        )

    def _sync(self, local: Local) -> None:
        if "deletionTimestamp" in local.pod["metadata"]:
            self._end(local)
        elif local.pod.get("status", {}).get("phase") in pod_status.ENDED:
            return
        elif local.unreported is not None:
            self._write_status(local, local.unreported)
        elif not local.containers or local.restart_at is not None:
            if local.restart_at is None or time.monotonic() >= local.restart_at:
                self._start(local)
        else:
            container = local.containers[-1]
            container.reload()
            if container.status in ("exited", "dead"):
                self._ended(local, container)

    def _start(self, local: Local) -> None:
        pod = local.pod
        (spec,) = pod["spec"]["containers"]
        try:
            values = volumes.environment(self._api, pod, spec.get("env", []))
            arguments = containers.arguments(
                pod, self.volumes.of(pod), {**self._place.environment, **values}
            )
            container = self._run(pod, arguments, attempt=len(local.containers))
        except NotPossibleError as error:
            waiting = {"waiting": {"reason": error.reason, "message": str(error)}}
            self._report(local, "Pending", waiting)
            return
        local.containers.append(container)
        local.restart_at = None
        self._report(local, "Running", {"running": {"startedAt": pod_status.now()}})

    def _run(self, pod: dict[str, Any], arguments: dict[str, Any], attempt: int) -> Container:
        engine, metadata = self._place.engine, pod["metadata"]
        # It becomes a name in Docker's DNS, which does not answer if it has more than 63 letters:
        # torch, which asks for the name of each peer, would wait for minutes.
        name = f"{metadata['name'][:40]}-{metadata['uid'][:8]}-{attempt}"
        try:
            container = engine.containers.create(
                name=name,
                labels=self._place.label,
                network=self._place.network,
                # The name by which the operator's headless service would lead to the pod.
                networking_config={
                    self._place.network: engine.api.create_endpoint_config(
                        aliases=[metadata["name"]]
                    )
                },
                **arguments,
            )
        except docker.errors.ImageNotFound as error:
            raise NotPossibleError("ErrImagePull", str(error)) from None
        container.start()
        container.reload()
        return container

    def _ended(self, local: Local, container: Container) -> None:
        (spec,) = local.pod["spec"]["containers"]
        inspected = container.attrs["State"]
        code = inspected["ExitCode"]
        keeps_log = spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        log = container.logs(tail=80)[-_LOG_BYTES:] if keeps_log and code != 0 else b""
        ended = pod_status.terminated(inspected, log.decode(errors="replace"))
        policy = local.pod["spec"]["restartPolicy"]
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            self._report(local, "Succeeded" if code == 0 else "Failed", ended)
        elif local.restarts == 0:
            self._report(local, "Running", ended)
            local.restart_at, local.last_state = time.monotonic(), ended
        else:
            local.restart_at = time.monotonic() + _RESTART_SECONDS
            local.last_state = ended
            back_off = f"back-off {_RESTART_SECONDS}s restarting failed container"
            waiting = {"reason": "CrashLoopBackOff", "message": back_off}
            self._report(local, "Running", {"waiting": waiting})

    def _end(self, local: Local) -> None:
        """Stops the container of a deleted pod, first kindly; then the pod is gone."""
        container = local.containers[-1] if local.containers else None
        if container is not None:
            container.reload()
            if container.status == "running":
                grace = local.pod["metadata"].get("deletionGracePeriodSeconds", 30)
                with contextlib.suppress(docker.errors.APIError):  # it has just ended
                    if local.kill_at is None:
                        local.kill_at = time.monotonic() + grace
                        container.kill("SIGTERM")
                    elif time.monotonic() >= local.kill_at:
                        container.kill("SIGKILL")
                return
        self._api.delete(_path(local.pod), gracePeriodSeconds=0)
        self._forget(local)

    def _forget(self, local: Local) -> None:
        for container in local.containers:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)
        local.containers.clear()
        shutil.rmtree(self._scratch / local.pod["metadata"]["uid"], ignore_errors=True)

    def _report(self, local: Local, phase: str, state: dict[str, Any]) -> None:
        addresses = {"hostIP": self._place.address}
        if local.containers:
            networks = local.containers[-1].attrs["NetworkSettings"]["Networks"]
            address = networks[self._place.network]["IPAddress"]
            if address:
                addresses["podIP"] = address
        status = pod_status.status(
            local.pod,
            phase=phase,
            state=state,
            last_state=local.last_state,
            restarts=local.restarts,
            addresses=addresses,
        )
        self._write_status(local, status)

    def _write_status(self, local: Local, status: dict[str, Any]) -> None:
        """Writes the status again in the next step if the API server does not answer now."""
        local.unreported = status
        metadata = {k: v for k, v in local.pod["metadata"].items() if k != "resourceVersion"}
        # Not merged, which would leave the state that was; whatever version of the pod is there.
        self._api.replace(
            f"{_path(local.pod)}/status", {**local.pod, "metadata": metadata, "status": status}
        )
        local.unreported = None


def _path(pod: dict[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


@contextlib.contextmanager
def _tolerating(*statuses: int) -> Any:
    try:
        yield
    except ApiError as error:
        if error.status not in statuses:
            raise
