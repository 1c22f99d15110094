import json
import logging
import math
import re
import struct

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.config_sample import sample
from tzrec_core.config import edit, edits_from_json
from tzrec_core.protos import data_pb2, model_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


def edited(edits):
    config = sample()
    edit(config, edits)
    return config


def ids(config):
    return [entry.id_feature for entry in config.feature_configs if entry.HasField("id_feature")]


# The table of TorchEasyRec's behaviour: path, value, what to read, what it must be.
TABLE = [
    ("model_dir", "experiments/x", lambda c: c.model_dir, "experiments/x"),
    (
        "train_config.dense_optimizer.adam_optimizer.lr",
        0.5,
        lambda c: c.train_config.dense_optimizer.adam_optimizer.lr,
        0.5,
    ),
    (
        "export_config.best_exporter_metric",  # export_config is not set before
        "xauc",
        lambda c: c.export_config.best_exporter_metric,
        "xauc",
    ),
    ("data_config.shuffle", True, lambda c: c.data_config.shuffle, True),
    (
        "feature_configs[1].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [64, 16, 16],
    ),
    (
        "feature_configs[-2].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [8, 16, 64],
    ),
    (
        "feature_configs[1:3].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [64, 64, 16],
    ),
    (
        "feature_configs[:].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [64, 64, 64],
    ),
    (
        "feature_configs[-3:].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [8, 64, 64],
    ),
    (
        "feature_configs[id_feature.feature_name=category].id_feature.embedding_dim",
        64,
        lambda c: [f.embedding_dim for f in ids(c)],
        [8, 64, 16],
    ),
    (
        "feature_configs[id_feature.embedding_dim>=16].id_feature.num_buckets",
        7,
        lambda c: [f.num_buckets for f in ids(c)],
        [0, 7, 7],
    ),
    (
        "feature_configs[id_feature.embedding_dim<16].id_feature.embedding_dim",
        4,
        lambda c: [f.embedding_dim for f in ids(c)],
        [4, 16, 16],
    ),
    (
        "feature_configs[id_feature.embedding_dim <= 8].id_feature.embedding_dim",
        4,
        lambda c: [f.embedding_dim for f in ids(c)],
        [4, 16, 16],
    ),
    (
        "feature_configs[id_feature.embedding_dim>8].id_feature.embedding_dim",
        4,
        lambda c: [f.embedding_dim for f in ids(c)],
        [8, 4, 4],
    ),
    (
        "feature_configs[id_feature.pooling='sum'].id_feature.pooling",  # the schema's default
        "mean",
        lambda c: [f.pooling for f in ids(c)],
        ["mean"] * 3,
    ),
    (
        "model_config.feature_groups[feature_names=brand].group_name",  # one of several values
        "goods",
        lambda c: [group.group_name for group in c.model_config.feature_groups],
        ["user", "goods"],
    ),
    (
        "feature_configs[4].raw_feature.boundaries",
        [4, 5, 6, 7],
        lambda c: list(c.feature_configs[4].raw_feature.boundaries),
        [4, 5, 6, 7],
    ),
    (
        "feature_configs[4].raw_feature.boundaries",
        "[4, 5.5]",
        lambda c: list(c.feature_configs[4].raw_feature.boundaries),
        [4, 5.5],
    ),
    (
        "feature_configs[4].raw_feature.boundaries[1]",
        31,
        lambda c: list(c.feature_configs[4].raw_feature.boundaries),
        [18, 31, 50],
    ),
    (
        "data_config.batch_size; data_config.num_workers",
        "1; 2",
        lambda c: (c.data_config.batch_size, c.data_config.num_workers),
        (1, 2),
    ),
    (
        "train_config.grad_clipping",
        'clipping_type: "norm"',
        lambda c: str(c.train_config.grad_clipping),
        'clipping_type: "norm"\n',
    ),
    (
        "train_config.grad_clipping",
        '{clipping_type: "norm"}',
        lambda c: str(c.train_config.grad_clipping),
        'clipping_type: "norm"\n',
    ),
    (
        "model_config.multi_tower.towers[0].mlp",  # replaces what was there
        {"activation": "nn.GELU"},
        lambda c: str(c.model_config.multi_tower.towers[0].mlp),
        'activation: "nn.GELU"\n',
    ),
    (
        "model_config.metrics",
        "[{accuracy {}}, {auc {thresholds: 10}}]",
        lambda c: [metric.WhichOneof("metric") for metric in c.model_config.metrics],
        ["accuracy", "auc"],
    ),
    (
        "model_config.metrics[1]",
        "accuracy {}",
        lambda c: [metric.WhichOneof("metric") for metric in c.model_config.metrics],
        ["auc", "accuracy"],
    ),
    (
        "data_config.label_fields",
        "like",
        lambda c: list(c.data_config.label_fields),
        ["like"],
    ),
    (
        "feature_configs[3].id_feature.vocab_dict",
        {"x": 1, "y": "2"},
        lambda c: dict(c.feature_configs[3].id_feature.vocab_dict),
        {"x": 1, "y": 2},
    ),
    (
        "data_config.fg_mode",
        "FG_DAG",
        lambda c: c.data_config.fg_mode,
        data_pb2.FG_DAG,
    ),
    (
        "data_config.fg_mode",
        3,
        lambda c: c.data_config.fg_mode,
        data_pb2.FG_DAG,
    ),
    (
        "model_config.feature_groups[0].group_type",
        "WIDE",
        lambda c: c.model_config.feature_groups[0].group_type,
        model_pb2.WIDE,
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "read", "wanted"), TABLE, ids=[f"{edit[0]}={edit[1]}"[:90] for edit in TABLE]
)
def test_an_edit_sets_what_torcheasyrec_users_expect(path, value, read, wanted):
    assert read(edited({path: value})) == wanted


def test_an_edit_changes_nothing_else():
    before, after = sample(), edited({"train_config.dense_optimizer.adam_optimizer.lr": 0.5})

    assert str(after) == str(before).replace("lr: 0.001", "lr: 0.5")


def test_later_edits_see_earlier_ones():
    config = edited(
        {
            "feature_configs[1].id_feature.feature_name": "uid",
            "feature_configs[id_feature.feature_name=uid].id_feature.embedding_dim": 32,
        }
    )

    assert config.feature_configs[1].id_feature.embedding_dim == 32


def test_null_unsets_a_field():
    config = edited({"train_config.num_epochs": None, "train_config.num_steps": 10})

    assert not config.train_config.HasField("num_epochs")
    assert config.train_config.num_steps == 10


@pytest.mark.parametrize("value", [100, "100", "1e2", 100.0, "100.0", " 100 "])
def test_whole_numbers_are_read_from_any_spelling(value):
    assert edited({"train_config.num_steps": value}).train_config.num_steps == 100


@pytest.mark.parametrize("value", [True, "true", "True", "TRUE", 1, "1"])
def test_true_is_read_from_any_spelling(value):
    assert edited({"data_config.shuffle": value}).data_config.shuffle is True


@pytest.mark.parametrize("value", [False, "false", "False", 0, "0"])
def test_false_is_read_from_any_spelling(value):
    config = edited({"data_config.pin_memory": value})

    assert config.data_config.HasField("pin_memory")
    assert config.data_config.pin_memory is False


def test_a_text_field_takes_numbers():
    assert (
        edited({"feature_configs[0].raw_feature.default_value": -1.5})
        .feature_configs[0]
        .raw_feature.default_value
        == "-1.5"
    )


def test_a_value_with_semicolons_is_not_cut_when_there_is_one_path():
    assert edited({"model_dir": "a;b"}).model_dir == "a;b"


def test_a_condition_may_hold_separators_in_quotes():
    config = sample()
    config.feature_configs[1].id_feature.feature_name = "odd].;name"
    edit(
        config,
        {'feature_configs[id_feature.feature_name="odd].;name"].id_feature.embedding_dim': 32},
    )

    assert config.feature_configs[1].id_feature.embedding_dim == 32


def test_a_condition_compares_as_the_field_is_stored():
    config = sample()
    config.feature_configs[4].raw_feature.boundaries[:] = [0.1]
    edit(config, {"feature_configs[raw_feature.boundaries=0.1].raw_feature.embedding_dim": 32})

    assert config.feature_configs[4].raw_feature.embedding_dim == 32


def test_a_slice_edits_only_entries_with_that_member_of_a_oneof():
    before, after = sample(), edited({"feature_configs[:].id_feature.pooling": "mean"})

    kinds = [entry.WhichOneof("feature") for entry in after.feature_configs]
    assert kinds == [entry.WhichOneof("feature") for entry in before.feature_configs]
    assert {feature.pooling for feature in ids(after)} == {"mean"}


def test_a_plain_path_through_another_member_of_a_oneof_is_an_error():
    with pytest.raises(
        ValueError,
        match=r"train_config\.dense_optimizer\.sgd_optimizer is not set, adam_optimizer is;",
    ):
        edited({"train_config.dense_optimizer.sgd_optimizer.lr": 1})


def test_setting_a_member_of_a_oneof_itself_replaces_the_other_and_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        config = edited({"train_config.dense_optimizer.sgd_optimizer": "lr: 0.5"})

    assert config.train_config.dense_optimizer.WhichOneof("optimizer") == "sgd_optimizer"
    assert config.train_config.dense_optimizer.HasField("constant_learning_rate")
    assert "sgd_optimizer takes the place of adam_optimizer" in caplog.text


ERRORS = [
    ("no_such", 1, "no_such is not supported; supported fields: data_config, "),
    ("train_config.no_such", 1, "train_config.no_such is not supported; supported fields: "),
    (
        "train_config.num_step",
        1,
        "train_config.num_step is not supported (did you mean num_steps?)",
    ),
    ("model_config.mind", "{}", "model_config.mind is not supported; supported models: deepfm"),
    ("train_config.num_steps.x", 1, "train_config.num_steps has no fields"),
    ("train_config[0].num_steps", 1, "train_config is not repeated; [0]"),
    ("feature_configs.id_feature", "{}", "feature_configs is repeated; say which entries, for"),
    ("feature_configs[9].id_feature.pooling", "sum", "feature_configs has 5 entries; index 9 is"),
    ("feature_configs[-6].id_feature.pooling", "sum", "has 5 entries; index -6 is outside"),
    ("feature_configs[9:].id_feature.pooling", "sum", "matches nothing; feature_configs has 5"),
    (
        "feature_configs[id_feature.feature_name=cat].id_feature.pooling",
        "sum",
        "matches nothing; feature_configs[id_feature.feature_name=cat]: the values there are "
        "brand, category, user_id",
    ),
    (
        "feature_configs[raw_feature.feature_name=age].id_feature.pooling",
        "sum",
        "matches nothing; feature_configs[4] has raw_feature in place of id_feature",
    ),
    (
        "feature_configs[id_feature.num_buckets<10].id_feature.pooling",  # unset is not 0
        "sum",
        "matches nothing; feature_configs[id_feature.num_buckets<10]: the values there are 100",
    ),
    ("feature_configs[id_feature.title=x].id_feature.pooling", "sum", "is not supported"),
    ("feature_configs[id_feature=x].id_feature.pooling", "sum", "must end in a plain value"),
    (
        "feature_configs[id_feature.pooling>a].id_feature.pooling",
        "sum",
        "only numbers have an order",
    ),
    ("feature_configs[id_feature.embedding_dim>a].id_feature.pooling", "sum", "is 'a'; must be a"),
    (
        "feature_configs[x].id_feature.pooling",
        "sum",
        "feature_configs cannot be chosen from by [x]",
    ),
    ("feature_configs[4].raw_feature.boundaries[x=1]", 1, "needs a repeated message"),
    ("feature_configs[0", 1, "cannot be read from 'feature_configs[0' on"),
    ("model_dir.", 1, "cannot be read from '' on"),
    ("", 1, "cannot be read from '' on"),
    ("a..b", 1, "cannot be read from '.b' on"),
    (
        "train_config.num_steps",
        -1,
        "train_config.num_steps is -1; must be a whole number from 0 to",
    ),
    ("train_config.num_steps", 2**32, "must be a whole number from 0 to 4294967295"),
    ("train_config.num_steps", "1e999999999", "must be a whole number from 0 to 4294967295"),
    ("train_config.num_steps", 1.5, "train_config.num_steps is 1.5; must be a whole number"),
    ("train_config.num_steps", "ten", "train_config.num_steps is 'ten'; must be a whole number"),
    ("train_config.num_steps", True, "train_config.num_steps is True; must be a whole number"),
    ("train_config.num_steps", float("nan"), "must be a whole number"),
    ("train_config.dense_optimizer.adam_optimizer.lr", "fast", "is 'fast'; must be a number"),
    (
        "train_config.dense_optimizer.adam_optimizer.lr",
        1e300,
        "must be a number in single precision",
    ),
    ("train_config.dense_optimizer.adam_optimizer.lr", "nan", "must be a number"),
    ("data_config.shuffle", "yes", "data_config.shuffle is 'yes'; must be true, false, 1 or 0"),
    ("data_config.shuffle", 2, "data_config.shuffle is 2; must be true, false, 1 or 0"),
    ("data_config.fg_mode", "DAG", "data_config.fg_mode is 'DAG'; allowed: FG_NONE, FG_NORMAL"),
    ("data_config.fg_mode", 9, "data_config.fg_mode is 9; allowed: FG_NONE"),
    ("model_dir", True, "model_dir is True; must be text"),
    ("model_dir", {"a": 1}, "model_dir is {'a': 1}; must be text"),
    ("train_config", 5, "train_config is 5; must be a message"),
    ("train_config.grad_clipping", "clip: 1", "train_config.grad_clipping.clip is not supported"),
    ("train_config.grad_clipping", {"clip": 1}, "train_config.grad_clipping.clip is not supported"),
    (
        "train_config.grad_clipping",
        "max_gradient: x",
        "train_config.grad_clipping.max_gradient can",
    ),
    (
        "feature_configs[4].raw_feature.boundaries",
        [1, "x"],
        "boundaries[1] is 'x'; must be a number",
    ),
    ("feature_configs[4].raw_feature.boundaries", "[1, x]", "boundaries[1] cannot be read"),
    (
        "feature_configs[4].raw_feature.boundaries[0]",
        None,
        "boundaries[0] is None; must be a number",
    ),
    ("model_dir;train_config.num_steps", "a;1;2", "must be 2 values with ';' between"),
    ("model_dir;train_config.num_steps", 1, "must be 2 values with ';' between"),
]


@pytest.mark.parametrize(("path", "value", "reason"), ERRORS, ids=lambda x: str(x)[:60])
def test_a_wrong_edit_names_path_value_and_what_is_allowed(path, value, reason):
    config = sample()

    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        edit(config, {"model_dir": "changed", path: value})

    assert repr(path) in str(error.value)
    assert config == sample(), "a failed edit must leave the config as it was"


def test_edits_come_from_json():
    assert edits_from_json('{"a.b[0]": [1, 2.5, null], "c": {"d": true}}') == {
        "a.b[0]": [1, 2.5, None],
        "c": {"d": True},
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "edits are not JSON"),
        ("", "edits are not JSON"),
        ("[1]", "edits must be a JSON object"),
        ('{"a": 1, "a": 2}', "edits name a key twice: ['a', 'a']"),
    ],
)
def test_edits_that_are_no_json_object_are_refused(text, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        edits_from_json(text)


@given(st.integers(0, 2**32 - 1))
def test_any_whole_number_in_range_is_stored_exactly(number):
    for value in (number, str(number), f"{number}.0", f"{number}e0"):
        assert edited({"train_config.num_steps": value}).train_config.num_steps == number


@given(st.floats(width=32, allow_nan=False))
def test_any_float_survives_an_edit_and_a_round_trip_through_text(number):
    path = "train_config.dense_optimizer.adam_optimizer.lr"
    for value in (number, repr(number)):
        config = edited({path: value})
        again = text_format.Parse(text_format.MessageToString(config), EasyRecConfig())
        for found in (config, again):
            lr = found.train_config.dense_optimizer.adam_optimizer.lr
            assert struct.pack("f", lr) == struct.pack("f", number)
            assert math.copysign(1, lr) == math.copysign(1, number)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_json_and_an_edit(text):
    assert edited(edits_from_json(json.dumps({"model_dir": text}))).model_dir == text


BOUND = st.none() | st.integers(-5, 5)


@given(BOUND, BOUND)
def test_slices_choose_like_pythons(start, stop):
    wanted = list(sample().model_config.feature_groups[1].feature_names)
    chosen = range(len(wanted))[start:stop]
    for index in chosen:
        wanted[index] = "new"
    bounds = ":".join("" if bound is None else str(bound) for bound in (start, stop))
    path = f"model_config.feature_groups[1].feature_names[{bounds}]"

    if chosen:
        found = edited({path: "new"}).model_config.feature_groups[1].feature_names
        assert list(found) == wanted
    else:
        with pytest.raises(ValueError, match="matches nothing"):
            edited({path: "new"})


@given(st.text("abfeature_configs.[]=<>;:\"'0123-", max_size=40))
def test_any_path_is_either_applied_or_refused_with_a_value_error(path):
    config = sample()
    try:
        edit(config, {path: "1"})
    except ValueError:
        assert config == sample()
    else:
        assert config != sample()
