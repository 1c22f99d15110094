"""Mistakes in task towers and their weights are named, each with one line."""

import pytest

from tests.tzrec_core.test_config_check import MMOE, RAW, problems, towers

FIRST, SECOND = (f"model_config.mmoe.task_towers[{index}]." for index in range(2))
PARETO = {"model_config.use_pareto_loss_weight": True}
NO_LABEL = MMOE.replace('"cvr" label_name: "click"', '"cvr"')
NO_LOSS = MMOE.replace("losses { l2_loss {} }", "")
TWO_AUCS = MMOE.replace(
    "metrics { auc {} }", "metrics { auc {} } metrics { auc { thresholds: 0 } }", 1
)


def first_tower(field, value):
    return {**towers(), f"{FIRST}{field}": value}


# Edits of the valid sample, and the lines of complaint that each must cause.
CASES = [
    # Columns
    (
        {"model_config": NO_LABEL},
        SECOND + "label_name is not set; must be one of data_config.label_fields",
    ),
    (
        {**towers(), "data_config.label_fields": "buy"},
        FIRST + "label_name is 'click'; must be one of data_config.label_fields: buy",
        SECOND + "label_name is 'click'; must be one of data_config.label_fields: buy",
    ),
    (
        towers(sample_weight_name='"w"'),
        SECOND + "sample_weight_name is 'w'; must be one of data_config.sample_weight_fields: none",
    ),
    (
        {**towers(), "data_config.sample_weight_fields": ["v"]},
        "data_config.sample_weight_fields has 'v', which is the sample_weight_name of none of "
        "model_config.mmoe.task_towers",
    ),
    (
        towers(task_space_indicator_label='"read"'),
        SECOND + "task_space_indicator_label is 'read'; must be one of data_config.label_fields: "
        "click, buy",
    ),
    (
        {"model_config": MMOE.replace('"time"', '"age"')},
        RAW + "feature_name is 'age', which is also " + SECOND + "metrics[0].label_name",
    ),
    # Weights
    (
        towers(in_task_space_weight=2),
        SECOND + "in_task_space_weight is set; needs task_space_indicator_label",
    ),
    (
        towers(task_space_indicator_label='"buy"', in_task_space_weight=0, out_task_space_weight=0),
        SECOND + "in_task_space_weight and out_task_space_weight are 0; one must be > 0",
    ),
    (
        towers(task_space_indicator_label='"buy"', in_task_space_weight=-1),
        SECOND + "in_task_space_weight is -1; must be finite and >= 0",
    ),
    (towers(weight="inf"), SECOND + "weight is inf; must be finite and >= 0"),
    # Losses and metrics
    (towers(num_class=2), SECOND + f"num_class is 2; must be 1 for {SECOND}losses[0].l2_loss"),
    ({"model_config": NO_LOSS}, SECOND + "losses is empty; must have at least one"),
    (
        {"model_config": MMOE.replace("xauc {}", "auc {}")},
        SECOND + "metrics[0].auc needs a probability; must have thresholds: 0 with l2_loss",
    ),
    (
        first_tower("train_metrics[0]", "accuracy { top_k: 2 }"),
        FIRST + "train_metrics[0].accuracy.top_k is 2; must be 1 as num_class is 1",
    ),
    (
        first_tower("train_metrics[0].decay_step", 30),
        FIRST + "train_metrics[0].decay_step is 30; must divide train_config.log_step_count_steps",
    ),
    (
        {"model_config": TWO_AUCS},
        FIRST + "metrics has auc 2 times; further ones of a kind must differ in label_name or",
    ),
    (
        {
            **towers(),
            FIRST + "tower_name": "b_a",
            SECOND + "tower_name": "a",
            SECOND
            + "metrics": '[{auc { thresholds: 0 }}, {auc { thresholds: 0 } label_name: "b"}]',
        },
        "the towers 'a' and 'b_a' both have a metric auc_b_a; one tower needs another name",
    ),
    *(
        (
            {"model_config": f"{MMOE} {field}"},
            f"model_config.{name} is set; must be in model_config.mmoe.task_towers instead",
        )
        for name, field in {
            "losses": "losses { l2_loss {} }",
            "metrics": "metrics { xauc {} }",
            "train_metrics": "train_metrics { xauc {} }",
            "num_class": "num_class: 1",
        }.items()
    ),
    # The metric to choose by
    (
        {**towers(), "export_config": 'exporter_type: "best"'},
        "export_config.best_exporter_metric is 'auc'; the config's metrics and losses are: auc_ctr,"
        " grouped_auc_ctr, binary_cross_entropy_ctr, xauc_cvr, l2_loss_cvr",
    ),
    # Pareto-efficient weights
    (PARETO, "model_config.use_pareto_loss_weight is true; needs a model with several task_towers"),
    (
        towers(pareto_min_loss_weight=0.1),
        SECOND + "pareto_min_loss_weight is set; needs model_config.use_pareto_loss_weight",
    ),
    (
        {**towers(pareto_min_loss_weight=1.5), **PARETO},
        SECOND + "pareto_min_loss_weight is 1.5; must be in [0, 1]",
    ),
    (
        {**towers(pareto_min_loss_weight=0.75), **PARETO, FIRST + "pareto_min_loss_weight": 0.5},
        "model_config.mmoe.task_towers: the pareto_min_loss_weight add up to 1.25; must be at most",
    ),
    (
        {**towers(weight=0), **PARETO},
        SECOND + "weight is 0; must be > 0 with model_config.use_pareto_loss_weight",
    ),
    (
        {**towers(), **PARETO, "train_config.gradient_accumulation_steps": 2},
        "model_config.use_pareto_loss_weight is true; must not go with "
        "train_config.gradient_accumulation_steps > 1: weights are of one batch's gradients",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][:90])
def test_a_mistake_causes_its_complaint_and_no_other(case):
    edits, *complaints = case
    found = problems(edits)

    for complaint in complaints:
        assert [line for line in found if line.startswith(complaint)], found
    assert len(found) == len(complaints), found
