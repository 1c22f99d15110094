"""The container that every step of the pipeline runs in."""

from kfp import dsl

from components.images import RUNTIME_IMAGE

EXECUTOR_MARKER = "kfp.dsl.executor_main"
"""kfp.local's subprocess runner takes only commands in which these words occur."""


def run_step(step: str, *, image: str = RUNTIME_IMAGE) -> dsl.ContainerSpec:
    """Returns a container that calls ``components.<step>.step`` through the shared entry point.

    The interface of a step is the signature of its component; its values arrive as one JSON
    document, for which ``{{$}}`` stands. The image needs no kfp, and the command is no shell, so
    that a signal reaches the step.
    """
    return dsl.ContainerSpec(
        image=image,
        command=["python3", "-u", "-m", "components.kfp_entry"],
        args=[step, EXECUTOR_MARKER, "{{$}}"],
    )
