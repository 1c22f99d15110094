"""The config of a run as the steps after prepare_data use it."""

from tzrec_core import config as configs
from tzrec_core.features.build import encoded_edits
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir


def load(run_dir: RunDir) -> EasyRecConfig:
    """Returns the run's config, reading prepared data and writing checkpoints into ``run_dir``.

    Raises:
        ValueError: prepare_data has not finished in ``run_dir``.
    """
    data = run_dir.prepared_data()
    config = configs.load(run_dir.config)
    config.train_input_path = str(data / "train")
    config.eval_input_path = str(data / "eval")
    config.model_dir = str(run_dir.checkpoints)
    configs.edit(config, edits(config))
    configs.check(config)
    return config


def edits(config: EasyRecConfig) -> dict[str, object]:
    """Returns what tells a config's reader that the rows are prepare_data's: encoded Parquet."""
    return {"data_config.dataset_type": "ParquetDataset", **encoded_edits(config)}
