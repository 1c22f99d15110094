"""What KFP sees of evaluate."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def evaluate(
    run_dir: str,
    num_processes: int,
    num_checkpoints: int,
    part: int,
    parts: list,  # type: ignore[type-arg]
    checkpoint_step: int,
    evaluation: dsl.Output[dsl.Artifact],
) -> dsl.ContainerSpec:
    """Evaluates one part of the checkpoints in run_dir that have no result yet."""
    return run_step("evaluate")
