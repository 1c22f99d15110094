"""Scores raw rows with an exported model: what a serving process in Python needs, no TorchRec."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from tzrec_core.exporting.directory import MODEL_FILE, load_config, load_scripted
from tzrec_core.exporting.inputs import of_table
from tzrec_core.features.build import build_schema
from tzrec_core.features.transforms import encode


class Scorer:
    """An exported model with the encoding of its features."""

    def __init__(self, export_dir: Path, *, device: str = "cpu") -> None:
        """Loads an export directory.

        Raises:
            ValueError: It is incomplete or damaged.
        """
        self.schema = build_schema(load_config(export_dir), training_labels=False)
        self._device = torch.device(device)
        self._model = load_scripted(export_dir / MODEL_FILE).to(self._device).eval()

    def score(self, rows: pa.Table) -> Mapping[str, Tensor]:
        """Returns every output of the model, on the CPU, for raw rows with the features' columns.

        Raises:
            ValueError: A column is missing, or has a type or a value that encoding refuses.
        """
        inputs = of_table(encode(rows, self.schema).table, self.schema)
        moved = [None if tensor is None else tensor.to(self._device) for tensor in inputs]
        with torch.inference_mode():
            scores: Mapping[str, Tensor] = self._model(*moved)
            return {name: values.cpu() for name, values in scores.items()}
