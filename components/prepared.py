"""The config of a run as the steps after prepare_data use it."""

from components.run_dir import RunDir
from tzrec_core import config as configs
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

EDITS = {"data_config.dataset_type": "ParquetDataset", "data_config.fg_mode": "FG_NONE"}
"""What tells a config's reader that the rows are prepare_data's: Parquet with encoded features."""


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
    configs.edit(config, EDITS)
    configs.check(config)
    return config
