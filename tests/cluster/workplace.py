"""A namespace as users of the project set one up, with prepared data, and the launcher as a pod."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import secrets
from components.images import LAUNCHER_IMAGE, RUNTIME_IMAGE
from components.volume import CLAIM, MOUNT
from tests.cluster.cluster import Namespace
from tests.cluster.pods import pod

RUN_DIR = f"{MOUNT}/run"
_MOUNTS = [
    {"name": "runs", "mountPath": MOUNT},
    {"name": "tmp", "mountPath": "/tmp"},
    {"name": "shm", "mountPath": "/dev/shm"},
]
_VOLUMES = [
    {"name": "runs", "persistentVolumeClaim": {"claimName": CLAIM}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
]
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def step_pod(
    name: str, image: str, command: Sequence[str], *, account: str = "default"
) -> dict[str, Any]:
    """Returns a pod such as KFP makes for a step of the compiled pipeline."""
    own_name = {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    env = [
        own_name,
        {"name": "TZREC_IMAGE", "value": RUNTIME_IMAGE},
        *_variables("configMapKeyRef", secrets.MLFLOW_NAME, secrets.MLFLOW_CONFIG_MAP),
        *_variables("secretKeyRef", secrets.MLFLOW_NAME, secrets.MLFLOW_SECRET),
        *_variables("secretKeyRef", secrets.OBJECT_STORE_NAME, secrets.OBJECT_STORE_SECRET),
    ]
    return pod(
        name,
        image,
        command,
        container={"env": env, "volumeMounts": _MOUNTS, "securityContext": _SECURITY},
        serviceAccountName=account,
        securityContext={"runAsUser": 1000, "runAsGroup": 1000},
        volumes=_VOLUMES,
    )


def _variables(kind: str, name: str, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": variable, "valueFrom": {kind: {"name": name, "key": key, "optional": True}}}
        for variable, key in keys.items()
    ]


@dataclass(frozen=True)
class Workplace:
    """A namespace with the project's manifests and one prepared run directory."""

    namespace: Namespace
    account: str

    @property
    def run_dir(self) -> Path:
        """Where the run directory is on this machine."""
        return self.namespace.folder(CLAIM) / "run"

    def start_launcher(
        self,
        name: str = "launcher",
        *,
        env: Mapping[str, str] = {},
        **worker: object,
    ) -> str:
        """Starts the step launch_train with two workers, and returns its pod's name.

        Args:
            name: Of the pod.
            env: More of the workers' environment.
            worker: More of worker_json.
        """
        settings = {"env": {"OMP_NUM_THREADS": "1", **env}, "max_restarts": 0, **worker}
        command = [
            "python3", "-u", "-m", "components.cli", "launch_train",
            f"--run_dir={RUN_DIR}", "--launcher=pytorchjob", "--num_workers=2",
            f"--worker_json={json.dumps(settings)}",
        ]  # fmt: skip
        launcher = step_pod(name, LAUNCHER_IMAGE, command, account=self.account)
        return self.namespace.start(launcher)

    def checkpoints(self) -> list[int]:
        """Returns the steps of the checkpoints that there are now."""
        folders = (self.run_dir / "checkpoints").glob("model.ckpt-*")
        return sorted(int(folder.name.rpartition("-")[2]) for folder in folders)

    def give(self, path: Path) -> None:
        """Gives a file or folder to the user that containers run as."""
        shutil.chown(path, 1000, 1000)

    def edit_config(self, old: str, new: str) -> None:
        """Replaces a part of the prepared config, which must have it once."""
        config = self.run_dir / "pipeline.config"
        text = config.read_text()
        assert text.count(old) == 1, f"{old!r} is not once in\n{text}"
        config.write_text(text.replace(old, new))


def copy_run(prepared: Path, target: Path, *, pipeline_run_id: str) -> None:
    """Copies a prepared run directory for another pipeline run."""
    # copy2, and all that copytree uses it for, keeps no owner.
    shutil.copytree(prepared, target)
    info = json.loads((target / "run.json").read_text())
    (target / "run.json").write_text(json.dumps({**info, "pipeline_run_id": pipeline_run_id}))
    for path in [target, *target.rglob("*")]:
        shutil.chown(path, 1000, 1000)
