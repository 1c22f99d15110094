"""What MLflow loads for ``mlflow.pyfunc.load_model`` and ``mlflow models serve``: raw rows in.

MLflow names this module in the registered model, which also has a copy of this package: rows are
encoded by the code that the model was trained with.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from tzrec_core.exporting.directory import resolve
from tzrec_core.exporting.scorer import Scorer


class PyfuncModel:
    """Scores data frames."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def predict(self, rows: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns one column for each output of the model; several numbers a row are a list.

        Raises:
            ValueError: A column is missing, or has a value that encoding refuses.
        """
        scores = self._scorer.score(pa.Table.from_pandas(rows, preserve_index=False))
        columns = {
            name: values.squeeze(1) if values.dim() == 2 and values.size(1) == 1 else values
            for name, values in scores.items()
        }
        frame = {
            name: columns[name].numpy() if columns[name].dim() == 1 else columns[name].tolist()
            for name in sorted(columns)
        }
        return pd.DataFrame(frame, index=rows.index)


def _load_pyfunc(path: str) -> PyfuncModel:
    """Loads a model; MLflow calls it with the folder that was registered.

    Raises:
        ValueError: A model that was registered by reference is gone, or is another one now.
    """
    return PyfuncModel(Scorer(resolve(Path(path))))
