"""The manifests in deploy/: strictly valid, and of the names that a run has by default."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from components import secrets, volume
from pipelines.training import training

DEPLOY = Path(__file__).parents[2] / "deploy"
VERSIONS = ("1.27", "1.37")  # the oldest that is supported here, and the newest known
PATHS = sorted(DEPLOY.rglob("*.yaml"))


def manifests(*names):
    paths = [path for path in PATHS if not names or path.name in names]
    return [manifest for path in paths for manifest in yaml.safe_load_all(path.read_text())]


def identity(manifest):
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", manifests(), ids=identity)
def test_a_manifest_has_only_what_kubernetes_knows(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_goes_into_the_namespace_that_one_chooses():
    assert len({identity(manifest) for manifest in manifests()}) == len(manifests())
    assert not any("namespace" in manifest["metadata"] for manifest in manifests())


def test_objects_have_the_names_that_a_run_looks_for():
    made = {identity(manifest) for manifest in manifests()}
    defaults = {
        name: spec.default_value.string_value
        for name, spec in training.pipeline_spec.root.input_definitions.parameters.items()
    }

    assert f"PersistentVolumeClaim/{defaults['volume']}" in made
    assert f"ConfigMap/{defaults['mlflow_config_map']}" in made
    assert f"Secret/{defaults['mlflow_secret']}" in made
    assert f"Secret/{defaults['object_store_secret']}" in made


def test_keys_are_those_that_steps_read_and_no_value_is_given():
    text = (DEPLOY / "optional" / "settings.yaml").read_text()
    for keys in (secrets.MLFLOW_CONFIG_MAP, secrets.MLFLOW_SECRET, secrets.OBJECT_STORE_SECRET):
        for key in keys.values():
            assert key in text
    for manifest in manifests("settings.yaml"):
        values = {**manifest.get("data", {}), **manifest.get("stringData", {})}
        assert not any(values.values())


def test_what_is_applied_again_does_not_empty_what_a_user_has_filled_in():
    applied = [m for path in DEPLOY.glob("*.yaml") for m in yaml.safe_load_all(path.read_text())]

    assert applied
    assert not {"ConfigMap", "Secret"} & {manifest["kind"] for manifest in applied}


def test_the_volume_can_be_written_from_several_nodes():
    (claim,) = manifests("runs.yaml")

    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (pod,) = manifests("shell.yaml")
    (mount,) = [m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "runs"]
    assert mount["mountPath"] == volume.MOUNT


def rules(name):
    """Returns what a role allows, as verbs by group and resource."""
    (role,) = [m for m in manifests("access.yaml") if identity(m) == f"Role/{name}"]
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_launcher_may_handle_jobs_and_look_at_pods_and_nothing_else():
    allowed = rules("tzrec-launcher")
    handle = {"get", "create", "patch", "delete"}

    assert allowed == {
        ("kubeflow.org", "pytorchjobs"): handle,
        ("trainer.kubeflow.org", "trainjobs"): handle,
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "events"): {"list"},
    }


def test_no_role_allows_everything_and_secrets_are_named():
    for manifest in manifests("access.yaml"):
        assert manifest["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        for rule in manifest.get("rules", []):
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if {"secrets", "configmaps"} & set(rule["resources"]):
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"]


def test_both_roles_are_bound_to_the_account():
    bound = {
        manifest["roleRef"]["name"]: [subject["name"] for subject in manifest["subjects"]]
        for manifest in manifests("access.yaml")
        if manifest["kind"] == "RoleBinding"
    }

    assert bound == {name: ["tzrec-pipelines"] for name in ("tzrec-launcher", "tzrec-kfp-step")}
