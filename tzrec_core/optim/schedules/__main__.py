"""The learning rates of a config as a table and a picture: ``... my.config --steps 10000``."""

from collections.abc import Sequence
from pathlib import Path

from tzrec_core.command_line import parser, run
from tzrec_core.config import check, load
from tzrec_core.optim.schedules.build import build_schedules
from tzrec_core.optim.schedules.formulas import Schedule
from tzrec_core.protos import train_pb2

_NUM_ROWS = 25


def rates(
    schedules: Sequence[Schedule], *, num_steps: int, steps_per_epoch: int | None
) -> list[list[float]]:
    """Returns for each schedule the rate of each step, those of step 1 first.

    Raises:
        ValueError: A schedule counts epochs, and ``steps_per_epoch`` is None.
    """
    if steps_per_epoch is None:
        if any(schedule.by_epoch for schedule in schedules):
            raise ValueError("a schedule is by_epoch: --steps_per_epoch must be given")
        steps_per_epoch = num_steps
    return [
        [schedule.at(step=step, epoch=step // steps_per_epoch) for step in range(num_steps)]
        for schedule in schedules
    ]


def names(config: train_pb2.TrainConfig) -> list[str]:
    """Returns what the rates are called in the log, and whose they are."""
    parts = config.dense_optimizer.part_optimizers
    return [
        "lr/g0 sparse",
        "lr/g1 dense",
        *(f"lr/g{index} {part.regex_pattern}" for index, part in enumerate(parts, start=2)),
    ]


def table(columns: Sequence[str], curves: Sequence[Sequence[float]]) -> str:
    """Returns a table of the first and the last step and of steps evenly between them."""
    num_steps = len(curves[0])
    rows = min(_NUM_ROWS, num_steps)
    steps = sorted({round(row * (num_steps - 1) / max(1, rows - 1)) for row in range(rows)})
    cells = [["step", *columns]]
    cells += [[str(step + 1), *(f"{curve[step]:.6g}" for curve in curves)] for step in steps]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def draw(columns: Sequence[str], curves: Sequence[Sequence[float]], path: Path) -> None:
    """Writes a picture of the curves.

    Raises:
        ValueError: Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "a picture needs matplotlib (pip install matplotlib); --png '' goes without"
        ) from error
    figure = Figure(figsize=(8, 2.2 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for panel, column, curve in zip(panels, columns, curves, strict=True):
        # From a step to the next the rate stays what it is.
        panel.plot(range(1, len(curve) + 1), curve, drawstyle="steps-post")
        panel.set_title(column, loc="left", fontsize="medium")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("step")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and the config, prints the table and writes the picture."""
    flags = parser("Prints the learning rates of a config as a table and draws them.")
    flags.add_argument("config", help="config, as text or JSON")
    flags.add_argument("--steps", type=int, help="steps to show (default: num_steps)")
    flags.add_argument("--steps_per_epoch", type=int, help="for num_epochs and by_epoch")
    flags.add_argument(
        "--png", default="learning_rates.png", help="the picture (default: %(default)s; '': none)"
    )
    args = flags.parse_args(argv)

    config = load(args.config)
    check(config)
    train = config.train_config
    if args.steps_per_epoch is not None and args.steps_per_epoch < 1:
        raise ValueError(f"--steps_per_epoch must be > 0, got {args.steps_per_epoch}")
    num_steps = args.steps
    if num_steps is None:
        num_steps = train.num_steps or train.num_epochs * (args.steps_per_epoch or 0)
    if num_steps < 1:
        raise ValueError("how many steps to show must be > 0: give --steps or --steps_per_epoch")
    columns = names(train)
    curves = rates(
        build_schedules(train), num_steps=num_steps, steps_per_epoch=args.steps_per_epoch
    )
    print(table(columns, curves))
    if args.png:
        draw(columns, curves, Path(args.png))
        print(f"drawn in {args.png}")


if __name__ == "__main__":
    run(main)
