"""Scores rows with an exported model or a checkpoint.

``[torchrun ...] python -m tzrec_core.predict``
"""

from collections.abc import Sequence
from pathlib import Path

from tzrec_core.checkpoints import checkpoint
from tzrec_core.command_line import parser, run
from tzrec_core.config import check, edit, edits_from_json, load
from tzrec_core.exporting.directory import load_config
from tzrec_core.predictor import predict_checkpoint, predict_exported
from tzrec_core.protos import data_pb2


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags, then writes Parquet files with the scores beside the reserved columns.

    Flags replace what the config says; ``--edit_config_json`` has the last word.
    """
    flags = parser(__doc__)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument("--scripted_model_path", help="an export directory")
    source.add_argument("--pipeline_config_path", help="config of the model of a checkpoint")
    flags.add_argument("--checkpoint_path", help="checkpoint; default: model_dir's newest")
    flags.add_argument("--predict_input_path", required=True, help="rows to score")
    flags.add_argument("--predict_output_path", required=True, help="folder for the scores")
    flags.add_argument(
        "--reserved_columns", default="", help="input columns to keep: a,b,c or ALL_COLUMNS"
    )
    flags.add_argument("--output_columns", default="", help="model outputs to write; default: all")
    flags.add_argument(
        "--dataset_type",
        choices=["ParquetDataset", "CsvDataset"],
        help="what the input files are; default: as the config says",
    )
    flags.add_argument("--batch_size", type=int, help="default: the config's eval_batch_size")
    flags.add_argument("--predict_steps", type=int, help="stop after so many batches")
    flags.add_argument("--edit_config_json", help='edits, {"path.of[0].field": value}')
    args = flags.parse_args(argv)

    for name in ("batch_size", "predict_steps"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name} must be positive, got {value}")
    reserved_columns = [name for name in args.reserved_columns.split(",") if name]
    output_columns = [name for name in args.output_columns.split(",") if name]
    export_dir = None if args.scripted_model_path is None else Path(args.scripted_model_path)
    if export_dir is not None and args.checkpoint_path is not None:
        raise ValueError("--checkpoint_path goes with --pipeline_config_path only")
    config = load(args.pipeline_config_path) if export_dir is None else load_config(export_dir)
    if args.batch_size is not None:
        config.data_config.eval_batch_size = args.batch_size
    if args.dataset_type is not None:
        config.data_config.dataset_type = data_pb2.DatasetType.Value(args.dataset_type)
    if args.edit_config_json is not None:
        edit(config, edits_from_json(args.edit_config_json))
    check(config, required=["model_dir"])
    if export_dir is not None:
        predict_exported(
            config,
            export_dir=export_dir,
            input_path=args.predict_input_path,
            output_path=Path(args.predict_output_path),
            reserved_columns=reserved_columns,
            output_columns=output_columns,
            num_steps=args.predict_steps,
        )
        return
    predict_checkpoint(
        config,
        checkpoint_path=checkpoint.resolve(Path(args.checkpoint_path or config.model_dir)),
        input_path=args.predict_input_path,
        output_path=Path(args.predict_output_path),
        reserved_columns=reserved_columns,
        output_columns=output_columns,
        num_steps=args.predict_steps,
    )


if __name__ == "__main__":
    run(main)
