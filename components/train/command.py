"""The command that trains, under torchrun unless it is one process alone."""

import json
import sys

from components import prepared
from tzrec_core import config as configs
from tzrec_core.run_dir import RunDir

_SAVING_SECONDS = 300
"""What torchrun lets its processes have when it is stopped; Kubernetes' own limit comes before."""


def here(run_dir: RunDir, *, num_processes: int) -> list[str]:
    """Returns the command for this machine alone; one process needs no port and no torchrun."""
    if num_processes == 1:
        return _python(*_training(run_dir))
    return _torchrun("--standalone", f"--nproc_per_node={num_processes}", training=run_dir)


def in_job(run_dir: RunDir) -> list[str]:
    """Returns the command for a pod of a job, whose operator sets the rest: ``PET_...``."""
    return _torchrun(training=run_dir)


def _torchrun(*flags: str, training: RunDir) -> list[str]:
    stop = f"--shutdown_timeout={_SAVING_SECONDS}"
    return _python("torch.distributed.run", *flags, stop, "-m", *_training(training))


def _python(*module: str) -> list[str]:
    return [sys.executable, "-u", "-m", *module]


def _training(run_dir: RunDir) -> list[str]:
    data = run_dir.prepared_data()
    edits = prepared.edits(configs.load(run_dir.config))
    return [
        "tzrec_core.train_eval",
        f"--pipeline_config_path={run_dir.config}",
        f"--train_input_path={data / 'train'}",
        f"--eval_input_path={data / 'eval'}",
        f"--model_dir={run_dir.checkpoints}",
        f"--edit_config_json={json.dumps(edits)}",
        "--continue_train",
    ]
