import json
import logging
import re
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format

from tests.tzrec_core.config_sample import TEXT, line_of, sample
from tzrec_core import config
from tzrec_core.config_fields import is_map, is_planned
from tzrec_core.protos import data_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

EXAMPLES = sorted((Path(__file__).parents[2] / "pipelines" / "configs").glob("*.config"))


def test_a_text_config_loads_like_protobufs_own_parser():
    assert sample() == text_format.Parse(TEXT, EasyRecConfig())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_config_loads_and_passes_the_checks(path):
    config.check(config.load(path), required=["train_input_path", "eval_input_path", "model_dir"])


def test_there_is_an_example_for_every_model():
    models = {config.load(path).model_config.WhichOneof("model") for path in EXAMPLES}
    known = EasyRecConfig().model_config.DESCRIPTOR.oneofs_by_name["model"].fields

    assert models == {field.name for field in known if not is_planned(field)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_saved_config_loads_as_it_was(path, tmp_path):
    original = config.load(path)

    config.save(original, tmp_path / "pipeline.config")

    assert config.load(tmp_path / "pipeline.config") == original
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipeline.config"]


def test_odd_characters_survive_a_round_trip():
    original = sample()
    original.model_dir = 'tab\t quote" back\\slash 模型 \x1d'
    original.feature_configs[3].id_feature.vocab_dict["ключ"] = 5

    assert config.loads(config.dumps(original), source="text") == original


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "pipeline.config"
    path.write_text("old")
    (tmp_path / "is_a_folder").mkdir()

    with pytest.raises(OSError, match="is_a_folder"):
        config.save(sample(), tmp_path / "is_a_folder")

    assert path.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["is_a_folder", "pipeline.config"]


@pytest.mark.parametrize("preserve_names", [True, False])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_json_as_protobuf_writes_it_loads_as_the_same_config(path, preserve_names, tmp_path):
    original = config.load(path)
    written = json_format.MessageToJson(original, preserving_proto_field_name=preserve_names)
    # The ending says text; only the content counts.
    (tmp_path / "as_json.config").write_text(written)

    assert config.load(tmp_path / "as_json.config") == original


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "bom.config").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())

    assert config.load(tmp_path / "bom.config") == sample()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"  \n# only a comment\n", "is empty"),
        (b"\x00\x01\x02", "not a config"),
        (b"\xff\xfe\x00\x80", "not a config"),
        (b"hello world, this is a letter", "not a config"),
        (b"[1, 2, 3]", "not a config"),
        (b"model_dir", "not a config"),
        (b"# Title\n\nSome: markdown", "bad.config:3: Some is not supported"),
        (b'{"model_dir": ', "bad.config:1: not valid JSON"),
        (b'{"model_dir": "x"} {', "bad.config:1: not valid JSON"),
    ],
)
def test_a_file_that_is_no_config_is_one_clear_error(content, reason, tmp_path):
    (tmp_path / "bad.config").write_bytes(content)

    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        config.load(tmp_path / "bad.config")

    assert "\n" not in str(error.value)
    assert str(tmp_path / "bad.config") in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.config: the config cannot be read: No such file"):
        config.load(tmp_path / "none.config")


def test_an_unsupported_model_is_refused_with_line_path_and_what_is_supported():
    text = TEXT.replace("    multi_tower {", "    mind { user_tower {} }\n    multi_tower {")
    line = line_of("mind {", text)

    with pytest.raises(ValueError, match="not supported") as error:
        config.loads(text, source="pipeline.config")

    assert str(error.value).startswith(
        f"pipeline.config:{line}: model_config.mind is not supported; supported models: "
        "deepfm, dlrm, mmoe, multi_tower, simple_multi_task, wide_and_deep; other fields: "
    )


def test_all_unknown_fields_are_told_at_once_with_their_indices():
    text = TEXT.replace("hash_bucket_size: 1000", "hash_bucket_sizes: 1000").replace(
        'raw_feature { feature_name: "price"', 'combo_feature { feature_name: "price" x: [1, {}]'
    )

    with pytest.raises(ValueError, match="not supported") as error:
        config.loads(text, source="c")

    first, second = str(error.value).splitlines()
    assert first.startswith(
        f"c:{line_of('combo_feature', text)}: feature_configs[0].combo_feature is not supported; "
        "supported features: id_feature, raw_feature"
    )
    assert second.startswith(
        f"c:{line_of('hash_bucket_sizes', text)}: "
        "feature_configs[1].id_feature.hash_bucket_sizes is not supported "
        "(did you mean hash_bucket_size?); supported fields: "
    )


def test_an_unknown_field_in_json_is_refused_with_line_and_path():
    document = json.loads(json_format.MessageToJson(sample(), preserving_proto_field_name=True))
    document["model_config"]["multi_tower"]["towers"][1]["mlps"] = {"hidden_units": [1]}
    text = json.dumps(document, indent=1)

    with pytest.raises(ValueError, match="not supported") as error:
        config.loads(text, source="c.json")

    assert str(error.value) == (
        f"c.json:{line_of('mlps', text)}: model_config.multi_tower.towers[1].mlps is not supported "
        "(did you mean mlp?); supported fields: input, mlp"
    )


def test_a_missing_bracket_is_hinted_at():
    text = TEXT.replace('    label_fields: "click"\n}', '    label_fields: "click"\n')

    with pytest.raises(ValueError, match=r"data_config\.feature_configs .* bracket missing above"):
        config.loads(text, source="c")


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("batch_size: 64", "batch_size: many", "data_config.batch_size", "integer: many"),
        ("batch_size: 64", "batch_size: -1", "data_config.batch_size", "out of range"),
        ("fg_mode: FG_NORMAL", "fg_mode: FG_X", "data_config.fg_mode", "no value named FG_X"),
        ("num_epochs: 1", "num_epochs: 1 num_epochs: 2", "train_config.num_epochs", "multiple"),
        (
            "vocab_list: [",
            "vocab_list: [3, ",
            "feature_configs[3].id_feature.vocab_list[0]",
            "Expected string",
        ),
        (
            'raw_feature { feature_name: "price"',
            'id_feature {} raw_feature { feature_name: "price"',
            "feature_configs[0].raw_feature",
            "another member of oneof",
        ),
        (
            'input: "item" mlp { hidden_units: [16, 8] }',
            'input: "item" mlp { hidden_units: [16, "8"] }',
            "model_config.multi_tower.towers[1].mlp.hidden_units[1]",
            "integer",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_line_and_path(old, new, path, reason):
    text = TEXT.replace(old, new)
    assert text != TEXT

    with pytest.raises(ValueError, match=reason) as error:
        config.loads(text, source="c")

    assert str(error.value).startswith(f"c:{line_of(new, text)}: {path} cannot be read: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data_config":\n{"batch_size": "many"}}', "c:2: data_config.batch_size is 'many'; must"),
        ('{"data_config":\n{"batch_size": 1.5}}', "c:2: data_config.batch_size is 1.5; must"),
        ('{"data_config":\n{"fg_mode": "X"}}', "c:2: data_config.fg_mode is 'X'; allowed: FG_NONE"),
        ('{"data_config":\n[]}', "c:1: data_config is []; must be a message"),
        ('{"data_config":\n{"label_fields": ["a",\nnull]}}', "c:3: data_config.label_fields[1] is"),
        ('{"model_config":\n{"deepfm": {},\n"dlrm": {}}}', "c:3: model_config.dlrm is set beside"),
        ('{"model_dir": "a",\n"modelDir": "b"}', "c:1: model_dir is set twice"),
        ('{"model_dir": "a",\n"model_dir": "b"}', "c:1: model_dir is set twice"),
        (
            '{"feature_configs": [\n{"id_feature": {"vocab_dict": {"a": -1}}}]}',
            "c:2: feature_configs[0].id_feature.vocab_dict[a] is -1; must be a whole number",
        ),
    ],
)
def test_a_wrong_value_in_json_is_refused_with_line_and_path(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config.loads(text, source="c")


def planned_fields(descriptor, path=(), inside=()):
    """Yields (path of fields) for each planned field that can be reached by unplanned ones."""
    for field in descriptor.fields:
        if is_planned(field):
            yield (*path, field)
        elif field.message_type is not None and not is_map(field):
            assert field.message_type not in inside
            yield from planned_fields(
                field.message_type, (*path, field), (*inside, field.message_type)
            )


PLANNED = list(planned_fields(EasyRecConfig.DESCRIPTOR))


def spelled(path):
    """Returns the text, over several lines, that sets the field at ``path`` to something."""
    *outer, field = path
    value = "2"
    if field.message_type is not None:
        value = "{}"
    elif field.cpp_type == field.CPPTYPE_STRING:
        value = '"x"'
    elif field.cpp_type == field.CPPTYPE_BOOL:
        value = "false" if field.default_value else "true"
    elif field.cpp_type == field.CPPTYPE_ENUM:
        value = next(v.name for v in field.enum_type.values if v.number != field.default_value)
    opened = "".join(f"{step.name} {{\n" for step in outer)
    return f"{opened}{field.name}: {value}{'}' * len(outer)}"


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: ".".join(step.name for step in path))
def test_every_planned_field_is_refused_with_its_line(path):
    dotted = ".".join(step.name + "[0]" * step.is_repeated for step in path)
    dotted = dotted.removesuffix("[0]")

    with pytest.raises(ValueError, match="not supported yet") as error:
        config.loads(spelled(path), source="c")

    assert str(error.value) == f"c:{len(path)}: {dotted} is not supported yet"


def test_a_planned_field_set_to_nothing_is_let_through():
    config.loads(
        'train_config { is_profiling: false cudnn_allow_tf32: true mixed_precision: "" }'
        "feature_configs { id_feature { trainable: true } }",
        source="c",
    )


@pytest.mark.parametrize(
    ("fg_encoded", "fg_mode"), [("true", data_pb2.FG_NONE), ("false", data_pb2.FG_NORMAL)]
)
def test_fg_encoded_becomes_fg_mode_with_one_warning(fg_encoded, fg_mode, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = config.loads(f"data_config {{\n fg_encoded: {fg_encoded} }}", source="old.config")

    assert loaded.data_config.fg_mode == fg_mode
    assert not loaded.data_config.HasField("fg_encoded")
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("old.config:2: data_config.fg_encoded")


def test_fg_encoded_that_contradicts_fg_mode_is_refused():
    with pytest.raises(ValueError, match=r"c:1: data_config\.fg_encoded contradicts fg_mode FG_DA"):
        config.loads("data_config { fg_encoded: true fg_mode: FG_DAG }", source="c")


def test_fg_encoded_beside_the_fg_mode_it_means_changes_nothing():
    loaded = config.loads("data_config { fg_encoded: false fg_mode: FG_DAG }", source="c")

    assert loaded.data_config.fg_mode == data_pb2.FG_DAG


@pytest.mark.parametrize(
    "text",
    [
        'model_dir: "a" "b" \'c\' # three strings are one',
        'model_dir: "a#b{c" ; data_config < batch_size : 3 >',
        "feature_configs: [{ raw_feature { boundaries: [1, 2.5e3, inf] } }, { id_feature {} }]",
        'feature_configs { id_feature { vocab_dict { key: "a" value: 1 } vocab_list: "x" } }',
        "data_config { fg_mode: FG_DAG, batch_size: 0x10, shuffle: True }",
    ],
)
def test_all_spellings_of_the_text_format_are_understood(text):
    assert config.loads(text, source="c") == text_format.Parse(text, EasyRecConfig())


def test_deeply_nested_nonsense_is_an_error_not_a_crash():
    with pytest.raises(ValueError, match="x is not supported"):
        config.loads("x {" * 20_000, source="c")
