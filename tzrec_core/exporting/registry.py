"""Exported models in MLflow's registry, which serves them from raw rows.

A registered model has a copy of the export and of this package, so that nothing but libraries need
be installed where it is served. A large export is registered by reference: with all but the model
itself, and where that lies.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tzrec_core
from tzrec_core.exporting.directory import (
    CARD_FILE,
    CONFIG_FILE,
    DRIFT_FILE,
    FEATURES_FILE,
    RECORD_FILE,
    REFERENCE_FILE,
    SIGNATURE_FILE,
)
from tzrec_core.mlflow_run import model_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

CHAMPION = "champion"
CHALLENGER = "challenger"
EXPORT_TAG = "export.id"
"""The tag of a version by which the same export is found again."""
SMALL_FILES = (CARD_FILE, CONFIG_FILE, DRIFT_FILE, FEATURES_FILE, RECORD_FILE, SIGNATURE_FILE)
"""What an export is told by, besides the model and its assets; the drift file may be missing."""

_STORED_TAG = "export.stored"
_READY: Final = "READY"
_LOADER = "tzrec_core.exporting.pyfunc_model"
_PACKAGES = ("mlflow", "numpy", "pandas", "protobuf", "pyarrow", "torch", "xxhash")
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_TRANSFER_SECONDS = "600"
_MAX_DESCRIPTION = 5000  # MLflow's databases hold no more


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    alias: str
    """Of the version; empty if it has neither of ours."""


def register(
    client: "MlflowClient",
    run_id: str,
    *,
    name: str,
    export_dir: Path,
    export_id: str,
    tags: Mapping[str, object],
    alias: str = "",
    max_copied_bytes: int,
) -> Registered:
    """Registers an export as a version; one that is registered already is found.

    Args:
        client: Of the store.
        run_id: The run that the version belongs to.
        name: Of the registered model; made if it is not there.
        export_dir: An export directory.
        export_id: Equal for the same export only.
        tags: Of the version.
        alias: What the version is to be called, whatever has that name now; empty: champion if no
            version is, else challenger, unless the champion or the challenger is newer.
        max_copied_bytes: A larger model is registered by reference.
    """
    name = model_name(name)
    _make_model(client, name)
    found = _version_of(client, name, export_id)
    if found is None:
        card = (export_dir / CARD_FILE).read_text()
        record = json.loads((export_dir / RECORD_FILE).read_text())
        is_large = record["bytes"] > max_copied_bytes
        kind = {EXPORT_TAG: export_id, _STORED_TAG: "by reference" if is_large else "copied"}
        referenced = record if is_large else None
        model_id = _logged_model(client, run_id, name, export_dir, kind, referenced)
        found = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            description=_shortened(card),
            tags={
                **kind,
                **{key: str(value) for key, value in tags.items()},
            },
        )
    return _with_alias(client, name, str(found.version), alias)


def champion(client: "MlflowClient", name: str, folder: Path) -> "tuple[str, Path] | None":
    """Returns the champion's version and its files; None if there is no champion.

    The files are a copy of the export or, if that was too large, of what refers to it: where it is
    then, ``directory.resolve`` knows.

    Args:
        client: Of the store.
        name: Of the registered model.
        folder: Where the copy is put.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(model_name(name), CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    with _patience():
        copied = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{version.name}/{version.version}",
            dst_path=str(folder),
            tracking_uri=client.tracking_uri,
        )
    signature = next(Path(copied).rglob(SIGNATURE_FILE))
    return str(version.version), signature.parent


def requirements(packages: Iterable[str] = _PACKAGES) -> list[str]:
    """Returns what must be installed where a registered model is served, as pip understands it."""
    return [f"{package}=={version(package).partition('+')[0]}" for package in packages]


def _logged_model(
    client: "MlflowClient",
    run_id: str,
    name: str,
    export_dir: Path,
    kind: dict[str, str],
    referenced: Mapping[str, Any] | None,
) -> str:
    """Uploads the export, or what refers to it, as a model of the run; returns the model's id.

    A model of these tags that a killed process has uploaded is found, one that it has begun to is
    deleted.
    """
    import mlflow.pyfunc

    experiment_id = client.get_run(run_id).info.experiment_id
    conditions = [f"tags.`{tag}` = '{value}'" for tag, value in kind.items()]
    condition = " and ".join([f"source_run_id = '{run_id}'", *conditions])
    for begun in client.search_logged_models([experiment_id], condition):
        if begun.status.value == _READY:
            return str(begun.model_id)
        client.delete_logged_model(begun.model_id)
    with tempfile.TemporaryDirectory(prefix=".registering-", dir=export_dir.parent) as folder:
        data = export_dir if referenced is None else Path(folder) / "data"
        if referenced is not None:
            _write_reference(export_dir, data, sha256=referenced["sha256"])
        packed = Path(folder) / "model"
        with warnings.catch_warnings():
            # There is no example: raw rows are not what the steps of a pipeline have.
            warnings.filterwarnings("ignore", message=".*input example")
            mlflow.pyfunc.save_model(
                packed,
                loader_module=_LOADER,
                data_path=str(data),
                code_paths=[str(Path(tzrec_core.__file__).parent)],
                signature=_signature(export_dir),
                pip_requirements=requirements(),
            )
        model = client.create_logged_model(
            experiment_id,
            name=name,
            source_run_id=run_id,
            tags=kind,
            model_type="export",
        )
        model_id = str(model.model_id)
        with _patience():
            client.log_model_artifacts(model_id, str(packed))
    client.finalize_logged_model(model_id, _READY)
    return model_id


@contextmanager
def _patience() -> Iterator[None]:
    """Lets MLflow wait for a server that takes a large file elsewhere, or gets it from there."""
    before = os.environ.get(_TIMEOUT)
    os.environ[_TIMEOUT] = _TRANSFER_SECONDS
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TIMEOUT]
        else:
            os.environ[_TIMEOUT] = before


def _signature(export_dir: Path) -> "ModelSignature":
    """Returns the names of raw columns and of outputs; encoding takes several types of each."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    features = json.loads((export_dir / FEATURES_FILE).read_text())
    columns = [feature["column"] for feature in (*features["dense"], *features["sparse"])]
    outputs = json.loads((export_dir / SIGNATURE_FILE).read_text())["outputs"]
    inputs = Schema([ColSpec(AnyType(), name) for name in dict.fromkeys(columns)])
    return ModelSignature(inputs, Schema([ColSpec(AnyType(), name) for name in outputs]))


def _write_reference(export_dir: Path, folder: Path, *, sha256: str) -> None:
    folder.mkdir()
    for name in SMALL_FILES:
        if name != DRIFT_FILE or (export_dir / name).exists():
            shutil.copyfile(export_dir / name, folder / name)
    where = {"path": str(export_dir.absolute()), "sha256": sha256}
    (folder / REFERENCE_FILE).write_text(json.dumps(where, indent=1) + "\n")


def _make_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: "MlflowClient", name: str, export_id: str) -> "ModelVersion | None":
    condition = f"name = '{name}' and tags.`{EXPORT_TAG}` = '{export_id}'"
    found = client.search_model_versions(condition, max_results=1)
    return found[0] if found else None


def _with_alias(client: "MlflowClient", name: str, number: str, alias: str) -> Registered:
    """Gives a version the alias that is asked for, or if none is, the one that it is to have."""
    holders = {of: int(v) for of, v in client.get_registered_model(name).aliases.items()}
    own = [known for known in (CHAMPION, CHALLENGER) if holders.get(known) == int(number)]
    if not alias and own:
        return Registered(name, number, own[0])
    if not alias and CHAMPION in holders:
        newest = max(holders[CHAMPION], holders.get(CHALLENGER, 0))
        alias = CHALLENGER if int(number) > newest else ""
    elif not alias:
        alias = CHAMPION
    if alias and alias not in own:
        client.set_registered_model_alias(name, alias, number)
    return Registered(name, number, alias)


def _shortened(card: str) -> str:
    if len(card) <= _MAX_DESCRIPTION:
        return card
    more = f"\n\n… continued in {CARD_FILE}"
    return card[: _MAX_DESCRIPTION - len(more)].rpartition("\n")[0] + more
