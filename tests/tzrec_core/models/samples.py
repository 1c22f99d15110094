"""Small features, batches and configs that the tests of models share."""

import torch
from google.protobuf import text_format
from torchrec import KeyedJaggedTensor

from tzrec_core.batch import Batch
from tzrec_core.features.schema import Feature, Table
from tzrec_core.protos.model_pb2 import ModelConfig


def sparse(name, *, table=None, rows=20, dim=8, pooling="sum", weighted=False, init_fn=None):
    return Feature(
        name=name,
        column=name,
        width=0,
        table=Table(table or f"{name}_emb", rows, dim, pooling, init_fn),
        weighted=weighted,
        transform=None,
    )


def dense(name, width=1):
    return Feature(name=name, column=name, width=width, table=None, weighted=False, transform=None)


FEATURES = (
    dense("age"),
    sparse("user"),
    sparse("item", pooling="mean"),
    dense("stats", width=3),
    sparse("tags", weighted=True),
    # Shares a table with item.
    sparse("last_item", table="item_emb", pooling="mean"),
    sparse("city"),
)

GROUPS = """
    feature_groups { group_name: "deep" group_type: DEEP
        feature_names: ["user", "age", "item", "tags", "stats", "last_item", "city"] }
    feature_groups { group_name: "wide" group_type: WIDE
        feature_names: ["item", "user", "age", "tags"] }
"""
TOWERS = """
    feature_groups { group_name: "a" feature_names: ["user", "age"] }
    feature_groups { group_name: "b" feature_names: ["user", "tags", "stats"] }
"""
EMBEDDINGS = """
    feature_groups { group_name: "sparse"
        feature_names: ["tags", "user", "item", "last_item", "city"] }
"""
INTERACTION = (
    EMBEDDINGS + """feature_groups { group_name: "dense" feature_names: ["stats", "age"] }"""
)
MODELS = {
    "deepfm": GROUPS + """deepfm { deep { hidden_units: [7, 6] } final { hidden_units: 5 } }""",
    "deepfm_without_final": GROUPS + """deepfm { deep { hidden_units: [7, 6] } }""",
    "deepfm_with_fm": GROUPS
    + """feature_groups { group_name: "fm" feature_names: ["last_item", "user"] }
        deepfm { deep { hidden_units: 7 } final { hidden_units: 5 } }""",
    "wide_and_deep": GROUPS
    + """wide_and_deep { deep { hidden_units: [7, 6] } final { hidden_units: 5 } }""",
    "wide_and_deep_without_final": GROUPS + """wide_and_deep { deep { hidden_units: [7, 6] } }""",
    "multi_tower": TOWERS
    + """multi_tower { towers { input: "a" mlp { hidden_units: [6, 4] } } towers { input: "b" }
        final { hidden_units: 5 } }""",
    "dlrm": INTERACTION
    + """dlrm { dense_mlp { hidden_units: [6, 8] } final { hidden_units: 5 } }""",
    "dlrm_products_only": EMBEDDINGS
    + """dlrm { arch_with_sparse: false final { hidden_units: 5 } }""",
}

TASK_TOWERS = """
    task_towers { tower_name: "ctr" label_name: "click" mlp { hidden_units: [16, 8] } }
    task_towers { tower_name: "rating" label_name: "stars" num_class: 3 }
"""
TASKS_GROUP = """
    feature_groups { group_name: "all" feature_names: ["user", "age", "tags", "city"] }
"""
EXPERTS = "num_expert: 4 expert_mlp { hidden_units: [16, 8] }"
MULTI_TASK_MODELS = {
    "simple_multi_task": f"{TASKS_GROUP} simple_multi_task {{ {TASK_TOWERS} }}",
    "mmoe": f"{TASKS_GROUP} mmoe {{ {EXPERTS} {TASK_TOWERS} }}",
    "mmoe_with_gate_mlp": f"""{TASKS_GROUP}
        mmoe {{ {EXPERTS} gate_mlp {{ hidden_units: 3 }} {TASK_TOWERS} }}""",
}


def model_config(name, num_class=1):
    text = (MODELS | MULTI_TASK_MODELS)[name]
    return text_format.Parse(f"num_class: {num_class} {text}", ModelConfig())


def make_batch(features=FEATURES, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(members, weighted):
        if not members:
            return None
        lengths = torch.randint(0, 4, (len(members) * size,), generator=generator)
        total = int(lengths.sum())
        return KeyedJaggedTensor(
            keys=[feature.name for feature in members],
            values=torch.randint(0, 20, (total,), generator=generator),
            lengths=lengths.int(),
            weights=torch.rand(total, generator=generator) if weighted else None,
        )

    width = sum(feature.width for feature in features)
    return Batch(
        dense=torch.randn(size, width, generator=generator),
        sparse=ids([f for f in features if f.is_sparse and not f.weighted], weighted=False),
        weighted=ids([f for f in features if f.is_sparse and f.weighted], weighted=True),
        labels={"click": torch.randint(0, 2, (size,), generator=generator)},
        sample_weights={},
        group_ids={},
        position={},
    )
