"""The container images of the steps, read once when the pipeline is compiled."""

import os
from importlib.metadata import version

RUNTIME_IMAGE = os.environ.get(
    "TZREC_IMAGE", f"tzrec-pipelines/runtime:{version('tzrec-pipelines')}"
)
LAUNCHER_IMAGE = os.environ.get(
    "TZREC_LAUNCHER_IMAGE", f"tzrec-pipelines/launcher:{version('tzrec-pipelines')}"
)
"""Of steps that start containers elsewhere: a Kubernetes client, and no torch."""

PULL_SECRETS = tuple(filter(None, os.environ.get("TZREC_IMAGE_PULL_SECRETS", "").split(",")))
"""Names of the secrets, with commas between them, that a cluster needs to pull the images.

No parameter of a run, as KFP has none that may be empty; a pod that names any gets none of its
service account's.
"""
