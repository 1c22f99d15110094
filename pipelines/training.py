"""The training pipeline: from click logs to an exported model."""

from kfp import dsl

from components.evaluate.component import evaluate
from components.export.component import export
from components.prepare_data.component import prepare_data
from components.select_best.component import select_best
from components.train.component import train


@dsl.pipeline(name="tzrec-training", description="Click logs to an exported recommender model.")
def training(
    pipeline_config: str,
    train_input_path: str = "",
    eval_input_path: str = "",
    run_dir: str = "",
    eval_fraction: float = 0.1,
    split_by: str = "rows",
    edit_config_json: str = "",
    num_processes: int = 1,
    evaluate_checkpoints: int = 0,
    seed: int = 0,
    experiment: str = "tzrec",
    registered_model: str = "",
) -> None:
    """Prepares the data, trains, evaluates every checkpoint, chooses one, exports and registers it.

    Args:
        pipeline_config: The config file, text or JSON.
        train_input_path: Raw training rows; empty: the config's.
        eval_input_path: Raw evaluation rows; empty: the config's, or a part of the training rows.
        run_dir: The folder that all steps share; a local run makes one up if it is empty.
        eval_fraction: The part of the training rows to evaluate on, if there are no others.
        split_by: How to choose that part: rows, hash:<column> or time:<column>.
        edit_config_json: Changes to the config: {"train_config.num_steps": 1000}.
        num_processes: Ranks to train and to evaluate with.
        evaluate_checkpoints: Evaluate only so many of the newest checkpoints; 0: all.
        seed: Of the split and the order of the rows.
        experiment: The experiment in MLflow.
        registered_model: The exported model's name in MLflow's registry; empty: the experiment's.
    """
    prepared = prepare_data(
        pipeline_config=pipeline_config,
        train_input_path=train_input_path,
        eval_input_path=eval_input_path,
        run_dir=run_dir,
        eval_fraction=eval_fraction,
        split_by=split_by,
        edit_config_json=edit_config_json,
        seed=seed,
        experiment=experiment,
        pipeline_run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    trained = train(
        run_dir=run_dir, num_processes=num_processes, dataset=prepared.outputs["dataset"]
    )
    evaluated = evaluate(
        run_dir=run_dir,
        num_processes=num_processes,
        num_checkpoints=evaluate_checkpoints,
        checkpoints=trained.outputs["checkpoints"],
    )
    selected = select_best(
        run_dir=run_dir,
        registered_model=registered_model,
        evaluation=evaluated.outputs["evaluation"],
    )
    with dsl.If(selected.outputs["verdict"] == "pass", name="gate"):
        exported = export(
            run_dir=run_dir,
            checkpoint=selected.outputs["checkpoint"],
            registered_model=registered_model,
            alias="",
        )
    for task in (prepared, trained, evaluated, selected, exported):
        # Each finds its own finished work in run_dir; a cached one would leave run_dir empty.
        task.set_caching_options(False)
