"""Scores of planted models on the same rows, and a config that judges them."""

import numpy as np
import pyarrow as pa

from tzrec_core.config import edit, loads
from tzrec_core.evaluation.predictions import Predictions

CONFIG = """
data_config { label_fields: "click" dataset_type: ParquetDataset }
feature_configs { raw_feature { feature_name: "x" } }
model_config {
  feature_groups { group_name: "deep" feature_names: "x" group_type: DEEP }
  multi_tower { towers { input: "deep" mlp { hidden_units: 4 } } }
  losses { binary_cross_entropy {} }
  metrics { auc { thresholds: 0 } }
  metrics { grouped_auc { grouping_key: "user" } }
  metrics { log_loss {} }
  metrics { calibration_error {} }
}
export_config { exporter_type: "best" best_exporter_metric: "grouped_auc" }
eval_config { slices { column: "country" } }
"""


def configured(**edits):
    """Returns the config; an edit's name has two underscores for a dot."""
    config = loads(CONFIG, source="test")
    edit(config, {name.replace("__", "."): value for name, value in edits.items()})
    return config


class Clicks:
    """Rows of users from three countries, of whose clicks models know more or less."""

    def __init__(self, *, num_users, rows_per_user=10, seed=0):
        self.rng = np.random.default_rng(seed)
        num_rows = num_users * rows_per_user
        self.users = np.repeat(np.arange(num_users), rows_per_user)
        self.countries = np.array(["de", "fr", "it"])[self.users % 3]
        self.utility = self.rng.normal(size=num_rows)
        self.clicks = (self.rng.random(num_rows) < 1 / (1 + np.exp(-self.utility))).astype(np.int64)

    def scored(self, *, noise, noise_in_italy=None):
        """Returns predictions of a model that sees the utility with Gaussian noise."""
        scale = np.full(len(self.clicks), noise)
        if noise_in_italy is not None:
            scale[self.countries == "it"] = noise_in_italy
        seen = self.utility + scale * self.rng.normal(size=len(self.clicks))
        table = {
            "click": self.clicks,
            "user@id": self.users,
            "country@slice": self.countries,
            "probs": (1 / (1 + np.exp(-seen))).astype(np.float32),
        }
        return Predictions(pa.table(table), 1.0)
