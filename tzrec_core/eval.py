"""Evaluates a checkpoint: ``[torchrun ...] python -m tzrec_core.eval``."""

from collections.abc import Sequence
from pathlib import Path

from tzrec_core.checkpoints import checkpoint
from tzrec_core.command_line import parser, run
from tzrec_core.config import check, edit, edits_from_json, load
from tzrec_core.evaluation.evaluator import evaluate_checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and the config, then evaluates; the result is one JSON line in a file."""
    flags = parser(__doc__)
    flags.add_argument("--pipeline_config_path", required=True, help="config, as text or JSON")
    flags.add_argument("--checkpoint_path", help="checkpoint; default: model_dir's newest")
    flags.add_argument("--eval_input_path", help="evaluation data: file, folder, glob or URI")
    flags.add_argument(
        "--eval_result_filename", default="eval_result.txt", help="result file, inside model_dir"
    )
    flags.add_argument("--predictions_path", type=Path, help="new folder for the scored rows")
    flags.add_argument("--edit_config_json", help='edits, {"path.of[0].field": value}')
    args = flags.parse_args(argv)

    config = load(args.pipeline_config_path)
    if args.eval_input_path is not None:
        config.eval_input_path = args.eval_input_path
    if args.edit_config_json is not None:
        edit(config, edits_from_json(args.edit_config_json))
    check(config, required=["model_dir", "eval_input_path"])
    evaluate_checkpoint(
        config,
        checkpoint_path=checkpoint.resolve(Path(args.checkpoint_path or config.model_dir)),
        result_path=Path(config.model_dir) / args.eval_result_filename,
        predictions_path=args.predictions_path,
    )


if __name__ == "__main__":
    run(main)
