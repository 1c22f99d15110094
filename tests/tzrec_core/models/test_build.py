import dataclasses

import pytest
import torch
from google.protobuf import text_format

from tests.tzrec_core.models.samples import (
    FEATURES,
    GROUPS,
    INTERACTION,
    MODELS,
    make_batch,
    model_config,
    sparse,
)
from tzrec_core.models.build import build_model
from tzrec_core.models.rank_model import RankModel
from tzrec_core.protos.model_pb2 import ModelConfig

CPU = torch.device("cpu")
SCHEMA = [field.name for field in ModelConfig.DESCRIPTOR.oneofs_by_name["model"].fields]


@pytest.mark.parametrize("kind", SCHEMA)
def test_every_model_in_the_schema_can_be_built(kind):
    config = model_config(kind)
    assert config.WhichOneof("model") == kind
    assert isinstance(build_model(config, FEATURES, CPU), RankModel)


def table_sizes(model):
    return {
        name.split(".")[-2]: tuple(parameter.shape)
        for name, parameter in model.embeddings.named_parameters()
    }


def test_a_feature_has_one_deep_table_in_all_its_groups_and_one_wide_table():
    sizes = table_sizes(build_model(model_config("deepfm_with_fm"), FEATURES, CPU))
    assert sizes == {
        "user_emb": (20, 8),
        "item_emb": (20, 8),  # of item and last_item
        "city_emb": (20, 8),
        "tags_emb": (20, 8),
        "user_emb_wide": (20, 4),
        "item_emb_wide": (20, 4),
        "tags_emb_wide": (20, 4),
    }


def test_tables_are_of_the_features_in_the_groups_only():
    sizes = table_sizes(build_model(model_config("multi_tower"), FEATURES, CPU))
    assert list(sizes) == ["user_emb", "tags_emb"]


@pytest.mark.parametrize(
    ("wide_init_fn", "expected"), [('wide_init_fn: "nn.init.zeros_"', 0.0), ("", 0.5)]
)
def test_wide_tables_start_from_wide_init_fn_else_from_the_features_own(wide_init_fn, expected):
    feature = sparse("user", init_fn="nn.init.constant_,val=0.5")
    config = text_format.Parse(
        f"""feature_groups {{ group_name: "deep" feature_names: "user" }}
        feature_groups {{ group_name: "wide" feature_names: "user" group_type: WIDE }}
        wide_and_deep {{ deep {{ hidden_units: 2 }} {wide_init_fn} }}""",
        ModelConfig(),
    )
    model = build_model(config, [feature], CPU)
    assert (model.embeddings.wide.embedding_bags["user_emb_wide"].weight == expected).all()
    assert (model.embeddings.deep.embedding_bags["user_emb"].weight == 0.5).all()


def test_weighted_mean_is_the_weighted_sum_over_the_number_of_ids():
    config = text_format.Parse(
        """feature_groups { group_name: "a" feature_names: "tags" }
        multi_tower { towers { input: "a" } final { hidden_units: 16 } }""",
        ModelConfig(),
    )
    by_sum = sparse("tags", weighted=True)
    by_mean = sparse("tags", weighted=True, pooling="mean")
    batch = make_batch([by_sum])
    models = [build_model(config, [feature], CPU) for feature in (by_sum, by_mean)]
    models[1].load_state_dict(models[0].state_dict())
    scaled = dataclasses.replace(batch, weighted=divide_weights(batch.weighted))

    torch.testing.assert_close(models[1](batch), models[0](scaled))
    assert not torch.allclose(models[1](batch), models[0](batch))


def divide_weights(ids):
    counts = torch.repeat_interleave(ids.lengths(), ids.lengths())
    return type(ids)(
        keys=ids.keys(), values=ids.values(), lengths=ids.lengths(), weights=ids.weights() / counts
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODELS["deepfm"].replace('"user"', '"usr"'), "'usr'"),
        (MODELS["deepfm"].replace("WIDE", "DEEP"), "WIDE feature group 'wide'"),
        (MODELS["deepfm"].replace('"deep"', '"dep"'), "'deep'"),
        (GROUPS + "deepfm { }", "deepfm.deep.hidden_units"),
        (MODELS["deepfm"].replace('"last_item"', '"odd"'), "embedding_dim"),
        (MODELS["dlrm"].replace("[6, 8]", "[6, 7]"), "dense_mlp must end with"),
        (MODELS["dlrm"].replace('["tags", ', '["age", "tags", '), "sparse features only"),
        (INTERACTION, "deepfm"),
    ],
)
def test_configs_that_cannot_be_built_are_refused_by_name(text, message):
    features = (*FEATURES, sparse("odd", dim=4))
    with pytest.raises(ValueError, match=message):
        build_model(text_format.Parse(text, ModelConfig()), features, CPU)
