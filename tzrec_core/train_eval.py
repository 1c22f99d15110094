"""Trains and evaluates a model: ``[torchrun ...] python -m tzrec_core.train_eval``."""

from collections.abc import Sequence

from tzrec_core.command_line import parser, run
from tzrec_core.config import check, edit, edits_from_json, load
from tzrec_core.training.trainer import train_and_evaluate


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and the config, then trains.

    Flags replace what the config says; ``--edit_config_json`` has the last word.
    """
    flags = parser(__doc__)
    flags.add_argument("--pipeline_config_path", required=True, help="config, as text or JSON")
    flags.add_argument("--train_input_path", help="training data: file, folder, glob or URI")
    flags.add_argument("--eval_input_path", help="evaluation data")
    flags.add_argument("--model_dir", help="where checkpoints and results go")
    flags.add_argument(
        "--continue_train", action="store_true", help="go on from model_dir's newest checkpoint"
    )
    flags.add_argument("--fine_tune_checkpoint", help="checkpoint to start a new training from")
    flags.add_argument(
        "--ignore_restore_optimizer", action="store_true", help="restore the weights only"
    )
    flags.add_argument("--edit_config_json", help='edits, {"path.of[0].field": value}')
    args = flags.parse_args(argv)

    config = load(args.pipeline_config_path)
    for name in ("train_input_path", "eval_input_path", "model_dir"):
        if getattr(args, name) is not None:
            setattr(config, name, getattr(args, name))
    if args.fine_tune_checkpoint is not None:
        config.train_config.fine_tune_checkpoint = args.fine_tune_checkpoint
    if args.edit_config_json is not None:
        edit(config, edits_from_json(args.edit_config_json))
    check(config, required=["model_dir", "train_input_path"])
    train_and_evaluate(
        config,
        continue_train=args.continue_train,
        ignore_restore_optimizer=args.ignore_restore_optimizer,
    )


if __name__ == "__main__":
    run(main)
