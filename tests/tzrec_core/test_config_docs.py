"""docs/config.md lists every field that works, with its default."""

import re
from pathlib import Path

import pytest

from tests.tzrec_core.test_schema import SCHEMA, default_of, messages, read_default
from tzrec_core.config import edit, edits_from_json, load
from tzrec_core.config_fields import is_planned
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "config.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
WORKING = messages(EasyRecConfig.DESCRIPTOR, lambda field: not is_planned(field))


@pytest.mark.parametrize("name", sorted(SCHEMA))
def test_the_tables_list_every_field_that_works_with_its_default(name):
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", SECTIONS.get(name, ""), re.MULTILINE)
    documented = {field: read_default(None if text == "-" else text) for field, text in rows}

    working = [field for field in SCHEMA[name].fields if not is_planned(field)]
    assert documented == {field.name: default_of(field) for field in working if name in WORKING}


def test_the_edits_of_the_table_can_be_made():
    edits = re.findall(r"^\| `(\{.*?\})` \|", TEXT, re.MULTILINE)
    example = ROOT / "pipelines" / "configs" / "deepfm_criteo.config"

    assert len(edits) == 11
    for text in edits:
        config = load(example)
        config.feature_configs[4].raw_feature.boundaries[:] = [1, 2, 3]
        before = str(config)
        edit(config, edits_from_json(text))
        assert str(config) != before
