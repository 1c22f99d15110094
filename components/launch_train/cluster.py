"""Kubernetes' API as the launcher uses it: what fails for a moment is tried again.

Whatever is final becomes a ``StepFailedError`` that says what the API server has said.
"""

import logging
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config, watch

from components.launch_train.job import Kind, Manifest
from components.launch_train.refusals import (
    ForbiddenError,
    UnavailableError,
    already_exists,
    message_of,
    refusal,
    trouble,
)
from components.steps import StepFailedError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST_SECONDS = (10, 60)  # to connect, and between two parts of an answer
_LOG_SECONDS = (5, 10)  # its machine may be gone, and whoever waits has other pods to look at
_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 30.0
_PAGE = 500  # events; a namespace may have very many


class Cluster:
    """The objects of one namespace."""

    def __init__(
        self, configuration: client.Configuration, namespace: str, *, patience: float = 300.0
    ) -> None:
        """Prepares a connection; nothing is asked yet.

        Args:
            configuration: Says where the API server is, and as whom to ask.
            namespace: Of all objects.
            patience: Seconds for which a request that fails in passing is tried again.
        """
        configuration.retries = False  # they are made here, and told of once
        configuration.client_side_validation = False
        api = client.ApiClient(configuration)
        self.namespace = namespace
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._patience = patience
        self._is_away = False
        self._is_known = False
        self._forbidden: set[str] = set()

    def job(self, kind: Kind, name: str, *, patience: float | None = None) -> Manifest | None:
        """Returns a job; None if there is none."""
        place = (kind.group, kind.version, self.namespace, kind.plural, name)
        found: Manifest | None = self._ask(
            lambda: self._objects.get_namespaced_custom_object(
                *place, _request_timeout=_REQUEST_SECONDS
            ),
            missing=lambda _: None,
            patience=patience,
        )
        return found

    def create(self, kind: Kind, manifest: Manifest) -> bool:
        """Makes a job; returns whether there was none of its name.

        A field that the cluster does not know is an error, and not dropped without a word.
        """
        place = (kind.group, kind.version, self.namespace, kind.plural)

        def make() -> bool:
            try:
                self._objects.create_namespaced_custom_object(
                    *place, manifest, field_validation="Strict", _request_timeout=_REQUEST_SECONDS
                )
            except client.ApiException as error:
                if already_exists(error):
                    return False
                raise
            return True

        def missing(message: str) -> bool:
            if message.startswith("namespaces "):
                raise StepFailedError(message)
            raise StepFailedError(
                f"the cluster has no {kind.plural}.{kind.group}: {kind.operator} is not installed"
            )

        is_new: bool = self._ask(make, missing=missing)
        return is_new

    def delete(self, kind: Kind, name: str, *, patience: float | None = None) -> None:
        """Deletes a job: its pods are stopped first, and it is there until they are gone."""
        place = (kind.group, kind.version, self.namespace, kind.plural, name)
        self._ask(
            lambda: self._objects.delete_namespaced_custom_object(
                *place, propagation_policy="Foreground", _request_timeout=_REQUEST_SECONDS
            ),
            missing=lambda _: None,
            patience=patience,
        )

    def adopt(self, kind: Kind, name: str, owner: Manifest) -> None:
        """Lets a job be deleted with ``owner``, and not with who has owned it before."""
        place = (kind.group, kind.version, self.namespace, kind.plural, name)
        change = {"metadata": {"ownerReferences": [owner]}}
        self._ask(
            lambda: self._objects.patch_namespaced_custom_object(
                *place, change, _request_timeout=_REQUEST_SECONDS
            ),
            missing=lambda _: None,
        )

    def owner(self, pod_name: str) -> Manifest | None:
        """Returns a reference to a pod, for what is to be deleted with it; None if it is gone."""
        pod: client.V1Pod | None = self._ask(
            lambda: self.read_pod(pod_name), missing=lambda _: None
        )
        if pod is None:
            return None
        reference = {"apiVersion": "v1", "kind": "Pod", "name": pod_name}
        return {**reference, "uid": pod.metadata.uid, "blockOwnerDeletion": False}

    def is_at_work(self, owner: Manifest) -> bool:
        """Returns whether the pod of a reference is there and has not ended."""
        pod: client.V1Pod | None = self._ask(
            lambda: self.read_pod(owner["name"]), missing=lambda _: None
        )
        if pod is None or pod.metadata.uid != owner["uid"]:
            return False
        return pod.status.phase in ("Pending", "Running")

    def pods(self, selector: str, *, patience: float | None = None) -> list[client.V1Pod]:
        """Returns the pods with these labels, by name; none if they may not be seen."""
        found = self._look(
            lambda: self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=_REQUEST_SECONDS
            ),
            patience=patience,
        )
        return [] if found is None else sorted(found.items, key=lambda pod: pod.metadata.name)

    def pod_changes(self, selector: str, *, seconds: int) -> Iterator[client.V1Pod]:
        """Yields the pods with these labels, and each again as it changes, for so long.

        Raises:
            kubernetes.client.ApiException: The API server refuses.
            urllib3.exceptions.HTTPError: It does not answer.
        """
        changes = watch.Watch().stream(
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
            timeout_seconds=seconds,
            _request_timeout=(_REQUEST_SECONDS[0], 2 * seconds),
        )
        for change in changes:
            yield change["object"]

    def warnings(self, prefix: str) -> list[client.CoreV1Event]:
        """Returns the warnings about objects whose names begin so; none if they may not be seen."""

        def read() -> list[client.CoreV1Event]:
            found: list[client.CoreV1Event] = []
            rest: dict[str, str] = {}
            while True:
                page = self._core.list_namespaced_event(
                    self.namespace, field_selector="type=Warning", limit=_PAGE, **rest,
                    _request_timeout=_REQUEST_SECONDS,
                )  # fmt: skip
                found += [
                    event
                    for event in page.items
                    if (event.involved_object.name or "").startswith(prefix)
                ]
                if not page.metadata._continue:
                    return found
                rest = {"_continue": page.metadata._continue}

        return self._look(read) or []

    def last_lines(self, pod: str, container: str, *, number: int, previous: bool) -> list[str]:
        """Returns the end of a container's log, or of its previous one's; empty if it has none.

        It is asked for once: the machine that has the log may be gone.
        """
        try:
            text = self._core.read_namespaced_pod_log(
                pod, self.namespace, container=container, tail_lines=number, previous=previous,
                _preload_content=False, _request_timeout=_LOG_SECONDS,
            ).data  # fmt: skip
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            log.debug("no log of %s: %s", pod, error)
            return []
        return str(text, errors="replace").splitlines()

    def read_pod(self, name: str) -> client.V1Pod:
        """Returns a pod as it is now.

        Raises:
            kubernetes.client.ApiException: The API server refuses, or there is none.
            urllib3.exceptions.HTTPError: It does not answer.
        """
        return self._core.read_namespaced_pod(
            name, self.namespace, _request_timeout=_REQUEST_SECONDS
        )

    def open_log(
        self, pod: str, container: str, *, since: int | None, previous: bool, follow: bool
    ) -> urllib3.BaseHTTPResponse:
        """Returns a container's log as it comes, each line with its time.

        Args:
            pod: Its pod.
            container: Its name.
            since: How many seconds back; None for all.
            previous: The log of the container before the last restart.
            follow: Wait for lines that are yet to be written.

        Raises:
            kubernetes.client.ApiException: The API server refuses.
            urllib3.exceptions.HTTPError: It does not answer.
        """
        optional = {} if since is None else {"since_seconds": since}
        response: urllib3.BaseHTTPResponse = self._core.read_namespaced_pod_log(
            pod, self.namespace, container=container, timestamps=True, previous=previous,
            follow=follow, _preload_content=False, _request_timeout=_REQUEST_SECONDS, **optional,
        )  # fmt: skip
        return response

    def _look(
        self, request: Callable[[], Result], *, patience: float | None = None
    ) -> Result | None:
        """Returns what there is to see; None, and one warning, if it may not be seen."""
        try:
            answer: Result | None = self._ask(request, missing=lambda _: None, patience=patience)
            return answer
        except ForbiddenError as error:
            if error.right not in self._forbidden:
                self._forbidden.add(error.right)
                log.warning("%s", error)
            return None

    def _ask(
        self,
        request: Callable[[], Result],
        *,
        missing: Callable[[str], Any],
        patience: float | None = None,
    ) -> Any:
        """Returns the answer to a request, however long the server takes, within limits.

        Args:
            request: Asks once.
            missing: What a 404 amounts to, of which it gets the message.
            patience: In place of the usual.

        Raises:
            StepFailedError: The server refuses, or does not answer.
        """
        try:
            return self._persistently(request, self._patience if patience is None else patience)
        except client.ApiException as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return missing(message_of(error))
            raise refusal(error) from error

    def _persistently(self, request: Callable[[], Result], patience: float) -> Result:
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = request()
            except (client.ApiException, urllib3.exceptions.HTTPError) as error:
                cause = trouble(error, is_known=self._is_known)
                self._tell(cause)
                if cause is None:
                    raise
            else:
                self._is_known = True
                self._tell(None)
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnavailableError(
                    f"Kubernetes' API server has not answered for {patience:.0f} s: {cause}"
                )
            time.sleep(min(pause, left))
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def _tell(self, cause: str | None) -> None:
        """Tells when the API server is away, and when it is back."""
        is_away, self._is_away = self._is_away, cause is not None
        if cause is not None and not is_away:
            log.warning("Kubernetes' API server does not answer, trying again: %s", cause)
        if cause is None and is_away:
            log.info("Kubernetes' API server answers again")


def connect() -> Cluster:
    """Returns the cluster that this process runs in, else the one of the kubeconfig.

    Raises:
        ValueError: There is neither.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        return Cluster(configuration, _NAMESPACE_FILE.read_text().strip())
    except config.ConfigException:
        pass
    try:
        config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ValueError(
            f"there is no cluster to train on: this is no pod of one, and no kubeconfig ({error})"
        ) from error
    return Cluster(configuration, _namespace_of_kubeconfig())


def _namespace_of_kubeconfig() -> str:
    _, current = config.list_kube_config_contexts()
    return str(current["context"].get("namespace", "default"))
