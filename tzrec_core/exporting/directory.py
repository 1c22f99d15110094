"""An export directory: what lies where in it, and how that is read; torch, no TorchRec."""

import hashlib
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from tzrec_core import assets
from tzrec_core.config import load
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

MODEL_FILE = "scripted_model.pt"
SIGNATURE_FILE = "signature.json"
FEATURES_FILE = "features.json"
CONFIG_FILE = "pipeline.config"
CARD_FILE = "model_card.md"
RECORD_FILE = "export.json"
DRIFT_FILE = "drift_reference.json"
"""The bins of the training rows' columns, if the report has them; see ``report.data_drift``."""
REFERENCE_FILE = "reference.json"
"""Stands for the model in a copy that has all but it: its ``path``, and the model's ``sha256``."""


def load_config(export_dir: Path) -> EasyRecConfig:
    """Reads the config of an export directory, wherever that lies now.

    Raises:
        ValueError: It is missing or damaged.
    """
    config = load(export_dir / CONFIG_FILE)
    assets.resolve(config, export_dir)
    return config


def resolve(folder: Path) -> Path:
    """Returns where the export is that ``folder`` is a copy of, or a reference to.

    Raises:
        ValueError: What it refers to is gone, or is another one now.
    """
    reference = folder / REFERENCE_FILE
    if not reference.exists():
        return folder
    where = json.loads(reference.read_text())
    model = Path(where["path"]) / MODEL_FILE
    if not model.is_file():
        raise ValueError(
            f"the model was registered by reference, but {model} is not there; "
            f"`--runner docker` shows it to containers with `--mount {model.parent}`"
        )
    if digest(model) != where["sha256"]:
        raise ValueError(f"the model was registered by reference, but {model} is another one now")
    return model.parent


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_scripted(model: nn.Module, path: Path) -> None:
    """Compiles ``model`` with TorchScript into ``path``."""
    with warnings.catch_warnings():
        # torch.export, TorchScript's successor, cannot yet express a batch of one row.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(str(path))


def load_scripted(path: Path) -> nn.Module:
    """Loads a scripted model onto the CPU.

    Raises:
        ValueError: The file is missing or no scripted model.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; an export directory holds {MODEL_FILE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
            return model
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable TorchScript model") from error
