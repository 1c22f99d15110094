"""Compiles the training pipeline, runs it on this machine, or shows it on made-up click logs."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from components import steps
from components.run_dir import RunDir
from tzrec_core import command_line

_DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.config"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the commands."""
    parser = command_line.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    compile_parser = commands.add_parser("compile", help="write the pipeline as YAML for KFP")
    compile_parser.add_argument("--output", type=Path, default=Path("build/pipeline.yaml"))

    run_parser = commands.add_parser("run", help="run the pipeline on this machine")
    run_parser.add_argument("--runner", choices=["subprocess"], default="subprocess")
    run_parser.add_argument("--yaml", type=Path, help="a compiled pipeline; default: compile it")
    run_parser.add_argument("parameters", nargs="*", metavar="name=value")

    demo_parser = commands.add_parser("demo", help="make click logs, run the pipeline on them")
    demo_parser.add_argument("--rows", type=int, default=300_000)
    demo_parser.add_argument("--output", type=Path, default=Path("build/demo"))

    arguments = parser.parse_args(argv)
    match arguments.command:
        case "compile":
            compile_pipeline(arguments.output)
            print(f"wrote {arguments.output}")
        case "run":
            run(arguments.yaml, _pairs(arguments.parameters))
        case "demo":
            demo(arguments.output, rows=arguments.rows)
