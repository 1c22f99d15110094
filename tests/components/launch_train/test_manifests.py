"""Every manifest that can be written, against what a cluster would accept."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubeflow_trainer_api import models as trainer_models

from components.launch_train.job import MAX_SECONDS, Job, job_name
from components.launch_train.pytorchjob import PYTORCHJOB
from components.launch_train.settings import parse
from components.launch_train.trainjob import TRAINJOB
from tests.components.launch_train.cluster_rules import check_pod, check_pytorchjob

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
LABELS = st.dictionaries(NAMES, NAMES, max_size=2)
TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=8)
SECONDS = st.integers(1, 10**7)
QUANTITIES = st.sampled_from(["500m", "2", 4, 1.5, "16Gi", "100M"])
EXPRESSION = {"key": "zone", "operator": "In", "values": ["a", "b"]}
COMMON = {
    "resources": st.fixed_dictionaries(
        {},
        optional={
            "cpu": QUANTITIES,
            "memory": st.sampled_from(["64Gi", "1Ti"]),
            "nvidia.com/gpu": st.integers(1, 8),
            "rdma/hca_shared_devices_a": st.just(1),
        },
    ),
    "shm_size": st.sampled_from(["64Mi", "8Gi"]),
    "node_selector": LABELS,
    "tolerations": st.lists(
        st.sampled_from(
            [
                {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 60},
            ]
        ),
        max_size=2,
    ),
    "affinity": st.sampled_from(
        [
            {},
            {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [EXPRESSION]}]
                    }
                }
            },
            {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 1,
                            "podAffinityTerm": {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": {"a": "b"}},
                            },
                        }
                    ]
                }
            },
        ]
    ),
    "env": st.dictionaries(st.sampled_from(["NCCL_DEBUG", "OMP_NUM_THREADS"]), TEXTS),
    "labels": LABELS,
    "annotations": st.dictionaries(NAMES, TEXTS, max_size=2),
    "image_pull_secrets": st.lists(NAMES, max_size=2),
    "service_account": NAMES,
    "ipc_lock": st.booleans(),
    "timeout_seconds": SECONDS,
    "queue": NAMES,
}
OF_A_PYTORCHJOB = {
    "min_workers": st.integers(1, 2),
    "max_restarts": st.integers(0, 9),
    "backoff_limit": st.integers(0, 9),
    "ttl_seconds": st.integers(0, 10**6),
    "scheduling": st.fixed_dictionaries({}, optional={"gang": st.booleans()}),
}
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "1"}
JOBS = st.builds(
    Job,
    name=st.builds(job_name, st.text(max_size=20), st.text(max_size=60)),
    run_id=st.text(max_size=20),
    namespace=NAMES,
    image=st.just("registry/runtime@sha256:1"),
    command=st.just(["python3", "-m", "components.train.worker"]),
    num_workers=st.integers(2, 64),
    num_processes=st.integers(1, 8),
    volume=NAMES,
    env=st.dictionaries(st.sampled_from(["MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"]), TEXTS),
    secret_env=st.just({"AWS_ACCESS_KEY_ID": ("store", "key")}),
    owner=st.none() | st.just({**OWNER, "blockOwnerDeletion": False}),
)


def chosen(**settings_by_name):
    """Returns jobs with any of these settings, as a user writes them."""
    worker_json = st.fixed_dictionaries({}, optional=settings_by_name).map(json.dumps)
    return st.builds(
        lambda job, text: dataclasses.replace(job, settings=parse(text)), JOBS, worker_json
    )


@given(chosen(**COMMON, **OF_A_PYTORCHJOB))
@settings(max_examples=30, deadline=None)
def test_a_cluster_accepts_every_pytorchjob(job):
    check_pytorchjob(PYTORCHJOB.manifest(job))


@given(chosen(**COMMON))
@settings(max_examples=30, deadline=None)
def test_a_cluster_accepts_every_trainjob(job):
    manifest = TRAINJOB.manifest(job)

    # The models drop fields that they do not know, so nothing may be missing afterwards.
    read = trainer_models.TrainerV1alpha1TrainJob.from_dict(manifest)
    assert json.loads(read.to_json()) == manifest
    check_pod(as_pod(manifest))


def as_pod(trainjob):
    """Returns the pod that the operator makes of a TrainJob and the runtime's, which is empty."""
    (patch,) = trainjob["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = node["template"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    trainer = trainjob["spec"]["trainer"]
    own = {"image": trainer["image"], "command": trainer["command"], "env": trainer["env"]}
    resources = {"resources": trainer.get("resourcesPerNode", {})}
    return {**template, "spec": {**template["spec"], "containers": [container | own | resources]}}


def job(worker_json="", **changes):
    values = {
        "name": "tzrec-a", "run_id": "1", "namespace": "ns", "image": "img", "command": ["train"],
        "num_workers": 3, "num_processes": 2, "volume": "runs", **changes,
    }  # fmt: skip
    return Job(**values, settings=parse(worker_json))


def pods(manifest):
    """Returns the pod template of either kind, and its container."""
    if manifest["kind"] == "TrainJob":
        template = as_pod(manifest)
    else:
        template = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = template["spec"]["containers"]
    return template, container


KINDS = pytest.mark.parametrize("kind", [PYTORCHJOB, TRAINJOB], ids=lambda kind: kind.name)


@KINDS
def test_a_worker_has_no_rights_and_no_token(kind):
    template, container = pods(kind.manifest(job()))

    assert template["spec"]["securityContext"]["runAsUser"] == 1000
    assert template["spec"]["securityContext"]["fsGroup"] == 1000
    assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert template["spec"].get("automountServiceAccountToken") is False or token in mounted
    assert {"/runs", "/dev/shm", "/tmp"} <= mounted


@KINDS
def test_a_node_is_not_saved_at_the_cost_of_a_training_unless_the_user_says_so(kind):
    template, _ = pods(kind.manifest(job()))
    asked, _ = pods(kind.manifest(job('{"annotations": {"karpenter.sh/do-not-disrupt": "false"}}')))

    annotations = template["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert asked["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"


@KINDS
def test_rdma_needs_one_capability_more(kind):
    _, container = pods(kind.manifest(job('{"ipc_lock": true, "resources": {"rdma/hca": 1}}')))

    capabilities = container["securityContext"]["capabilities"]
    assert capabilities == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert container["resources"]["limits"] == {"rdma/hca": "1"}


@KINDS
def test_what_a_user_sets_takes_the_place_of_what_is_handed_on(kind):
    text = '{"env": {"MLFLOW_TRACKING_URI": "mine", "AWS_ACCESS_KEY_ID": "mine too"}}'
    secret_env = {"AWS_ACCESS_KEY_ID": ("store", "key"), "AWS_SECRET_ACCESS_KEY": ("store", "s")}
    _, container = pods(
        kind.manifest(job(text, env={"MLFLOW_TRACKING_URI": "x"}, secret_env=secret_env))
    )

    assert container["env"] == [
        {"name": "MLFLOW_TRACKING_URI", "value": "mine"},
        {"name": "AWS_ACCESS_KEY_ID", "value": "mine too"},
        {
            "name": "AWS_SECRET_ACCESS_KEY",
            "valueFrom": {"secretKeyRef": {"name": "store", "key": "s", "optional": True}},
        },
    ]


@KINDS
def test_a_job_in_a_queue_waits_until_it_is_admitted(kind):
    manifest = kind.manifest(job('{"queue": "research"}'))

    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    spec = manifest["spec"]
    assert spec.get("suspend") or spec["runPolicy"]["suspend"]


@KINDS
@pytest.mark.parametrize(
    ("text", "seconds"), [('{"timeout_seconds": 100}', 100), ("", MAX_SECONDS)]
)
def test_the_operator_ends_a_job_whose_launcher_is_gone(kind, text, seconds):
    spec = kind.manifest(job(text))["spec"]

    assert seconds < spec.get("runPolicy", spec)["activeDeadlineSeconds"] < seconds + 3600


def test_a_pytorchjob_is_elastic_and_says_how_many_processes_a_pod_has():
    text = '{"min_workers": 2, "max_restarts": 5, "scheduling": {"gang": true}}'
    spec = PYTORCHJOB.manifest(job(text))["spec"]

    assert spec["nprocPerNode"] == "2"
    policy = spec["elasticPolicy"]
    assert (policy["minReplicas"], policy["maxReplicas"], policy["maxRestarts"]) == (2, 3, 5)
    assert policy["rdzvBackend"] == "c10d"
    assert policy["rdzvId"] == "tzrec-a"
    waits = {entry["key"]: int(entry["value"]) for entry in policy["rdzvConf"]}
    assert waits["join_timeout"] > 3600  # torchrun's 600 s are less than to get a node
    assert spec["runPolicy"]["schedulingPolicy"] == {"minAvailable": 2}
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3


def test_more_workers_cannot_be_needed_than_there_are():
    with pytest.raises(ValueError, match=r"min_workers is 4, but num_workers is 3"):
        PYTORCHJOB.manifest(job('{"min_workers": 4}'))


@pytest.mark.parametrize(
    "text",
    [
        '{"min_workers": 1}',
        '{"max_restarts": 1}',
        '{"backoff_limit": 1}',
        '{"ttl_seconds": 1}',
        '{"scheduling": {"gang": true}}',
    ],
)
def test_a_trainjob_refuses_what_its_runtime_decides(text):
    (name,) = json.loads(text)

    with pytest.raises(ValueError, match=f"worker_json.{name} is for a PyTorchJob"):
        TRAINJOB.manifest(job(text))


@given(st.text(max_size=80), st.text(max_size=80))
def test_a_name_is_the_same_each_time_and_leaves_room_for_the_pods(volume, run_dir):
    name = job_name(volume, run_dir)

    assert name == job_name(volume, run_dir)
    assert name != job_name(volume, run_dir + "x")
    assert name != job_name(volume + "x", run_dir)
    assert len(f"{name}-node-0-99999") <= 63


def test_a_wrong_manifest_is_found_out():
    good = PYTORCHJOB.manifest(job())
    check_pytorchjob(good)
    for change in (
        {"elasticPolicy": {"minReplica": 1}},
        {"runPolicy": {"cleanPodPolicy": "Sometimes"}},
        {"nprocPerNode": 2},
    ):
        with pytest.raises(AssertionError):
            check_pytorchjob({**good, "spec": {**good["spec"], **change}})
