"""Constraints that the tables, the optimizer or TorchRec cannot keep are refused by name."""

import pytest

from tests.tzrec_core.config_sample import sample
from tzrec_core.config import edit
from tzrec_core.config_checks import sharding
from tzrec_core.config_checks.sharding import ROWWISE_OPTIMIZERS, sharding_problems
from tzrec_core.distributed import sharder
from tzrec_core.protos.optimizer_pb2 import SparseOptimizer

GLOBAL = "train_config.global_embedding_constraints"
USER, CATEGORY = "feature_configs[1].id_feature", "feature_configs[2].id_feature"
OPTIMIZERS = [field.name for field in SparseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields]


def problems(edits):
    config = sample()
    edit(config, edits)
    return list(sharding_problems(config))


def test_types_that_are_supported_are_those_that_tables_can_be_sharded_by():
    assert sharding.SUPPORTED["sharding_types"] == sharder.SHARDING_TYPES
    assert sharding.ROW_TYPES == sharder.ROW_TYPES


@pytest.mark.parametrize("field", sharding.SUPPORTED)
def test_all_that_is_supported_may_stand_there(field):
    names = list(sharding.SUPPORTED[field])

    assert problems({f"{GLOBAL}.{field}": names}) == []
    assert problems({f"{USER}.embedding_constraints.{field}": names}) == []


@pytest.mark.parametrize(
    ("field", "name", "reason"),
    [
        ("sharding_types", "data_parallel", "the dense optimizer would train the table"),
        ("sharding_types", "grid_shard", "with pooling mean TorchRec would return sums"),
        (
            "sharding_types",
            "table_column_wise",
            "TorchRec cannot save it where a rank has no part; column_wise can be",
        ),
        ("compute_kernels", "dense", "the dense optimizer would train the table"),
    ],
)
def test_what_torchrec_has_but_does_otherwise_is_refused_with_the_reason(field, name, reason):
    supported = ", ".join(sharding.SUPPORTED[field])

    assert problems({f"{USER}.embedding_constraints.{field}": [name]}) == [
        f"{USER}.embedding_constraints.{field} has {name!r} ({reason}); supported: {supported}"
        " (feature user_id)"
    ]


def test_unknown_names_are_refused_with_what_there_is():
    [problem] = problems({f"{GLOBAL}.sharding_types": ["row_wise", "rowwise"]})

    assert problem.startswith(f"{GLOBAL}.sharding_types has 'rowwise'; supported: table_wise, ")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_columns_are_not_split_where_the_optimizer_needs_whole_rows(optimizer):
    found = problems(
        {
            "train_config.sparse_optimizer": f"{optimizer} {{ lr: 0.1 }}",
            f"{GLOBAL}.sharding_types": ["row_wise", "column_wise"],
        }
    )

    assert found == [
        f"{GLOBAL}.sharding_types has 'column_wise'; must not with"
        f" train_config.sparse_optimizer.{optimizer}, which needs whole rows"
    ] * (optimizer in ROWWISE_OPTIMIZERS)


def test_columns_are_split_only_where_there_are_enough():
    dim = {f"{USER}.embedding_dim": 4}
    of_both = {**dim, f"{GLOBAL}.sharding_types": ["column_wise"]}

    assert problems(of_both) == [
        f"{USER}.embedding_dim is 4; must be > 4, as parts of rows are multiples of 4, with"
        f" {GLOBAL}.sharding_types (feature user_id)"
    ]
    own = {f"{USER}.embedding_constraints.sharding_types": ["table_wise"]}
    assert problems({**of_both, **own}) == []
    assert problems({**dim, f"{GLOBAL}.sharding_types": ["column_wise", "table_wise"]}) == []


def test_clipped_gradients_of_means_do_not_go_with_split_rows():
    clipped = {"train_config.sparse_optimizer.adagrad_optimizer.gradient_clipping": True}
    mean = {**clipped, f"{USER}.pooling": "mean"}
    by_rows = {f"{USER}.embedding_constraints.sharding_types": ["row_wise"]}

    assert problems({**mean, **by_rows}) == [
        f"{USER}.pooling is 'mean'; must be 'sum' where"
        " train_config.sparse_optimizer.adagrad_optimizer.gradient_clipping meets rows that are"
        f" split, with {USER}.embedding_constraints.sharding_types (feature user_id)"
    ]
    assert problems({**clipped, **by_rows}) == problems(mean) == []
    # Weighted ids are summed in any case.
    assert problems({**mean, **by_rows, f"{USER}.weighted": True}) == []


def test_features_that_share_a_table_agree_where_both_say_something():
    shared = {
        f"{USER}.embedding_name": "shared",
        f"{CATEGORY}.embedding_name": "shared",
        f"{USER}.embedding_constraints.sharding_types": ["row_wise", "table_wise"],
    }

    kernels = {f"{CATEGORY}.embedding_constraints.compute_kernels": ["fused"]}
    types = f"{CATEGORY}.embedding_constraints.sharding_types"
    assert problems({**shared, **kernels}) == []
    assert problems({**shared, types: ["table_wise", "row_wise"]}) == []
    assert problems({**shared, types: ["row_wise"]}) == [
        f"{types} is ['row_wise'], ['row_wise', 'table_wise'] in {USER}.embedding_constraints"
        " (feature user_id), but both use the table 'shared' (feature category)"
    ]


def test_a_number_has_no_table_to_be_constrained():
    path = "feature_configs[0].raw_feature.embedding_constraints"

    assert problems({f"{path}.sharding_types": ["row_wise"]}) == [
        f"{path} is set; needs boundaries (feature price)"
    ]
