"""Exports a checkpoint for serving: ``[torchrun ...] python -m tzrec_core.export``."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path

from tzrec_core import eval_result, selection
from tzrec_core.checkpoints import checkpoint
from tzrec_core.command_line import parser, run
from tzrec_core.config import check, edit, edits_from_json, load
from tzrec_core.distributed.launch import is_first
from tzrec_core.distributed.ranks import on_rank_0, process_group
from tzrec_core.exporting.exporter import export
from tzrec_core.exporting.model_card import Evidence
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.training.milestones import RESULT_FILE

# The other ranks wait for rank 0, which may have large tables to read, compile and check.
_LONGEST_EXPORT = timedelta(days=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and the config, then exports the checkpoint that they choose.

    Of several ranks the first exports; the others wait, and end as it does.
    """
    flags = parser(__doc__)
    flags.add_argument("--pipeline_config_path", required=True, help="config, as text or JSON")
    flags.add_argument(
        "--checkpoint_path", help="checkpoint; default: as export_config chooses from model_dir"
    )
    flags.add_argument("--export_dir", required=True, help="directory to create")
    flags.add_argument("--asset_files", default="", help="files to copy into its assets: a,b,c")
    flags.add_argument("--edit_config_json", help='edits, {"path.of[0].field": value}')
    args = flags.parse_args(argv)

    config = load(args.pipeline_config_path)
    if args.edit_config_json is not None:
        edit(config, edits_from_json(args.edit_config_json))
    check(config, required=["model_dir"])

    def export_chosen() -> None:
        chosen = Path(args.checkpoint_path) if args.checkpoint_path else chosen_checkpoint(config)
        export(
            config,
            checkpoint_path=checkpoint.resolve(chosen),
            export_dir=Path(args.export_dir),
            check_config=config,
            asset_files=[Path(file) for file in args.asset_files.split(",") if file],
            evidence=_evidence(config),
        )

    outcome: Future[None] = Future()
    if is_first():  # alone: an export computes metrics, which all who have joined would have to
        _settle(outcome, export_chosen)
    with process_group(timeout=_LONGEST_EXPORT) as ranks:
        on_rank_0(ranks, outcome.result)


def _settle(outcome: Future[None], action: Callable[[], None]) -> None:
    """Puts what ``action`` raises, or that it raised nothing, into ``outcome``."""
    try:
        action()
        outcome.set_result(None)
    except Exception as error:
        outcome.set_exception(error)


def _evidence(config: EasyRecConfig) -> Evidence:
    """Returns what the folder of the training says of the model."""
    model_dir = Path(config.model_dir)
    results = eval_result.read(model_dir / RESULT_FILE)
    return Evidence(
        title=model_dir.absolute().name,
        curve=[{"global_step": result.step, **result.metrics} for result in results],
    )


def chosen_checkpoint(config: EasyRecConfig) -> Path:
    """Returns the checkpoint that ``config.export_config`` asks for: the newest or the best.

    Raises:
        ValueError: There is none, or none that the best could be told by.
    """
    model_dir = Path(config.model_dir)
    if config.export_config.exporter_type == "latest":
        return checkpoint.resolve(model_dir)
    results = eval_result.read(model_dir / RESULT_FILE)
    best, _ = selection.choose(config.export_config, results, checkpoint.steps(model_dir))
    return checkpoint.checkpoint_path(model_dir, best.step)


if __name__ == "__main__":
    run(main)
