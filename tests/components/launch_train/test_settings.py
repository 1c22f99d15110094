import dataclasses
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from kubernetes.utils import parse_quantity

from components.launch_train.settings import Settings, parse, quantity


@pytest.mark.parametrize(
    ("worker_json", "message"),
    [
        ("{", "worker_json is not JSON"),
        ("[]", r"worker_json must be an object, got '\[\]'"),
        ({"gpus": 1}, "worker_json has no 'gpus'; there are resources, shm_size"),
        ({"resources": 4}, "worker_json.resources must be an object, got 4"),
        ({"resources": {"gpu": 1}}, "worker_json.resources has no 'gpu'"),
        ({"resources": {"memory": "16GB"}}, "worker_json.resources.memory: '16GB' is no quantity"),
        ({"resources": {"cpu": True}}, "worker_json.resources.cpu must be a number or a text"),
        ({"resources": {"cpu": 0}}, "worker_json.resources.cpu must be more than 0"),
        ({"resources": {"nvidia.com/gpu": 0.5}}, r"nvidia.com/gpu must be a whole number, got 0.5"),
        ({"shm_size": "much"}, "worker_json.shm_size: 'much' is no quantity"),
        (
            {"shm_size": "2Gi", "resources": {"memory": "1Gi"}},
            r"shm_size \(2Gi\) is more than the memory of a worker \(1Gi\)",
        ),
        ({"node_selector": {"pool": 1}}, "worker_json.node_selector.pool must be a text, got 1"),
        ({"labels": {"a b": "c"}}, "worker_json.labels.a b is no label"),
        ({"tolerations": {}}, "worker_json.tolerations must be a list"),
        ({"tolerations": [{"keys": "a"}]}, r"worker_json.tolerations\[0\] has no 'keys'"),
        (
            {"tolerations": [{"tolerationSeconds": "60"}]},
            r"tolerations\[0\].tolerationSeconds must be a whole number, got '60'",
        ),
        (
            {"affinity": {"nodeAffinity": {"required": {}}}},
            "worker_json.affinity.nodeAffinity has no 'required'; there are",
        ),
        ({"env": {"A": 1}}, "worker_json.env.A must be a text, got 1"),
        ({"env": {"1A": "x"}}, "'1A' is no name of an environment variable"),
        ({"env": {"PET_NNODES": "2"}}, "worker_json.env.PET_NNODES is the operator's"),
        ({"annotations": {"": "x"}}, "'' is no name of an annotation"),
        ({"image_pull_secrets": "mine"}, "worker_json.image_pull_secrets must be a list of names"),
        ({"image_pull_secrets": ["My"]}, r"image_pull_secrets\[0\] must be the name of an object"),
        ({"service_account": 1}, "worker_json.service_account must be the name of an object"),
        ({"ipc_lock": "yes"}, "worker_json.ipc_lock must be true or false, got 'yes'"),
        ({"min_workers": 0}, "worker_json.min_workers must be a whole number, 1 or more, got 0"),
        ({"max_restarts": "3"}, "worker_json.max_restarts must be a whole number"),
        ({"timeout_seconds": 1.5}, "worker_json.timeout_seconds must be a whole number"),
        ({"scheduling": {"gang": 1}}, "worker_json.scheduling.gang must be true or false"),
        ({"scheduling": {"gangs": True}}, "worker_json.scheduling has no 'gangs'; there is gang"),
    ],
)
def test_a_mistake_is_named_with_its_place(worker_json, message):
    text = worker_json if isinstance(worker_json, str) else json.dumps(worker_json)

    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("text", ["", "{}"])
def test_nothing_needs_to_be_set(text):
    assert parse(text) == Settings()


@pytest.mark.parametrize(
    "text", ["4", "0.5", "500m", "2k", "1.5M", "3G", "1T", "7Ki", "64Mi", "16Gi", "0.5Ti", "1Pi"]
)
def test_a_quantity_is_what_the_official_client_takes_it_for(text):
    assert quantity(text) == Decimal(parse_quantity(text))


def test_the_guide_lists_every_setting_and_no_other():
    guide = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text()
    section = guide.split("\n### worker_json\n")[1].split("\n## ")[0]
    first_columns = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]

    listed = re.findall(r"`(\w+)`", " ".join(first_columns))
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(Settings))
