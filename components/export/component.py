"""What KFP sees of export."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def export(
    run_dir: str,
    checkpoint: str,
    registered_model: str,
    alias: str,
    model: dsl.Output[dsl.Model],
) -> dsl.ContainerSpec:
    """Exports a checkpoint as a model that serves, and registers it in MLflow."""
    return run_step("export")
