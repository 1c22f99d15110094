"""The steps as commands: ``python -m components.cli train --run_dir runs/1 --num_processes 2``."""

import argparse
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from components import steps
from tzrec_core import command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Calls the step that the first argument names and prints its result as JSON."""
    chooser = command_line.parser(__doc__)
    chooser.add_argument("step", choices=steps.STEPS)
    chooser.add_argument("flags", nargs=argparse.REMAINDER, help="see <step> --help")
    chosen = chooser.parse_args(argv)
    step = steps.load(chosen.step)
    arguments = flags(step).parse_args(chosen.flags)
    print(json.dumps(_short(step(**vars(arguments))), indent=1))


def _short(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a step's result as JSON without lists: a curve would fill the screen."""
    short: dict[str, Any] = {}
    for name, value in result.items():
        match value:
            case list():
                continue
            case Mapping():
                short[name] = _short(value)
            case steps.Page():
                short[name] = str(value.path)
            case _:
                short[name] = value
    return short


def flags(step: steps.Step) -> argparse.ArgumentParser:
    """Returns a parser with one flag for each parameter of a step's function."""
    parser = command_line.parser(inspect.getdoc(step))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.prog = f"python -m components.cli {step.__name__}"
    for name, parameter in inspect.signature(step).parameters.items():
        kind = json_list if parameter.annotation is list else parameter.annotation
        if parameter.default is parameter.empty:
            parser.add_argument(f"--{name}", type=kind, required=True)
        else:
            parser.add_argument(
                f"--{name}", type=kind, default=parameter.default,
                help=f"default: {parameter.default!r}",
            )  # fmt: skip
    return parser


def json_list(text: str) -> list[Any]:
    """Returns a list that is written as JSON."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise argparse.ArgumentTypeError(f"must be a list in JSON, as [0, 1], got {text!r}")
    return found


if __name__ == "__main__":
    steps.run(main)
