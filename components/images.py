"""The container images of the steps, read once when the pipeline is compiled."""

import os
from importlib.metadata import version

RUNTIME_IMAGE = os.environ.get(
    "TZREC_IMAGE", f"tzrec-pipelines/runtime:{version('tzrec-pipelines')}"
)
