"""The cluster of one session: a real API server, and stand-ins for operator and kubelet."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import docker
import yaml

from tests.cluster import control_plane, leftovers
from tests.cluster.api import Api, ApiError
from tests.cluster.control_plane import ControlPlane
from tests.cluster.stand_ins import log_server, loop, pod_status
from tests.cluster.stand_ins.node import Node, Place
from tests.cluster.stand_ins.training_operator import TrainingOperator
from tests.kubernetes.crd import pytorchjob_crd

DEPLOY = Path(__file__).parents[2] / "deploy"
_PLURALS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
}

T = TypeVar("T")


def wait_until(find: Callable[[], T | None], what: str, *, seconds: float) -> T:
    """Returns what ``find`` finds, which is not None, as soon as it does.

    Raises:
        TimeoutError: It did not in ``seconds``; the message says that ``what`` did not happen.
    """
    give_up = time.monotonic() + seconds
    while (found := find()) is None:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not happen in {seconds:g} s")
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        control_plane: the real part.
        node: on which all pods run.
        engine: of Docker.
        network: of Docker, in which pods find each other by name.
        errors: what went wrong in the stand-ins.
    """

    control_plane: ControlPlane
    node: Node
    engine: docker.DockerClient
    network: str
    errors: list[str] = field(default_factory=list)

    @property
    def api(self) -> Api:
        return self.control_plane.admin

    def namespace(self, name: str) -> "Namespace":
        """Makes a namespace, as empty as Kubernetes makes it."""
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        namespace = Namespace(self, name)
        for needed in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            path = f"/api/v1/namespaces/{name}/{needed}"
            wait_until(lambda path=path: or_none(self.api, path), path, seconds=30)
        return namespace


@dataclass(frozen=True)
class Namespace:
    """A namespace of the cluster, and what users do in one."""

    cluster: Cluster
    name: str

    @property
    def api(self) -> Api:
        return self.cluster.api

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Creates objects, or changes those that are there, as ``kubectl apply -n`` does."""
        for manifest in manifests:
            path = _PLURALS[manifest["kind"]].format(self.name)
            try:
                self.api.create(path, manifest)
            except ApiError as error:
                if error.status != 409:
                    raise
                self.api.merge(f"{path}/{manifest['metadata']['name']}", manifest)

    def token(self, account: str) -> str:
        """Returns a token of a service account, which lasts for an hour."""
        path = f"/api/v1/namespaces/{self.name}/serviceaccounts/{account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return str(self.api.create(path, request)["status"]["token"])

    def folder(self, claim: str) -> Path:
        """Returns where the files of a volume are."""
        return self.cluster.node.volumes.claim_folder(self.name, claim)

    def start(self, pod: Mapping[str, Any]) -> str:
        """Creates a pod and returns its name."""
        created = self.api.create(f"/api/v1/namespaces/{self.name}/pods", pod)
        return str(created["metadata"]["name"])

    def pod(self, name: str) -> Any:
        """Returns a pod; None if it is gone."""
        return or_none(self.api, f"/api/v1/namespaces/{self.name}/pods/{name}")

    def pods(self) -> dict[str, Any]:
        """Returns all pods by name."""
        found = self.api.get(f"/api/v1/namespaces/{self.name}/pods")["items"]
        return {pod["metadata"]["name"]: pod for pod in found}

    def ended(self, name: str, *, seconds: float = 300) -> Any:
        """Waits until a pod has ended, and returns it."""

        def find() -> Any:
            pod = self.pod(name)
            assert pod is not None, f"pod {name} was deleted"
            return pod if pod["status"].get("phase") in pod_status.ENDED else None

        try:
            return wait_until(find, f"the end of pod {name}", seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log:\n{self.log(name)}") from None

    def log(self, pod: str, **query: object) -> str:
        """Returns a pod's log, through the API server."""
        return self.api.text(f"/api/v1/namespaces/{self.name}/pods/{pod}/log", **query)

    def wait_for_log(self, pod: str, text: str, *, seconds: float = 300) -> str:
        """Waits until a line of a pod's log has ``text``; returns that line."""

        def find() -> str | None:
            try:
                lines = self.log(pod).splitlines()
            except ApiError as error:
                if error.status not in (400, 404):  # not yet
                    raise
                return None
            return next((line for line in lines if text in line), None)

        return wait_until(find, f"{text!r} in the log of {pod}", seconds=seconds)

    def create_job(self, job: Mapping[str, Any]) -> str:
        created = self.api.create(self._jobs, job)
        return str(created["metadata"]["name"])

    def jobs(self) -> dict[str, Any]:
        """Returns all PyTorchJobs by name."""
        return {job["metadata"]["name"]: job for job in self.api.get(self._jobs)["items"]}

    def wait_for_job(self, launcher: str, *, seconds: float = 300) -> str:
        """Waits until there is a PyTorchJob, the only one, and returns its name.

        Raises:
            AssertionError: The pod that should make it has ended.
        """

        def find() -> str | None:
            pod = self.pod(launcher)
            assert pod["status"].get("phase") not in pod_status.ENDED, self.log(launcher)
            return next(iter(self.jobs()), None)

        return wait_until(find, "a job", seconds=seconds)

    def wait_for_condition(self, job: str, kind: str, *, seconds: float = 300) -> Any:
        """Waits until a job is in a condition, and returns that."""

        def find() -> Any:
            status = self.jobs()[job].get("status", {})
            found = [c for c in status.get("conditions", []) if c["type"] == kind]
            return found[0] if found and found[0]["status"] == "True" else None

        return wait_until(find, f"condition {kind} of {job}", seconds=seconds)

    def wait_until_gone(self, *names: str, seconds: float = 400) -> None:
        """Waits until there is neither a job nor a container of any pod with these names.

        A worker has 330 s to save its work.
        """

        def find() -> bool | None:
            is_gone = not self.jobs() and not self.pods().keys() & set(names)
            containers = [self.cluster.node.container_of(self.name, name) for name in names]
            return True if is_gone and not any(containers) else None

        wait_until(find, f"the end of jobs and of {', '.join(names)}", seconds=seconds)

    def delete_job(self, name: str) -> None:
        self.api.delete(f"{self._jobs}/{name}", propagationPolicy="Background")

    def container(self, pod: str) -> Any:
        """Returns the container that a pod runs in now."""
        container = self.cluster.node.container_of(self.name, pod)
        assert container is not None, f"pod {pod} has no container"
        return container

    @property
    def _jobs(self) -> str:
        return f"/apis/kubeflow.org/v1/namespaces/{self.name}/pytorchjobs"


def or_none(api: Api, path: str) -> Any:
    """Returns an object; None if there is none."""
    try:
        return api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def manifests() -> list[dict[str, Any]]:
    """Returns the project's own manifests, those that a user applies to a namespace."""
    return [
        manifest
        for path in sorted(DEPLOY.glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest is not None
    ]


@contextmanager
def running(engine: docker.DockerClient, folder: Path) -> Iterator[Cluster]:
    """Starts a cluster, and removes all of it at the end.

    Args:
        engine: Of Docker, on this machine.
        folder: For data, logs and volumes; containers of other users must be able to enter it.
    """
    leftovers.remove(engine, mine=False)
    labels = leftovers.labels()
    network = engine.networks.create(
        f"tzrec-cluster-{labels[leftovers.LABEL]}", driver="bridge", labels=labels
    )
    with ExitStack() as stack:
        stack.callback(leftovers.remove, engine, mine=True)
        network.reload()
        address = network.attrs["IPAM"]["Config"][0]["Gateway"]
        plane = stack.enter_context(
            control_plane.running(folder, host=address, definitions=[pytorchjob_crd()])
        )
        environment = {
            "KUBERNETES_SERVICE_HOST": plane.host,
            "KUBERNETES_SERVICE_PORT": str(plane.port),
        }
        node = Node(
            plane.admin,
            Place(engine, network.name, address, labels, environment),
            name="node",
            disks=folder / "disks",
            scratch=folder / "scratch",
        )
        stack.callback(node.stop)
        certificate, key = plane.authority.server("node", address)
        port = stack.enter_context(
            log_server.serving(node, address=address, certificate=certificate, key=key)
        )
        node.register(port)
        cluster = Cluster(plane, node, engine, network.name)
        stack.enter_context(loop.running(node.step, cluster.errors))
        stack.enter_context(loop.running(TrainingOperator(plane.admin).step, cluster.errors))
        yield cluster
