"""A stand-in for training-operator v1.9: makes the pods of PyTorchJobs and judges by them.

It follows ``ReconcileJobs`` and ``UpdateJobStatus`` there, with what is odd about them: when the
backoff limit or the deadline is passed, every pod is deleted before the job is Failed, whatever
cleanPodPolicy says; and one worker that succeeds makes an elastic job Succeeded.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.api import Api, ApiError
from tests.cluster.stand_ins import job_conditions, replica_environment
from tests.cluster.stand_ins.job_conditions import is_true
from tests.cluster.stand_ins.pod_status import now

_LABEL = "training.kubeflow.org"
_RETRYABLE_EXIT_CODE = 128

Object = Mapping[str, Any]


class TrainingOperator:
    """The operator; ``step`` does all that there is to do now."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def step(self) -> None:
        """Looks at every job."""
        for job in self._api.get("/apis/kubeflow.org/v1/pytorchjobs")["items"]:
            if "deletionTimestamp" in job["metadata"]:
                continue
            try:
                self._reconcile(job)
            except ApiError as error:
                # Somebody else was faster; the next step sees what there is then.
                if error.status not in (404, 409):
                    raise

    def _reconcile(self, job: Object) -> None:
        metadata, old = job["metadata"], job.get("status", {})
        spec = replica_environment.defaulted(job["spec"])
        pods = self._pods(job)
        status = {**old, "conditions": list(old.get("conditions", []))}
        if not status["conditions"]:
            job_conditions.add(status, metadata["name"], "Created")
        if is_true(status, "Succeeded") or is_true(status, "Failed"):
            self._clean(job, spec, pods, status)
            return
        if spec["runPolicy"].get("suspend"):
            self._delete(pods)
            job_conditions.add(status, metadata["name"], "Suspended")
        elif message := self._exceeded(metadata["name"], spec, pods, status):
            status.setdefault("completionTime", now())
            self._delete(pods)
            job_conditions.add(status, metadata["name"], "Failed", message)
        else:
            status.setdefault("startTime", now())
            for kind in spec["pytorchReplicaSpecs"]:
                self._replicas(job, spec, kind, pods, status)
        if status != old:
            self._write(job, status)

    def _pods(self, job: Object) -> list[Any]:
        metadata = job["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods"
        found = self._api.get(path, labelSelector=f"{_LABEL}/job-name={metadata['name']}")["items"]
        return [
            pod
            for pod in found
            if metadata["uid"] in [o["uid"] for o in pod["metadata"].get("ownerReferences", [])]
        ]

    def _exceeded(
        self, name: str, spec: Object, pods: Sequence[Object], status: Object
    ) -> str | None:
        policy = spec["runPolicy"]
        restarts = sum(
            container["restartCount"]
            for pod in pods
            if pod["status"].get("phase") == "Running"
            and spec["pytorchReplicaSpecs"][_kind(pod)]["restartPolicy"] != "Never"
            for container in pod["status"].get("containerStatuses", [])
        )
        limit = policy.get("backoffLimit")
        if limit is not None and restarts >= max(limit, 1):
            return f"Job {name} has failed because it has reached the specified backoff limit"
        deadline = policy.get("activeDeadlineSeconds")
        if deadline is not None and _age(status.get("startTime")) >= deadline:
            return f"Job {name} has failed because it was active longer than specified deadline"
        return None

    def _replicas(
        self, job: Object, spec: Object, kind: str, pods: Sequence[Object], status: dict[str, Any]
    ) -> None:
        name, replica = job["metadata"]["name"], spec["pytorchReplicaSpecs"][kind]
        present = {_index(pod): pod for pod in pods if _kind(pod) == kind}
        counts = {"active": 0, "succeeded": 0, "failed": 0}
        for index in range(replica["replicas"]):
            if index not in present:
                self._create_pod(job, spec, kind, index)
                continue
            pod = present[index]
            match pod["status"].get("phase"):
                case "Running":
                    counts["active"] += 1
                case "Succeeded":
                    counts["succeeded"] += 1
                case "Failed":
                    counts["failed"] += 1
                    self._restart(job, replica, kind, pod, status)
        status["replicaStatuses"] = {**status.get("replicaStatuses", {}), kind: counts}
        if is_true(status, "Failed"):
            return
        leads = kind == "Master" or "Master" not in spec["pytorchReplicaSpecs"]
        is_elastic = kind == "Worker" and "elasticPolicy" in spec
        succeeded = counts["succeeded"]
        if leads and (succeeded == replica["replicas"] or (is_elastic and succeeded > 0)):
            status.setdefault("completionTime", now())
            job_conditions.add(status, name, "Succeeded")
        elif leads and counts["active"]:
            job_conditions.add(status, name, "Running")
        if counts["failed"] and replica["restartPolicy"] == "Never":
            status.setdefault("completionTime", now())
            message = (
                f"PyTorchJob {name} is failed because {counts['failed']} {kind} replica(s) failed."
            )
            job_conditions.add(status, name, "Failed", message)

    def _restart(
        self, job: Object, replica: Object, kind: str, pod: Object, status: dict[str, Any]
    ) -> None:
        """Deletes a failed pod, so that the next step makes it anew, if its policy is such."""
        name = job["metadata"]["name"]
        codes = [
            container["state"]["terminated"]["exitCode"]
            for container in pod["status"].get("containerStatuses", [])
            if "terminated" in container["state"]
        ]
        match replica["restartPolicy"]:
            case "ExitCode" if any(0 < code < _RETRYABLE_EXIT_CODE for code in codes):
                message = f'job "{name}" is failing because "{kind}" replica(s) failed.'
                job_conditions.add(status, name, "Failed", message)
            case "Never":
                return
            case _:
                self._delete([pod])
                message = f"job {name} is restarting because {kind} replica(s) failed."
                job_conditions.add(status, name, "Restarting", message)

    def _create_pod(self, job: Object, spec: Object, kind: str, index: int) -> None:
        metadata, replica = job["metadata"], spec["pytorchReplicaSpecs"][kind]
        template = replica["template"]
        labels = {
            f"{_LABEL}/job-name": metadata["name"],
            f"{_LABEL}/operator-name": "pytorchjob-controller",
            f"{_LABEL}/replica-type": kind.lower(),
            f"{_LABEL}/replica-index": str(index),
        }
        if kind == "Master" or ("Master" not in spec["pytorchReplicaSpecs"] and index == 0):
            labels[f"{_LABEL}/job-role"] = "master"
        values = replica_environment.variables(metadata["name"], spec, kind, index)
        containers = [
            {**container, "env": [*container.get("env", []), *_as_list(values)]}
            if container["name"] == "pytorch"
            else container
            for container in template["spec"]["containers"]
        ]
        policy = replica["restartPolicy"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{metadata['name']}-{kind.lower()}-{index}",
                "labels": {**template.get("metadata", {}).get("labels", {}), **labels},
                "annotations": template.get("metadata", {}).get("annotations", {}),
                "ownerReferences": [
                    {
                        "apiVersion": job["apiVersion"],
                        "kind": job["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {
                **template["spec"],
                "containers": containers,
                "restartPolicy": "Never" if policy == "ExitCode" else policy,
            },
        }
        self._api.create(f"/api/v1/namespaces/{metadata['namespace']}/pods", pod)

    def _clean(
        self, job: Object, spec: Object, pods: Sequence[Object], status: dict[str, Any]
    ) -> None:
        """Deletes what cleanPodPolicy and ttlSecondsAfterFinished say of a job that has ended."""
        match spec["runPolicy"]["cleanPodPolicy"]:
            case "All":
                self._delete(pods)
            case "Running":
                active = ("Running", "Pending")
                self._delete([pod for pod in pods if pod["status"].get("phase") in active])
        keep = spec["runPolicy"].get("ttlSecondsAfterFinished")
        if keep is not None and _age(status.get("completionTime")) >= keep:
            self._api.delete(_path(job), propagationPolicy="Background")
            return
        if is_true(status, "Succeeded"):
            counts = {
                kind: {
                    **of_kind,
                    "succeeded": of_kind["succeeded"] + of_kind["active"],
                    "active": 0,
                }
                for kind, of_kind in status.get("replicaStatuses", {}).items()
            }
            if counts != status.get("replicaStatuses"):
                self._write(job, {**status, "replicaStatuses": counts})

    def _delete(self, pods: Sequence[Object]) -> None:
        for pod in pods:
            metadata = pod["metadata"]
            if "deletionTimestamp" not in metadata:
                self._api.delete(
                    f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
                )

    def _write(self, job: Object, status: Object) -> None:
        self._api.replace(f"{_path(job)}/status", {**job, "status": status})


def _path(job: Object) -> str:
    metadata = job["metadata"]
    return (
        f"/apis/kubeflow.org/v1/namespaces/{metadata['namespace']}/pytorchjobs/{metadata['name']}"
    )


def _kind(pod: Object) -> str:
    return str(pod["metadata"]["labels"][f"{_LABEL}/replica-type"]).capitalize()


def _index(pod: Object) -> int:
    return int(pod["metadata"]["labels"][f"{_LABEL}/replica-index"])


def _age(time: str | None) -> float:
    """Returns the seconds since a time as Kubernetes writes it; nothing has begun at None."""
    if time is None:
        return -1
    return (
        datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(time)
    ).total_seconds()


def _as_list(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
