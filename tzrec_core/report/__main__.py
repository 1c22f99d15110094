"""Rebuilds a run's report from what is on disk, or compares runs side by side.

``python -m tzrec_core.report --run_dir RUN [--step N] [--champion RUN]``
``python -m tzrec_core.report compare RUN RUN [RUN ...] [--output FOLDER]``
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tzrec_core.command_line import parser, run
from tzrec_core.report.build import HTML_FILE, build
from tzrec_core.report.compare import compare
from tzrec_core.report.inputs import gather, read_champion, read_scored
from tzrec_core.run_dir import RunDir


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says, and prints where the result is."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        _compare(words[1:])
    else:
        _rebuild(words)


def _rebuild(argv: Sequence[str]) -> None:
    flags = parser(__doc__)
    flags.add_argument("--run_dir", required=True, help="a run that evaluate has filled")
    flags.add_argument("--step", type=int, help="of the checkpoint; default: the chosen one")
    flags.add_argument("--champion", help="a run to compare with")
    flags.add_argument("--best_possible", type=Path, help="of synthetic data: best_possible.json")
    flags.add_argument("--mlflow_link", default="", help="address of the run in MLflow")
    args = flags.parse_args(argv)
    place = RunDir(args.run_dir)
    champion = None if args.champion is None else read_champion(RunDir(args.champion))
    limits = None if args.best_possible is None else json.loads(args.best_possible.read_text())
    inputs = gather(place, step=args.step, champion=champion, best_possible=limits)
    build(inputs, place.report, mlflow_link=args.mlflow_link)
    print(f"wrote {place.report / HTML_FILE}")


def _compare(argv: Sequence[str]) -> None:
    flags = parser("Compares runs side by side; differences are from the first one.")
    flags.add_argument("runs", nargs="+", metavar="RUN", help="run directories, two or more")
    flags.add_argument("--output", type=Path, default=Path(), help="folder; default: this one")
    args = flags.parse_args(argv)
    if len(args.runs) < 2:
        flags.error("compare needs two run directories or more")
    scored = [read_scored(RunDir(path)) for path in args.runs]
    print(compare(scored, args.output))


if __name__ == "__main__":
    run(main)
