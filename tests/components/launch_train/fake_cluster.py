"""An API server (kmock's emulator, over HTTP) whose jobs do what a script says.

Each look at a job first lets the script take one more step, so that no test waits for a clock.
"""

import asyncio
import json
import threading
from collections import deque

import kmock
import yaml
from kubernetes import client

from components.launch_train.cluster import Cluster
from components.launch_train.pytorchjob import PYTORCHJOB

NAMESPACE = "kubeflow-user"
PODS = kmock.resource("v1/pods")
EVENTS = kmock.resource("v1/events")
TIME = "2026-01-01T00:00:00Z"


class _Emulator(kmock.KubernetesEmulator):
    """The emulator, which calls what is there already by the name that Kubernetes has for it."""

    async def _handle(self, request):
        try:
            return await super()._handle(request)
        except kmock.KubernetesError as error:
            if error.status != 409:
                raise
            raise kmock.KubernetesError(409, "AlreadyExists", error.message) from None


class FakeCluster:
    """Holds jobs of one kind; use it as a context manager."""

    def __init__(self, kind=PYTORCHJOB):
        self.kind = kind
        self.resource = kmock.resource(f"{kind.group}/{kind.version}/{kind.plural}")
        self.script = deque()
        self.pods = {}
        self.logs = {}  # of a pod and "current" or "previous": its lines, each with its time
        self.log_requests = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_):
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _open(self):
        self.api = await _Emulator().__aenter__()
        self._server = await kmock.Server(self.api).__aenter__()
        self.url = str(self._server.url).rstrip("/")
        for resource, name in ((self.resource, self.kind.name), (PODS, "Pod"), (EVENTS, "Event")):
            self.api.resources[resource] = {"namespaced": True, "kind": name}
        self.api[kmock.action.FETCH, self.resource] << self._next
        self.api[kmock.action.CREATE, self.resource] << self._created
        self.api[kmock.action.LIST, PODS] << self._list_pods
        self.api[kmock.action.WATCH, PODS] << self._watch_pods
        self.api[kmock.action.FETCH, PODS] << self._pod_or_log

    async def _close(self):
        await self._server.__aexit__(None, None, None)
        await self.api.__aexit__(None, None, None)

    def connect(self, *, patience=5.0):
        configuration = client.Configuration()
        configuration.host = self.url
        return Cluster(configuration, NAMESPACE, patience=patience)

    def kubeconfig(self, path):
        """Writes a kubeconfig and returns its path."""
        context = {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": context}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        return path

    def requests(self, method, part=""):
        return [r for r in self.api if r.method == method and part in r.url.path]

    def job(self, name):
        """Returns a job; None if there is none."""
        key = (self.resource, NAMESPACE, name)
        if key not in self.api.objects or self.api.objects[key].deleted:
            return None
        return self.api.objects[key].raw

    def add_job(self, manifest, **status):
        name = manifest["metadata"]["name"]
        metadata = {**manifest["metadata"], "uid": "old", "creationTimestamp": TIME}
        self.api.objects[self.resource, NAMESPACE, name] = {**manifest, "metadata": metadata}
        self.change_job(name, status=status)

    def change_job(self, name, **changes):
        self.api.objects[self.resource, NAMESPACE, name].patch(changes)

    def delete_job(self, name):
        self.api.objects[self.resource, NAMESPACE, name].delete()

    def holds(self, name, condition, message="as it is", **status):
        """Lets a condition be the only one that a job has."""
        held = {"type": condition, "status": "True", "reason": "x", "message": message}
        self.change_job(name, status={"conditions": [held], **status})

    def set_pod(self, job, index, *, phase="Running", lines=None, restarts=0, **state):
        """Makes a pod what the arguments say; ``state`` is that of its container, if it has one."""
        name = f"{job}-worker-{index}"
        labels = dict(pair.split("=") for pair in self.kind.selector(job).split(","))
        labels[self.kind.first_pod[0]] = str(index)
        container = {
            "name": self.kind.container, "image": "", "imageID": "", "ready": True,
            "restartCount": restarts, **state,
        }  # fmt: skip
        self.pods[name] = {
            "metadata": {
                "name": name, "uid": f"uid of {name}", "labels": labels, "creationTimestamp": TIME,
            },
            "status": {"phase": phase, "containerStatuses": [container] if state else []},
        }  # fmt: skip
        if lines is not None:
            self.logs[name, "current"] = stamped(lines)

    def _created(self, request):
        uid = f"uid {len(self.requests('POST', self.kind.plural))}"
        metadata = {"uid": uid, "creationTimestamp": TIME}
        self.change_job(request.data["metadata"]["name"], metadata=metadata)
        raise NotImplementedError  # the emulator does the rest

    def _next(self, request):
        if self.script and self.job(request.name) is not None:
            self.script.popleft()(request.name)
        raise NotImplementedError

    def _list_pods(self, request):
        return {"kind": "PodList", "metadata": {}, "items": self._selected(request)}

    def _watch_pods(self, request):
        events = [{"type": "ADDED", "object": pod} for pod in self._selected(request)]
        return "".join(f"{json.dumps(event)}\n" for event in events).encode()

    def _selected(self, request):
        wanted = dict(pair.split("=") for pair in request.params["labelSelector"].split(","))
        return [p for p in self.pods.values() if wanted.items() <= p["metadata"]["labels"].items()]

    def _pod_or_log(self, request):
        if request.subresource is None:
            return self.pods.get(request.name) or kmock.KubernetesError(404, "NotFound", "no pod")
        self.log_requests.append(request)
        which = "previous" if request.params.get("previous", "").lower() == "true" else "current"
        lines = self.logs.get((request.name, which), [])
        if "tailLines" in request.params:
            lines = [line.split(" ", 1)[1] for line in lines[-int(request.params["tailLines"]) :]]
        return ("".join(f"{line}\n" for line in lines)).encode()


def stamped(lines, *, start=0):
    """Returns lines with times, as a kubelet hands them out: nanoseconds without zeros behind."""
    return [
        f"2026-01-01T00:00:{i // 10:02}.{i % 10}5Z {line}" for i, line in enumerate(lines, start)
    ]
