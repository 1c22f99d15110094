"""The volume that all containers of a run share, and where run directories are on it."""

CLAIM = "tzrec-runs"
"""What its PersistentVolumeClaim is called unless a run names another."""

MOUNT = "/runs"

RUNS_VARIABLE = "TZREC_RUNS"
"""Has ``MOUNT`` in containers: run directories that nobody has named are made there."""
