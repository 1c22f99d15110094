"""A table's constraints are its features', else the config's, else ours."""

import pytest

from tests.tzrec_core.config_sample import sample
from tzrec_core.config import check, edit
from tzrec_core.distributed.build import build_constraints
from tzrec_core.distributed.table_plan import WHOLE, TableConstraint
from tzrec_core.features.build import build_features

GLOBAL = "train_config.global_embedding_constraints"
USER, CATEGORY, BRAND = (f"feature_configs[{index}].id_feature" for index in (1, 2, 3))


def constraints(edits, device_type="cpu", **options):
    config = sample()
    edit(config, edits)
    check(config)
    features = build_features(config.feature_configs, config.data_config)
    return build_constraints(config, features, device_type=device_type, **options)


def test_without_any_constraint_tables_are_whole():
    assert constraints({}) == dict.fromkeys(["user_id", "category", "brand", "age"], WHOLE)


def test_each_field_falls_back_by_itself():
    found = constraints(
        {
            f"{USER}.embedding_constraints.sharding_types": ["row_wise"],
            f"{BRAND}.embedding_constraints.compute_kernels": ["fused_uvm"],
            f"{GLOBAL}.sharding_types": ["column_wise", "table_wise"],
            f"{GLOBAL}.compute_kernels": ["fused_uvm_caching", "fused"],
        },
        "cuda",
    )

    types, kernels = ("column_wise", "table_wise"), ("fused_uvm_caching", "fused")
    assert found == {
        "user_id": TableConstraint(("row_wise",), kernels),
        "category": TableConstraint(types, kernels),
        "brand": TableConstraint(types, ("fused_uvm",)),
        "age": TableConstraint(types, kernels),
    }


def test_a_shared_table_has_the_constraints_of_whichever_feature_has_some():
    found = constraints(
        {
            f"{CATEGORY}.embedding_name": "shared",
            f"{BRAND}": 'feature_name: "brand" expression: "item:brand" num_buckets: 100'
            ' embedding_dim: 16 embedding_name: "shared"'
            ' embedding_constraints { sharding_types: "table_row_wise" }',
            f"{GLOBAL}.sharding_types": ["row_wise"],
        }
    )

    assert found["category"] == found["brand"]
    assert found["brand"].sharding_types == ("table_row_wise",)
    assert found["age"].sharding_types == ("row_wise",)


def test_a_cpu_takes_the_kernels_that_it_has_and_training_needs_one():
    some = {f"{GLOBAL}.compute_kernels": ["fused_uvm", "fused"]}
    none = {f"{USER}.embedding_constraints.compute_kernels": ["fused_uvm", "fused_uvm_caching"]}

    assert constraints(some)["age"] == WHOLE
    with pytest.raises(
        ValueError,
        match="of feature 'user_id' are fused_uvm, fused_uvm_caching, which need a GPU",
    ):
        constraints(none)
    assert constraints(none, training=False)["user_id"] == WHOLE
