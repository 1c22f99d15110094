"""What KFP sees of select_best."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def select_best(
    run_dir: str,
    registered_model: str,
    evaluation: dsl.Input[list[dsl.Artifact]],
    step: dsl.OutputPath(int),  # type: ignore[valid-type]
    checkpoint: dsl.OutputPath(str),  # type: ignore[valid-type]
    verdict: dsl.OutputPath(str),  # type: ignore[valid-type]
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> dsl.ContainerSpec:
    """Chooses the checkpoint to export; the verdict is pass or block."""
    return run_step("select_best")
