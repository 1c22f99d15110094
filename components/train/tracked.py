"""The run in MLflow of a training, wherever that takes place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from components import experiments, lineage
from tzrec_core import config as configs
from tzrec_core.mlflow_run import Run
from tzrec_core.run_dir import RunDir


@contextmanager
def tracked(place: RunDir, tags: Mapping[str, object]) -> Iterator[Run]:
    """Opens the run "train" with what is known before; adds the results if the training ends well.

    Raises:
        ValueError: prepare_data has not finished in the run directory.
    """
    info, data, config = place.read_info(), place.prepared_data(), configs.load(place.config)
    with experiments.track("train", place, info, config) as run:
        model, budget = experiments.model_kind(config), experiments.budget(config)
        run.rename(experiments.run_name("train", model, budget))
        run.log_params(experiments.headline_params(config))
        run.set_tags({"run_dir": place.path, **tags})
        run.set_tags(lineage.origin_tags(place.config))
        lineage.log_data(run, {"train": (data / "train", data.name)})
        run.log_artifact(place.config, "config")
        yield run
        if place.train_eval_result.exists():
            run.log_artifact(place.train_eval_result, "eval")
