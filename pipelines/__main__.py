"""Compiles the training pipeline, runs it here or on a cluster, or on made-up click logs."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from components import child, steps
from components.steps import StepFailedError
from pipelines import summary
from tzrec_core import command_line
from tzrec_core.run_dir import RunDir, new_run_id

DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.config"
RUNNERS = ("subprocess", "docker")
"""What steps run in: processes of this environment, or containers of their images."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the commands."""
    parser = command_line.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "compile", help="write the pipeline as YAML for KFP", allow_abbrev=False
    )
    command.add_argument("--output", type=Path, default=Path("build/pipeline.yaml"))

    command = commands.add_parser(
        "run", help="run the pipeline on this machine", allow_abbrev=False
    )
    command.add_argument(
        "--runner", choices=RUNNERS, default=RUNNERS[0], help="what a step runs in"
    )
    command.add_argument(
        "--mount", type=Path, action="append", default=[], metavar="PATH",
        help="with docker: what steps may read beside the files and folders that parameters name",
    )  # fmt: skip
    command.add_argument("--yaml", type=Path, help="a compiled pipeline; default: compile it now")
    command.add_argument("parameters", nargs="*", metavar="name=value")

    command = commands.add_parser(
        "submit", help="run the pipeline on a KFP server", allow_abbrev=False,
        description="Credentials come from the environment: KFP_TOKEN, or the file KFP_TOKEN_FILE, "
        "or KFP_COOKIE. With --wait the exit code is 1 if the run fails, 2 if nobody tells.",
    )  # fmt: skip
    command.add_argument("--host", required=True, help="of KFP: http://127.0.0.1:8080")
    command.add_argument("--experiment", default="tzrec", help="of KFP; default: %(default)s")
    command.add_argument("--namespace", default="", help="of a server for several users")
    command.add_argument("--service_account", default="", help="what the steps run as")
    command.add_argument("--run_name", default="", help="default: the pipeline's and the time")
    command.add_argument("--yaml", type=Path, help="a compiled pipeline; default: compile it now")
    command.add_argument("--wait", action="store_true", help="for the end; fail if the run fails")
    command.add_argument("parameters", nargs="*", metavar="name=value")

    command = commands.add_parser(
        "demo", help="make click logs and run the pipeline on them", allow_abbrev=False
    )
    command.add_argument("--rows", type=int, default=300_000, help="of training data")
    command.add_argument("--output", type=Path, default=Path("build/demo"))
    command.add_argument(
        "--runner", choices=RUNNERS, default=RUNNERS[0], help="what a step runs in"
    )
    command.add_argument(
        "--min_share", type=float, help="fail if auc reaches less of the best possible, 0 to 1"
    )

    arguments = parser.parse_args(argv)
    match arguments.command:
        case "compile":
            compile_pipeline(arguments.output)
            print(f"wrote {arguments.output}")
        case "run":
            run_dir = run(
                arguments.yaml,
                _values(arguments.parameters),
                runner=arguments.runner,
                mounts=arguments.mount,
            )
            print(summary.metrics_table(run_dir, best_possible={}))
            print(summary.places(run_dir, tracking_uri()))
        case "submit":
            submit_run(arguments)
        case "demo":
            demo(
                arguments.output,
                rows=arguments.rows,
                min_share=arguments.min_share,
                runner=arguments.runner,
            )


def compile_pipeline(output: Path) -> None:
    """Compiles the training pipeline into a YAML file."""
    from kfp import compiler

    from pipelines.training import training

    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training, str(output))


@contextmanager
def compiled(yaml: Path | None) -> Iterator[Path]:
    """Gives a compiled pipeline: the one that is given, else the training pipeline."""
    if yaml is not None:
        yield yaml
        return
    with TemporaryDirectory() as folder:
        compile_pipeline(Path(folder) / "pipeline.yaml")
        yield Path(folder) / "pipeline.yaml"


def run(
    yaml: Path | None,
    values: Mapping[str, str],
    *,
    runner: str = RUNNERS[0],
    mounts: Sequence[Path] = (),
) -> RunDir:
    """Runs a compiled pipeline, the training pipeline if there is none, on this machine."""
    from pipelines.local import runner as local

    env = {"MLFLOW_TRACKING_URI": tracking_uri()}
    with compiled(yaml) as path:
        return local.run(path, values, env=env, runner=runner, mounts=mounts)


def submit_run(arguments: argparse.Namespace) -> None:
    """Runs a compiled pipeline on a KFP server; credentials come from the environment."""
    from pipelines import submit
    from pipelines.kfp_server import KfpServer

    cookie, token_file = os.environ.get("KFP_COOKIE", ""), os.environ.get("KFP_TOKEN_FILE", "")
    token = Path(token_file) if token_file else os.environ.get("KFP_TOKEN", "")
    server = KfpServer(arguments.host, token=token, cookie=cookie)
    with compiled(arguments.yaml) as path:
        run_id = submit.submit(
            server,
            path,
            _values(arguments.parameters),
            experiment=arguments.experiment,
            namespace=arguments.namespace,
            service_account=arguments.service_account,
            run_name=arguments.run_name,
        )
    print(f"run {run_id}: {server.page(run_id)}", flush=True)
    if arguments.wait:
        submit.wait(server, run_id)


def demo(output: Path, *, rows: int, min_share: float | None, runner: str = RUNNERS[0]) -> None:
    """Makes click logs, trains on them, and compares the model with the best there can be.

    Args:
        output: The folder for the rows and the run.
        rows: Of training data.
        min_share: What share of the best possible AUC must be reached, from 0 to 1; None: any.
        runner: What a step runs in.

    Raises:
        ValueError: ``min_share`` is not from 0 to 1.
        StepFailedError: A step failed, or ``min_share`` was not reached.
    """
    if min_share is not None and not 0 <= min_share <= 1:
        raise ValueError(f"--min_share must be from 0 to 1, got {min_share:g}")
    data = output / f"data-{rows}"
    best_possible = data / "best_possible.json"
    if not best_possible.exists():
        generate = [
            sys.executable, "-m", "tzrec_core.data.synthetic", f"--output={data}",
            f"--rows={rows}", f"--eval_rows={max(rows // 6, 1)}", "--seed=0", "--format=parquet",
        ]  # fmt: skip
        ended = child.run(generate, env={})
        if ended.code != 0:
            raise StepFailedError(child.error_of(ended.lines))
    yaml = output / "pipeline.yaml"
    compile_pipeline(yaml)
    values = {
        "pipeline_config": str(DEMO_CONFIG),
        "train_input_path": str(data / "train"),
        "eval_input_path": str(data / "eval"),
        "run_dir": str(output / new_run_id()),
        "experiment": "demo",
    }
    run_dir = run(yaml, values, runner=runner)
    # The steps do not know that the rows are made up.
    report = [sys.executable, "-m", "tzrec_core.report"]
    report += [f"--run_dir={run_dir.path}", f"--best_possible={best_possible}"]
    ended = child.run(report, env={})
    if ended.code != 0:
        raise StepFailedError(child.error_of(ended.lines))
    limits = summary.read_json(best_possible)
    print(summary.metrics_table(run_dir, best_possible=limits))
    print(summary.places(run_dir, tracking_uri()))
    if min_share is not None:
        metrics = summary.read_json(run_dir.best)["metrics"]
        summary.require_share(metrics, limits, min_share=min_share)


def tracking_uri() -> str:
    """Returns where MLflow keeps runs: what its own variable says, else a file in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def _values(parameters: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise ValueError(f"parameters have the form name=value, got {parameter!r}")
        if name in values:
            raise ValueError(f"parameter {name} is given twice")
        values[name] = value
    return values


if __name__ == "__main__":
    steps.run(main)
