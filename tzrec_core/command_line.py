"""How every command of the library starts and how it reports a user's mistake."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence


def run(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0 done, 2 a user's mistake, 130 interrupted.

    A ``ValueError`` or ``OSError`` is a mistake in the input or the environment, and so is a loss
    that is no longer finite: its text is the whole message, on one ``error:`` line. Anything else
    is a defect of ours and keeps its traceback.
    """
    configure_logging()
    try:
        main(argv)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser that refuses unknown and abbreviated flags."""
    return argparse.ArgumentParser(description=description, allow_abbrev=False)


def configure_logging() -> None:
    """Sends our own progress, and what libraries warn of, to the standard output."""
    logging.basicConfig(
        level=logging.WARNING,
        format="[%(asctime)s][%(levelname)s] %(message)s",
        stream=sys.stdout,
        force=True,  # some libraries install a handler when they are imported
    )
    for package in ("tzrec_core", "components", "pipelines"):
        logging.getLogger(package).setLevel(logging.INFO)
    # Says on every import of TorchRec that a function it calls has a more exact sibling.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
