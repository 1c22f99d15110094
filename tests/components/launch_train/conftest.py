import logging

import pytest

from components.launch_train.pytorchjob import PYTORCHJOB
from components.launch_train.trainjob import TRAINJOB
from tests.components.launch_train.fake_cluster import FakeCluster

# Its server writes a line for each request from a thread of its own, also after a test has ended.
logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


@pytest.fixture(params=[PYTORCHJOB, TRAINJOB], ids=lambda kind: kind.name)
def either(request):
    """A cluster with jobs of one kind, and one with jobs of the other."""
    with FakeCluster(request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster():
    with FakeCluster() as cluster:
        yield cluster
