"""What KFP sees of select_best."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def select_best(
    run_dir: str,
    evaluation: dsl.Input[dsl.Artifact],
    step: dsl.OutputPath(int),  # type: ignore[valid-type]
    checkpoint: dsl.OutputPath(str),  # type: ignore[valid-type]
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Chooses the checkpoint to export."""
    return run_step("select_best")
