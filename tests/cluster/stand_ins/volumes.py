"""The volumes of a pod as folders of this machine, as a kubelet provides them."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.api import Api, ApiError


class NotPossibleError(Exception):
    """A container cannot be started, perhaps not yet; what a kubelet says of it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Folder:
    """A volume on disk."""

    path: Path
    read_only: bool = False


@dataclass(frozen=True)
class Memory:
    """A volume in memory; without a size it is as large as Docker makes it."""

    size: int | None


class Volumes:
    """Makes the volumes of pods.

    ``disks`` has a folder for each claim, by namespace and name; those are never deleted.
    """

    def __init__(self, api: Api, *, disks: Path, scratch: Path) -> None:
        self._api = api
        self._disks = disks
        self._scratch = scratch

    def of(self, pod: Mapping[str, Any]) -> dict[str, Folder | Memory]:
        """Returns each volume of a pod by its name.

        Raises:
            NotPossibleError: A volume refers to something that is not there.
        """
        return {
            volume["name"]: self._make(pod, volume) for volume in pod["spec"].get("volumes", [])
        }

    def claim_folder(self, namespace: str, claim: str) -> Path:
        """Returns the folder of a claim, in which user and group 1000 may write."""
        folder = self._disks / namespace / claim
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, 1000, 1000)
        return folder

    def _make(self, pod: Mapping[str, Any], volume: Mapping[str, Any]) -> Folder | Memory:
        namespace = pod["metadata"]["namespace"]
        own = self._scratch / pod["metadata"]["uid"] / volume["name"]
        match volume:
            case {"persistentVolumeClaim": claim}:
                name = claim["claimName"]
                read(self._api, namespace, "persistentvolumeclaims", name, "FailedMount")
                folder = self.claim_folder(namespace, name)
                return Folder(folder, read_only=claim.get("readOnly", False))
            case {"emptyDir": {"medium": "Memory", **settings}}:
                size = settings.get("sizeLimit")
                return Memory(None if size is None else quantity(size))
            case {"emptyDir": _}:
                own.mkdir(parents=True, exist_ok=True)
                own.chmod(0o777)
                return Folder(own)
            case {"projected": {"sources": sources}}:
                for source in sources:
                    self._project(pod, source, own)
                return Folder(own, read_only=True)
        raise NotPossibleError("FailedMount", f"the stand-in has no volume such as {volume}")

    def _project(self, pod: Mapping[str, Any], source: Mapping[str, Any], folder: Path) -> None:
        """Writes one source of a projected volume: all that a service account's token needs."""
        folder.mkdir(parents=True, exist_ok=True)
        metadata = pod["metadata"]
        match source:
            case {"serviceAccountToken": token}:
                account = pod["spec"]["serviceAccountName"]
                spec: dict[str, Any] = {
                    "expirationSeconds": token["expirationSeconds"],
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    },
                }
                request = self._api.create(
                    f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token",
                    {
                        "apiVersion": "authentication.k8s.io/v1",
                        "kind": "TokenRequest",
                        "spec": spec,
                    },
                )
                (folder / token["path"]).write_text(request["status"]["token"])
            case {"configMap": config_map}:
                content = read(
                    self._api,
                    metadata["namespace"],
                    "configmaps",
                    config_map["name"],
                    "FailedMount",
                )
                for item in config_map["items"]:
                    (folder / item["path"]).write_text(content["data"][item["key"]])
            case {"downwardAPI": {"items": items}}:
                for item in items:
                    text = field(pod, item["fieldRef"]["fieldPath"])
                    (folder / item["path"]).write_text(text)
            case _:
                raise NotPossibleError("FailedMount", f"the stand-in cannot project {source}")


def environment(
    api: Api, pod: Mapping[str, Any], variables: list[dict[str, Any]]
) -> dict[str, str]:
    """Returns the variables of a container, with the values of all that they refer to.

    Raises:
        NotPossibleError: What a variable refers to is not there, and is not optional.
    """
    values: dict[str, str] = {}
    for variable in variables:
        match variable:
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                value: str | None = field(pod, path)
            case {"valueFrom": {"secretKeyRef": reference}}:
                value = _key_of(api, pod, "secrets", reference)
            case {"valueFrom": {"configMapKeyRef": reference}}:
                value = _key_of(api, pod, "configmaps", reference)
            case {"valueFrom": other}:
                raise NotPossibleError(
                    "CreateContainerConfigError", f"the stand-in has no value from {other}"
                )
            case _:
                value = variable.get("value", "")
        if value is not None:
            values[variable["name"]] = value
    return values


def _key_of(
    api: Api, pod: Mapping[str, Any], kind: str, reference: Mapping[str, Any]
) -> str | None:
    error = "CreateContainerConfigError"
    try:
        content = read(api, pod["metadata"]["namespace"], kind, reference["name"], error)
        if reference["key"] not in content.get("data", {}):
            raise NotPossibleError(
                error, f"couldn't find key {reference['key']} in {kind} {reference['name']}"
            )
    except NotPossibleError:
        if reference.get("optional"):
            return None
        raise
    text = str(content["data"][reference["key"]])
    return base64.b64decode(text).decode() if kind == "secrets" else text


def read(api: Api, namespace: str, kind: str, name: str, reason: str) -> Any:
    """Returns an object that a pod needs.

    Raises:
        NotPossibleError: It is not there.
    """
    try:
        return api.get(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        raise NotPossibleError(reason, str(error)) from None


def field(pod: Mapping[str, Any], path: str) -> str:
    """Returns the text of a field of a pod, such as ``metadata.name``."""
    value: Any = pod
    for part in path.split("."):
        value = value[part]
    return str(value)


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}


def quantity(text: str | int) -> int:
    """Returns a number of bytes that is written as Kubernetes writes it."""
    text = str(text)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)
