"""Compiles the training pipeline, runs it on this machine, or shows it on made-up click logs."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from components import child, steps
from components.steps import StepFailedError
from pipelines import summary
from tzrec_core import command_line
from tzrec_core.run_dir import RunDir, new_run_id

DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.config"


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
        "--runner", choices=["subprocess"], default="subprocess", help="what a step runs in"
    )
    command.add_argument("--yaml", type=Path, help="a compiled pipeline; default: compile it now")
    command.add_argument("parameters", nargs="*", metavar="name=value")

    command = commands.add_parser(
        "demo", help="make click logs and run the pipeline on them", allow_abbrev=False
    )
    command.add_argument("--rows", type=int, default=300_000, help="of training data")
    command.add_argument("--output", type=Path, default=Path("build/demo"))
    command.add_argument(
        "--min_share", type=float, help="fail if auc reaches less of the best possible, 0 to 1"
    )

    arguments = parser.parse_args(argv)
    match arguments.command:
        case "compile":
            compile_pipeline(arguments.output)
            print(f"wrote {arguments.output}")
        case "run":
            run_dir = run(arguments.yaml, _values(arguments.parameters))
            print(summary.metrics_table(run_dir, best_possible={}))
            print(summary.places(run_dir, tracking_uri()))
        case "demo":
            demo(arguments.output, rows=arguments.rows, min_share=arguments.min_share)


def compile_pipeline(output: Path) -> None:
    """Compiles the training pipeline into a YAML file."""
    from kfp import compiler

    from pipelines.training import training

    output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training, str(output))


def run(yaml: Path | None, values: Mapping[str, str]) -> RunDir:
    """Runs a compiled pipeline, the training pipeline if there is none, in subprocesses."""
    from pipelines import local

    env = {"MLFLOW_TRACKING_URI": tracking_uri()}
    if yaml is not None:
        return local.run(yaml, values, env=env)
    with TemporaryDirectory() as folder:
        compiled = Path(folder) / "pipeline.yaml"
        compile_pipeline(compiled)
        return local.run(compiled, values, env=env)


def demo(output: Path, *, rows: int, min_share: float | None) -> None:
    """Makes click logs, trains on them, and compares the model with the best there can be.

    Args:
        output: The folder for the rows and the run.
        rows: Of training data.
        min_share: What share of the best possible AUC must be reached, from 0 to 1; None: any.

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
    run_dir = run(yaml, values)
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
