"""What KFP sees of evaluate."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def evaluate(
    run_dir: str,
    num_processes: int,
    num_checkpoints: int,
    checkpoints: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
) -> dsl.ContainerSpec:
    """Evaluates every checkpoint in run_dir that has no result yet."""
    return run_step("evaluate")
