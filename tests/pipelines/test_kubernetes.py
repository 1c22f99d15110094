"""What a cluster gives to the containers, as both documents of the compiled pipeline say it."""

import os
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from components import images, secrets
from components.launch_train.settings import quantity
from pipelines.__main__ import compile_pipeline

STEPS = ("prepare-data", "train", "launch-train", "evaluate", "select-best", "export")
ON_ACCELERATORS = ("train", "evaluate")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path)
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(params=STEPS)
def step(request):
    return request.param


@pytest.fixture
def container(documents, step):
    return documents[0]["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


@pytest.fixture
def platform(documents, step):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == {f"exec-{name}" for name in STEPS}
    return executors[f"exec-{step}"]


def parameter(reference):
    """Returns the pipeline's parameter that a setting is taken from."""
    return reference["componentInputParameter"].removeprefix("pipelinechannel--")


def test_the_shared_volume_is_a_parameter_and_run_directories_go_there(platform, container):
    (mount,) = platform["pvcMount"]

    assert mount["mountPath"] == "/runs"
    assert parameter(mount["pvcNameParameter"]) == "volume"
    assert {"name": "TZREC_RUNS", "value": "/runs"} in container["env"]


def test_shared_memory_is_as_large_as_the_memory_allows(platform):
    (mount,) = platform["emptyDirMounts"]

    assert mount == {"mountPath": "/dev/shm", "medium": "Memory", "volumeName": "shm"}


def variables(entries, key):
    """Returns the key of each environment variable by the parameter that names the object."""
    found = {}
    for entry in entries:
        assert entry["optional"]
        (name,) = [value for field, value in entry.items() if field.endswith("NameParameter")]
        for pair in entry["keyToEnv"]:
            found.setdefault(parameter(name), {})[pair["envVar"]] = pair[key]
    return found


def test_credentials_are_optional_and_named_by_parameters(platform):
    assert variables(platform["secretAsEnv"], "secretKey") == {
        "mlflow_secret": secrets.MLFLOW_SECRET,
        "object_store_secret": secrets.OBJECT_STORE_SECRET,
    }
    assert variables(platform["configMapAsEnv"], "configMapKey") == {
        "mlflow_config_map": secrets.MLFLOW_CONFIG_MAP
    }
    assert platform["fieldPathAsEnv"] == [{"name": "KFP_POD_NAME", "fieldPath": "metadata.name"}]


def test_a_container_runs_as_the_images_user(platform):
    context = platform["securityContext"]

    assert {name: str(value) for name, value in context.items()} == {
        "runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": "True",
    }  # fmt: skip


def test_nodes_are_chosen_by_parameters(platform):
    assert parameter(platform["nodeSelector"]["nodeSelectorJson"]) == "node_selector"
    (toleration,) = platform["tolerations"]
    assert parameter(toleration["tolerationJson"]) == "tolerations"


def test_a_step_that_hangs_ends(platform, step):
    hours = int(platform["activeDeadlineSeconds"]) / 3600

    assert hours >= 12
    assert hours == 14 * 24 or step not in ("train", "launch-train")


def test_all_attempts_have_time_to_end(documents, platform, step):
    """Argo gives up, and ends what runs, after the time that backing off may take at most."""
    tasks = [
        task
        for component in (documents[0]["root"], *documents[0]["components"].values())
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if name == step
    ]
    (retry,) = [task["retryPolicy"] for task in tasks]
    attempts = 1 + retry["maxRetryCount"]

    longest = int(retry["backoffMaxDuration"].removesuffix("s"))
    assert longest > attempts * int(platform["activeDeadlineSeconds"])


def test_a_node_is_not_saved_at_the_cost_of_a_step(platform):
    annotations = platform["podMetadata"]["annotations"]

    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_resources_are_parameters_but_those_of_the_launcher(container, step):
    resources = container["resources"]
    if step == "launch-train":
        assert resources["resourceMemoryLimit"] == "1G"
        assert resources["resourceCpuLimit"] == "1"
        assert "accelerator" not in resources
        return
    found = {
        name: value.removeprefix("{{$.inputs.parameters['pipelinechannel--").removesuffix("']}}")
        for name, value in resources.items()
        if name != "accelerator"
    }
    assert found == {
        "resourceCpuRequest": "cpu_request", "resourceCpuLimit": "cpu_limit",
        "resourceMemoryRequest": "memory_request", "resourceMemoryLimit": "memory_limit",
    }  # fmt: skip
    assert ("accelerator" in resources) == (step in ON_ACCELERATORS)
    if step in ON_ACCELERATORS:
        accelerator = resources["accelerator"]
        assert "accelerator_type" in accelerator["resourceType"]
        assert "accelerator_count" in accelerator["resourceCount"]


def test_parameters_that_kfp_puts_into_resources_are_text(documents):
    """KFP's driver reads a number there as an empty text."""
    inputs = documents[0]["root"]["inputDefinitions"]["parameters"]
    for name in (
        "cpu_request", "cpu_limit", "memory_request", "memory_limit", "accelerator_type",
        "accelerator_count",
    ):  # fmt: skip
        assert inputs[name]["parameterType"] == "STRING"
    # Names of objects must not be empty, and quantities neither.
    empty = {name for name, i in inputs.items() if i.get("defaultValue") == ""}
    assert empty & {"volume", "mlflow_config_map", "mlflow_secret", "object_store_secret"} == set()
    assert empty & {"cpu_request", "cpu_limit", "memory_request", "memory_limit"} == set()


def test_steps_run_in_their_images_and_know_the_one_that_trains(container, platform, step):
    is_launcher = step == "launch-train"

    assert container["image"] == (images.LAUNCHER_IMAGE if is_launcher else images.RUNTIME_IMAGE)
    assert {"name": "TZREC_IMAGE", "value": images.RUNTIME_IMAGE} in container["env"]
    assert platform["imagePullPolicy"] == "IfNotPresent"


def test_images_and_pull_secrets_are_named_by_the_environment(tmp_path):
    path = tmp_path / "pipeline.yaml"
    env = {"TZREC_IMAGE": "r/x@sha256:1", "TZREC_LAUNCHER_IMAGE": "r/y@sha256:2"}
    env |= {"TZREC_IMAGE_PULL_SECRETS": "one,two"}
    assert compile_with(env, path).returncode == 0
    pipeline, platform = yaml.safe_load_all(path.read_text())

    for name in STEPS:
        container = pipeline["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        pulled = settings[f"exec-{name}"]["imagePullSecret"]
        assert (
            container["image"] == env["TZREC_LAUNCHER_IMAGE" if "launch" in name else "TZREC_IMAGE"]
        )
        assert [one["secretName"] for one in pulled] == ["one", "two"]
        # launch_train hands them on.
        assert {"name": "TZREC_IMAGE_PULL_SECRETS", "value": "one,two"} in container["env"]


def compile_with(env, output):
    """Runs the command that compiles, in another environment."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "compile", f"--output={output}"],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_retries_and_timeouts_are_set_by_the_environment(tmp_path):
    path = tmp_path / "pipeline.yaml"
    env = {"TZREC_RETRIES": "5", "TZREC_TIMEOUTS": '{"launch_train": 7200}'}
    assert compile_with(env, path).returncode == 0
    pipeline, platform = yaml.safe_load_all(path.read_text())

    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    seconds = {name: int(executors[f"exec-{name}"]["activeDeadlineSeconds"]) for name in STEPS}
    assert seconds["launch-train"] == 7200
    assert seconds["train"] == 14 * 24 * 3600
    retries = pipeline["root"]["dag"]["tasks"]["prepare-data"]["retryPolicy"]
    assert retries["maxRetryCount"] == 5
    pauses = sum(60 * 2**i for i in range(5))
    assert int(retries["backoffMaxDuration"][:-1]) >= 6 * seconds["prepare-data"] + pauses


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TZREC_RETRIES": "-1"}, "TZREC_RETRIES must be a whole number from 0 to 10, got '-1'"),
        ({"TZREC_RETRIES": "11"}, "TZREC_RETRIES must be a whole number from 0 to 10, got '11'"),
        ({"TZREC_TIMEOUTS": "1h"}, "TZREC_TIMEOUTS is not JSON"),
        ({"TZREC_TIMEOUTS": "[1]"}, "must be as"),
        ({"TZREC_TIMEOUTS": '{"trian": 1}'}, "has no step 'trian'; there are prepare_data, train"),
        ({"TZREC_TIMEOUTS": '{"train": "1h"}'}, "train must be a whole number of seconds"),
        ({"TZREC_TIMEOUTS": '{"train": 0}'}, "train must be a whole number of seconds, got 0"),
    ],
)
def test_a_mistake_in_the_environment_is_told_in_one_line(tmp_path, env, message):
    ended = compile_with(env, tmp_path / "pipeline.yaml")

    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert not (tmp_path / "pipeline.yaml").exists()


def pod(container, platform, values):
    """Returns the pod that KFP's driver makes of a step's settings and a run's parameters."""

    def resolved(text):
        for name, value in values.items():
            text = text.replace(
                f"{{{{$.inputs.parameters['pipelinechannel--{name}']}}}}", str(value)
            )
        return text

    def sources(entries, kind, key):
        for entry in entries:
            (name,) = [value for field, value in entry.items() if field.endswith("NameParameter")]
            for pair in entry["keyToEnv"]:
                reference = {"name": values[parameter(name)], "key": pair[key], "optional": True}
                yield {"name": pair["envVar"], "valueFrom": {kind: reference}}

    resources = {"limits": {}, "requests": {}}
    for name, value in container["resources"].items():
        if name.startswith("resource"):
            amounts = resources["limits" if name.endswith("Limit") else "requests"]
            amounts["cpu" if "Cpu" in name else "memory"] = resolved(value)
    accelerator = container["resources"].get("accelerator")
    if accelerator and resolved(accelerator["resourceType"]):
        kind = resolved(accelerator["resourceType"])
        resources["limits"][kind] = resolved(accelerator["resourceCount"])
    fields = [
        {"name": one["name"], "valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}}
        for one in platform["fieldPathAsEnv"]
    ]
    (claim,), (memory,) = platform["pvcMount"], platform["emptyDirMounts"]
    context = platform["securityContext"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "step"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    **{key: container[key] for key in ("image", "command", "args")},
                    "imagePullPolicy": platform["imagePullPolicy"],
                    "resources": resources,
                    "env": [
                        *container["env"],
                        *fields,
                        *sources(platform["secretAsEnv"], "secretKeyRef", "secretKey"),
                        *sources(platform["configMapAsEnv"], "configMapKeyRef", "configMapKey"),
                    ],
                    "volumeMounts": [
                        {"name": values["volume"], "mountPath": claim["mountPath"]},
                        {"name": memory["volumeName"], "mountPath": memory["mountPath"]},
                    ],
                    "securityContext": {
                        "runAsUser": int(context["runAsUser"]),
                        "runAsGroup": int(context["runAsGroup"]),
                        "runAsNonRoot": context["runAsNonRoot"],
                    },
                }
            ],
            "volumes": [
                {
                    "name": values["volume"],
                    "persistentVolumeClaim": {"claimName": values["volume"]},
                },
                {"name": memory["volumeName"], "emptyDir": {"medium": memory["medium"]}},
            ],
            "nodeSelector": values["node_selector"],
            "tolerations": values["tolerations"],
            "activeDeadlineSeconds": int(platform["activeDeadlineSeconds"]),
            "restartPolicy": "Never",
        },
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "accelerator_type": "nvidia.com/gpu", "accelerator_count": "8", "memory_limit": "64Gi",
            "node_selector": {"disktype": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    ],
    ids=["defaults", "on GPUs"],
)  # fmt: skip
def test_the_pod_of_a_step_is_one_that_kubernetes_takes(
    documents, container, platform, step, given
):
    inputs = documents[0]["root"]["inputDefinitions"]["parameters"]
    values = {name: i["defaultValue"] for name, i in inputs.items() if "defaultValue" in i}
    made = pod(container, platform, values | given)

    for version in ("1.27", "1.37"):
        kubernetes_validate.validate(made, version, strict=True)
    (main,) = made["spec"]["containers"]
    names = [variable["name"] for variable in main["env"]]
    assert len(set(names)) == len(names)
    limits, requests = main["resources"]["limits"], main["resources"]["requests"]
    for name, amount in requests.items():
        assert 0 < quantity(amount) <= quantity(limits[name])
    assert ("nvidia.com/gpu" in limits) == (bool(given) and step in ON_ACCELERATORS)
