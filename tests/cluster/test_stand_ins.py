"""The cluster itself: without these, a green scenario would say little."""

import pytest

from components.images import LAUNCHER_IMAGE
from tests.cluster.api import ApiError
from tests.cluster.cluster import wait_until
from tests.cluster.pods import elastic_job, pod

pytestmark = pytest.mark.cluster
IMAGE = LAUNCHER_IMAGE


def shell(script):
    return ["/bin/sh", "-c", script]


def test_a_container_gets_what_its_pod_says(namespace):
    namespace.apply(
        {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "from a secret"}},
        {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"key": "from a map"}},
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "disk"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )
    script = """
      echo $SECRET, $MAP, $NAME, ${MISSING-none}
      id -u; id -g; df --output=size /dev/shm | tail -1
      touch /x 2>/dev/null || echo read-only
      touch /tmp/x /disk/x && ls /disk
      cat /var/run/secrets/kubernetes.io/serviceaccount/namespace
    """
    variables = [
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
        {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "key"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {
            "name": "MISSING",
            "valueFrom": {"secretKeyRef": {"name": "no", "key": "no", "optional": True}},
        },
    ]
    mounts = [
        {"name": "disk", "mountPath": "/disk"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    namespace.start(
        pod(
            "all",
            IMAGE,
            shell(script),
            container={
                "env": variables,
                "volumeMounts": mounts,
                "securityContext": {"readOnlyRootFilesystem": True},
            },
            securityContext={"runAsUser": 1000, "runAsGroup": 1000},
            volumes=[
                {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "100Mi"}},
            ],
        )
    )

    ended = namespace.ended("all")

    lines = namespace.log("all").splitlines()
    assert ended["status"]["phase"] == "Succeeded", lines
    assert lines[:3] == ["from a secret, from a map, all, none", "1000", "1000"]
    assert lines[3].strip() == str(100 * 1024)
    assert lines[-3:] == ["read-only", "x", namespace.name]
    assert (namespace.folder("disk") / "x").exists()


def test_a_container_that_fails_is_started_again_if_its_policy_says_so(namespace):
    namespace.start(pod("once", IMAGE, shell("echo first; exit 3")))
    namespace.start(pod("again", IMAGE, shell("sleep 1; exit 4"), restartPolicy="OnFailure"))

    (once,) = namespace.ended("once")["status"]["containerStatuses"]
    assert once["state"]["terminated"]["exitCode"] == 3
    assert namespace.log("once") == "first\n"

    def restarted():
        (status,) = namespace.pod("again")["status"].get("containerStatuses", [None])
        return status if status and status["restartCount"] > 0 else None

    again = wait_until(restarted, "a restart", seconds=120)
    assert again["lastState"]["terminated"]["exitCode"] == 4


def test_a_deleted_pod_may_say_goodbye(namespace):
    said = "trap 'echo bye > /disk/said; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "disk"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    namespace.apply(claim)
    mounts = [{"name": "disk", "mountPath": "/disk"}]
    volumes = [{"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}]
    security = {"runAsUser": 1000}
    namespace.start(
        pod(
            "polite",
            IMAGE,
            shell(said),
            container={"volumeMounts": mounts},
            volumes=volumes,
            securityContext=security,
        )
    )
    namespace.wait_for_log("polite", "ready")

    namespace.api.delete(f"/api/v1/namespaces/{namespace.name}/pods/polite")
    namespace.wait_until_gone("polite")

    assert (namespace.folder("disk") / "said").read_text() == "bye\n"


def test_an_account_may_only_do_what_its_role_says(namespace):
    token = namespace.token("default")

    with pytest.raises(ApiError, match="cannot list resource") as refused:
        namespace.api.as_user(token).get(f"/api/v1/namespaces/{namespace.name}/pods")

    assert refused.value.status == 403


def test_workers_find_each_other_and_one_that_succeeds_ends_an_elastic_job(namespace):
    script = """
      case $(hostname) in
        *-0) until getent hosts job-worker-1; do sleep 0.1; done; echo $PET_RDZV_ENDPOINT ;;
        *) sleep 300 ;;
      esac
    """
    namespace.create_job(
        elastic_job("job", IMAGE, shell(script), policy={"cleanPodPolicy": "Running"})
    )

    namespace.wait_for_condition("job", "Succeeded")

    assert namespace.log("job-worker-0").splitlines()[-1] == "job-worker-0:23456"
    wait_until(lambda: namespace.pod("job-worker-1") is None or None, "a clean-up", seconds=120)
    assert namespace.pod("job-worker-0")["status"]["phase"] == "Succeeded"


def test_too_many_restarts_delete_all_workers_and_then_the_job_has_failed(namespace):
    policy = {"backoffLimit": 1, "cleanPodPolicy": "None"}
    namespace.create_job(elastic_job("job", IMAGE, shell("sleep 1; exit 5"), policy=policy))

    failed = namespace.wait_for_condition("job", "Failed")

    assert "backoff limit" in failed["message"]
    wait_until(lambda: not namespace.pods() or None, "the deletion of the pods", seconds=120)


def test_a_job_past_its_deadline_has_failed(namespace):
    policy = {"activeDeadlineSeconds": 2}
    namespace.create_job(elastic_job("job", IMAGE, shell("sleep 300"), policy=policy))

    failed = namespace.wait_for_condition("job", "Failed")

    assert "longer than specified deadline" in failed["message"]


def test_the_pods_of_a_deleted_job_are_deleted(namespace):
    namespace.create_job(elastic_job("job", IMAGE, shell("sleep 300"), policy={}))
    namespace.wait_for_condition("job", "Running")
    workers = list(namespace.pods())

    namespace.delete_job("job")

    assert len(workers) == 2
    namespace.wait_until_gone(*workers)


def test_a_finished_job_is_deleted_after_its_time(namespace):
    policy = {"ttlSecondsAfterFinished": 1}
    namespace.create_job(elastic_job("job", IMAGE, shell("true"), policy=policy))
    workers = ["job-worker-0", "job-worker-1"]

    wait_until(lambda: len(namespace.pods()) == 2 or None, "two workers", seconds=120)
    namespace.wait_until_gone(*workers)


def test_an_unknown_field_of_a_job_is_no_error_but_a_wrong_type_is(namespace):
    job = elastic_job("job", IMAGE, shell("true"), policy={"backoffLimit": "three"})

    with pytest.raises(ApiError, match="backoffLimit") as refused:
        namespace.create_job(job)

    assert refused.value.status == 422
