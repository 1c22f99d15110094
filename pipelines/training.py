"""The training pipeline: from click logs to an exported model."""

from kfp import dsl

from components import secrets
from components.evaluate.component import evaluate
from components.export.component import export
from components.images import RUNTIME_IMAGE
from components.launch_train.component import launch_train
from components.prepare_data.component import prepare_data
from components.select_best.component import select_best
from components.train.component import train
from components.volume import CLAIM
from pipelines import kubernetes


@dsl.pipeline(name="tzrec-training", description="Click logs to an exported recommender model.")
def training(
    pipeline_config: str,
    train_input_path: str = "",
    eval_input_path: str = "",
    run_dir: str = "",
    eval_fraction: float = 0.1,
    split_by: str = "rows",
    edit_config_json: str = "",
    seed: int = 0,
    launcher: str = "local",
    num_processes: int = 1,
    num_workers: int = 1,
    worker_json: str = "",
    evaluate_checkpoints: int = 0,
    evaluation_parts: list[int] = [0],  # noqa: B006
    experiment: str = "tzrec",
    registered_model: str = "",
    volume: str = CLAIM,
    mlflow_config_map: str = secrets.MLFLOW_NAME,
    mlflow_secret: str = secrets.MLFLOW_NAME,
    object_store_secret: str = secrets.OBJECT_STORE_NAME,
    cpu_request: str = "1",
    cpu_limit: str = "8",
    memory_request: str = "2Gi",
    memory_limit: str = "8Gi",
    accelerator_type: str = "",
    accelerator_count: str = "1",
    node_selector: dict = {},  # type: ignore[type-arg]  # noqa: B006
    tolerations: list = [],  # type: ignore[type-arg]  # noqa: B006
) -> None:
    """Prepares the data, trains, evaluates every checkpoint, chooses one, exports and registers it.

    Args:
        pipeline_config: The config file, text or JSON.
        train_input_path: Raw training rows; empty: the config's.
        eval_input_path: Raw evaluation rows; empty: the config's, or a part of the training rows.
        run_dir: The folder that all steps share; empty: a new one, named after the run.
        eval_fraction: The part of the training rows to evaluate on, if there are no others.
        split_by: How to choose that part: rows, hash:<column> or time:<column>.
        edit_config_json: Changes to the config: {"train_config.num_steps": 1000}.
        seed: Of the split and the order of the rows.
        launcher: What trains: local, the container of the step; pytorchjob or trainjob, a job of
            Kubeflow's training operator or trainer.
        num_processes: Ranks of a container, to train and to evaluate with.
        num_workers: Containers of a training job.
        worker_json: What they are like, see docs/cluster.md: {"resources": {"nvidia.com/gpu": 8}}.
        evaluate_checkpoints: Evaluate only so many of the newest checkpoints; 0: all.
        evaluation_parts: Names of containers that evaluate at the same time: [0, 1, 2].
        experiment: The experiment in MLflow.
        registered_model: The exported model's name in MLflow's registry; empty: the experiment's.
        volume: The claim of the volume that is mounted at /runs.
        mlflow_config_map: Has the address of MLflow, if it is there.
        mlflow_secret: Has the user and the password, or the token, if it is there.
        object_store_secret: Has the keys of an object store, if it is there.
        cpu_request: Cores that each step reserves.
        cpu_limit: Cores that each step may use.
        memory_request: Memory that each step reserves.
        memory_limit: Memory that each step may use.
        accelerator_type: What train and evaluate compute on: nvidia.com/gpu; empty: the CPU.
        accelerator_count: How many of them.
        node_selector: Labels of the nodes to use: {"disktype": "ssd"}.
        tolerations: Taints of nodes that may be used: [{"key": "gpu", "operator": "Exists"}].
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
    place, dataset = prepared.outputs["resolved_run_dir"], prepared.outputs["dataset"]
    with dsl.If(launcher == "local", name="train-here"):
        trained = train(run_dir=place, num_processes=num_processes, dataset=dataset)
    with dsl.Else(name="train-elsewhere"):
        launched = launch_train(
            run_dir=place,
            launcher=launcher,
            pipeline_run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            num_workers=num_workers,
            num_processes=num_processes,
            image=RUNTIME_IMAGE,
            volume=volume,
            mlflow_secret=mlflow_secret,
            object_store_secret=object_store_secret,
            worker_json=worker_json,
            dataset=dataset,
        )
    checkpoint_step = dsl.OneOf(
        trained.outputs["checkpoint_step"], launched.outputs["checkpoint_step"]
    )
    with dsl.ParallelFor(evaluation_parts, name="evaluation-parts") as part:
        evaluated = evaluate(
            run_dir=place,
            num_processes=num_processes,
            num_checkpoints=evaluate_checkpoints,
            part=part,
            parts=evaluation_parts,
            checkpoint_step=checkpoint_step,
        )
    selected = select_best(
        run_dir=place,
        registered_model=registered_model,
        evaluation=dsl.Collected(evaluated.outputs["evaluation"]),
    )
    with dsl.If(selected.outputs["verdict"] == "pass", name="gate"):
        exported = export(
            run_dir=place,
            checkpoint=selected.outputs["checkpoint"],
            registered_model=registered_model,
            alias="",
        )

    settings = kubernetes.Settings(
        volume=volume,
        mlflow_config_map=mlflow_config_map,
        mlflow_secret=mlflow_secret,
        object_store_secret=object_store_secret,
        cpu_request=cpu_request,
        cpu_limit=cpu_limit,
        memory_request=memory_request,
        memory_limit=memory_limit,
        accelerator_type=accelerator_type,
        accelerator_count=accelerator_count,
        node_selector=node_selector,
        tolerations=tolerations,
    )
    for task in (prepared, trained, launched, evaluated, selected, exported):
        kubernetes.configure(task, settings)
