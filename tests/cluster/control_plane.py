"""A real Kubernetes API server with its etcd and its controllers, for one session."""

import base64
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.cluster import binaries
from tests.cluster.api import Api, ApiError
from tests.cluster.certificates import Authority, new_key_file

_CONTROLLERS = (
    "serviceaccount",
    "serviceaccount-token",
    "root-ca-cert-publisher",
    "garbagecollector",
    "namespace",
    "clusterrole-aggregation",
)


@dataclass(frozen=True)
class ControlPlane:
    """A server that runs.

    Attributes:
        admin: may do everything.
        authority: has signed the server's certificate.
        host: the server's address, from the containers of the network too.
        port: the server's.
    """

    admin: Api
    authority: Authority
    host: str
    port: int


@contextmanager
def running(
    folder: Path, *, host: str, definitions: Sequence[Mapping[str, Any]]
) -> Iterator[ControlPlane]:
    """Starts a control plane, and stops it at the end.

    Args:
        folder: For its data and logs.
        host: The address to listen on.
        definitions: Of custom resources. They are there before the garbage collector starts,
            which would otherwise take half a minute to find them.
    """
    authority = Authority(folder)
    certificate, key = authority.server("apiserver", host)
    accounts = new_key_file(folder / "service-accounts.key")
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    port = free_port(host)
    store, peers = (f"http://127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
    admin = Api(f"https://{host}:{port}", ca_file=authority.certificate_file, token=token)
    with ExitStack() as stack:
        etcd = [
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={store}",
            f"--advertise-client-urls={store}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        ]
        stack.enter_context(_started("etcd", etcd, folder))
        apiserver = [
            f"--etcd-servers={store}",
            f"--bind-address={host}",
            f"--advertise-address={host}",
            f"--secure-port={port}",
            "--insecure-port=0",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--cert-dir={folder}",
            f"--kubelet-certificate-authority={authority.certificate_file}",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--api-audiences=https://kubernetes.default.svc",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            # As it is the default of every release since 1.21.
            "--feature-gates=BoundServiceAccountTokenVolume=true",
        ]
        process = stack.enter_context(_started("kube-apiserver", apiserver, folder))
        _wait_until_ready(admin, process, folder / "kube-apiserver.log")
        for definition in definitions:
            admin.create(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                with_nullable_strings(definition),
            )
        for definition in definitions:
            _wait_until_served(admin, definition)
        kubeconfig = folder / "controllers.kubeconfig"
        kubeconfig.write_text(kubeconfig_text(admin.url, authority.certificate_file, token))
        controllers = [
            f"--kubeconfig={kubeconfig}",
            f"--service-account-private-key-file={accounts}",
            f"--root-ca-file={authority.certificate_file}",
            f"--controllers={','.join(_CONTROLLERS)}",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            "--feature-gates=BoundServiceAccountTokenVolume=true",
        ]
        stack.enter_context(_started("kube-controller-manager", controllers, folder))
        yield ControlPlane(admin, authority, host, port)


def with_nullable_strings(schema: Any) -> Any:
    """Returns a schema in which every string may be null.

    kube-apiserver 1.20, compiled by a Go that is as new as Debian's, takes "" for null.
    """
    match schema:
        case list():
            return [with_nullable_strings(item) for item in schema]
        case dict():
            nullable = {"nullable": True} if schema.get("type") == "string" else {}
            return {name: with_nullable_strings(of) for name, of in schema.items()} | nullable
    return schema


def kubeconfig_text(url: str, ca_file: Path, token: str, namespace: str = "default") -> str:
    """Returns the file with which a client outside the cluster finds and enters it."""
    ca = base64.b64encode(ca_file.read_bytes()).decode()
    cluster = {"server": url, "certificate-authority-data": ca}
    context = {"cluster": "tests", "user": "tests", "namespace": namespace}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
    )


def free_port(host: str) -> int:
    """Returns a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


@contextmanager
def _started(name: str, flags: Sequence[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a program that ends with the block, or with this process however that ends."""
    # In a session of its own: Ctrl-C is for the tests, which have to clean up with a server.
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", str(binaries.kubernetes(name)), *flags],
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(admin: Api, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        with suppress(ApiError, urllib3.exceptions.HTTPError):
            admin.text("/readyz")
            return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"kube-apiserver did not become ready:\n{tail}")


def _wait_until_served(admin: Api, definition: Mapping[str, Any]) -> None:
    spec = definition["spec"]
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    give_up = time.monotonic() + 30
    while True:
        try:
            admin.get(path)
            return
        except ApiError as error:
            if error.status != 404 or time.monotonic() > give_up:
                raise
            time.sleep(0.1)
