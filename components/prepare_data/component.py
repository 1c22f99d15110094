"""What KFP sees of prepare_data."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def prepare_data(
    pipeline_config: str,
    train_input_path: str,
    eval_input_path: str,
    run_dir: str,
    eval_fraction: float,
    split_by: str,
    edit_config_json: str,
    seed: int,
    experiment: str,
    pipeline_run_id: str,
    resolved_run_dir: dsl.OutputPath(str),  # type: ignore[valid-type]
    dataset: dsl.Output[dsl.Dataset],
    statistics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Checks, splits, encodes and shuffles the raw rows into run_dir."""
    return run_step("prepare_data")
