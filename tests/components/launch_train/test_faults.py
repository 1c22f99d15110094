"""What an API server may answer, or not, and what becomes of it."""

import socket

import kmock
import pytest
from kubernetes import client, config

from components.launch_train import cluster as clusters
from components.launch_train import life_cycle
from components.launch_train.cluster import Cluster
from components.launch_train.pytorchjob import PYTORCHJOB
from components.steps import StepFailedError
from tests.components.launch_train.fake_cluster import EVENTS, NAMESPACE, PODS, TIME
from tests.components.launch_train.test_life_cycle import (
    NAME,
    begin,
    fail,
    run,
    succeed,
    told,
)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(clusters, "_MAX_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(clusters, "_FIRST_PAUSE_SECONDS", 0.01)


def deny(verb, resource, group=""):
    message = (
        f'{resource} is forbidden: User "system:serviceaccount:{NAMESPACE}:launcher" cannot {verb} '
        f'resource "{resource}" in API group "{group}" in the namespace "{NAMESPACE}"'
    )
    return kmock.KubernetesError(403, "Forbidden", message)


@pytest.mark.parametrize("status", [409, 410, 429, 500, 503, 504])
@pytest.mark.parametrize("action", [kmock.action.CREATE, kmock.action.FETCH])
def test_a_hiccup_of_the_server_costs_one_warning(cluster, caplog, status, action):
    cluster.api[action, cluster.resource][:3] << status
    cluster.script.extend([begin(cluster), succeed(cluster)])

    assert run(cluster) == 1

    warnings = [line for line in told(caplog) if "does not answer" in line]
    assert len(warnings) == 1
    assert str(status) in warnings[0]
    assert "Kubernetes' API server answers again" in told(caplog)


def test_a_server_that_stays_away_ends_the_step_after_a_while(caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and not listening
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{unused.getsockname()[1]}"
        away = Cluster(configuration, NAMESPACE, patience=0.1)
        with pytest.raises(StepFailedError, match=r"has not answered for 0 s: .*refused"):
            away.job(PYTORCHJOB, NAME)

    assert len([line for line in told(caplog) if "does not answer" in line]) == 1
    assert not [record for record in caplog.records if record.name.startswith("urllib3.conn")]


@pytest.mark.parametrize(
    ("action", "verb"), [(kmock.action.FETCH, "get"), (kmock.action.CREATE, "create")]
)
def test_a_missing_right_is_named_and_so_is_the_way_to_get_it(cluster, action, verb):
    cluster.api[action, cluster.resource] << deny(verb, "pytorchjobs", "kubeflow.org")

    with pytest.raises(StepFailedError) as raised:
        run(cluster)

    said = str(raised.value)
    assert f"system:serviceaccount:{NAMESPACE}:launcher may not {verb} pytorchjobs" in said
    assert "deploy/ has a Role" in said
    assert len(cluster.requests("POST")) == (verb == "create")


def test_pods_that_may_not_be_seen_cost_a_warning_and_no_training(cluster, caplog):
    cluster.api[kmock.action.LIST, PODS].override << deny("list", "pods")
    cluster.script.extend([begin(cluster), lambda _: None, succeed(cluster)])

    run(cluster)

    warnings = [line for line in told(caplog) if "launcher may not list pods" in line]
    assert len(warnings) == 1


def test_a_log_that_may_not_be_read_costs_a_warning_and_no_training(cluster, caplog):
    def is_log(request):
        return request.subresource == "log"

    cluster.api[is_log].override << deny("get", "pods/log")
    cluster.script.extend([begin(cluster), lambda _: None, succeed(cluster)])

    run(cluster)

    (warning,) = [line for line in told(caplog) if "pods/log" in line]
    assert warning.startswith("The log cannot be followed")


def test_a_log_that_is_gone_with_its_machine_keeps_nobody_waiting(cluster, caplog):
    def is_log(request):
        return request.subresource == "log"

    def lose(name):
        killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": TIME}}
        cluster.set_pod(name, 1, phase="Failed", state=killed)

    cluster.api[is_log].override << 500
    cluster.script.extend([begin(cluster), lose, fail(cluster)])

    with pytest.raises(StepFailedError, match=r"worker-1: exit code 137, OOMKilled$"):
        run(cluster)
    assert not any("does not answer" in line for line in told(caplog))


def test_a_quota_is_not_taken_for_a_missing_right(cluster):
    message = 'pytorchjobs "x" is forbidden: exceeded quota: team, requested: count=1'
    cluster.api[kmock.action.CREATE, cluster.resource] << kmock.KubernetesError(
        403, "Forbidden", message
    )

    with pytest.raises(StepFailedError) as raised:
        run(cluster)
    assert str(raised.value) == f"Kubernetes does not allow it: {message}"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("the server could not find the requested resource", "{operator} is not installed"),
        ('namespaces "nowhere" not found', 'namespaces "nowhere" not found'),
    ],
)
def test_of_a_404_it_is_said_what_is_missing(either, message, expected):
    either.api[kmock.action.CREATE, either.resource] << kmock.KubernetesError(
        404, "NotFound", message
    )

    with pytest.raises(StepFailedError) as raised:
        run(either)
    assert expected.format(operator=either.kind.operator) in str(raised.value)


@pytest.mark.parametrize("status", [400, 422])
def test_what_a_server_finds_wrong_with_a_job_is_passed_on_at_once(cluster, status):
    message = 'PyTorchJob "x" is invalid: spec.nprocPerNode: Invalid value'
    cluster.api[kmock.action.CREATE, cluster.resource] << kmock.KubernetesError(
        status, "Invalid", message
    )

    with pytest.raises(StepFailedError) as raised:
        run(cluster)
    assert str(raised.value) == f"Kubernetes refuses ({status}): {message}"
    assert len(cluster.requests("POST")) == 1


def test_a_job_is_followed_if_the_answer_to_the_first_of_two_requests_was_lost(cluster, caplog):
    cluster.api[kmock.action.CREATE, cluster.resource] << kmock.KubernetesError(
        409, "AlreadyExists", f'pytorchjobs "{NAME}" already exists'
    )
    cluster.script.extend([begin(cluster), succeed(cluster)])

    run(cluster)

    assert any("is there already, from an earlier attempt" in line for line in told(caplog))
    assert len(cluster.requests("POST")) == 1


def test_an_expired_token_is_an_error_at_once(cluster):
    cluster.api[kmock.action.FETCH, cluster.resource] << kmock.KubernetesError(
        401, "Unauthorized", "Unauthorized"
    )

    with pytest.raises(StepFailedError, match="does not know who is asking"):
        run(cluster)


def test_who_has_been_known_is_let_in_again(cluster, caplog):
    def forget(name):
        raise kmock.KubernetesError(401, "Unauthorized", "Unauthorized")

    cluster.script.extend([begin(cluster), forget, forget, succeed(cluster)])

    assert run(cluster) == 1
    assert any("does not answer, trying again: 401" in line for line in told(caplog))


def test_a_server_that_is_away_for_too_long_is_no_end_of_the_job(cluster, monkeypatch):
    def leave(name):
        cluster.api[kmock.action.FETCH, cluster.resource].override << 503

    monkeypatch.setattr(life_cycle, "_AWAY_SECONDS", 0.1)
    cluster.script.extend([begin(cluster), leave])

    with pytest.raises(
        StepFailedError, match=f"for 0 s: 503.*{NAME} goes on, and the next attempt"
    ):
        run(cluster)
    assert not cluster.requests("DELETE")


def test_a_field_that_a_cluster_does_not_know_is_not_to_be_dropped(either):
    either.script.append(succeed(either))
    run(either)

    (made,) = either.requests("POST")
    assert made.params["fieldValidation"] == "Strict"


def test_events_that_may_not_be_seen_are_left_out(cluster):
    cluster.api[kmock.action.LIST, EVENTS] << deny("list", "events")

    assert cluster.connect().warnings(NAME) == []


def test_of_very_many_events_those_about_a_job_are_found(cluster):
    asked = []

    def page(request):
        asked.append(dict(request.params))
        number = len(asked)
        event = {
            "metadata": {"name": f"e{number}"}, "type": "Warning", "reason": "Failed",
            "message": f"page {number}", "involvedObject": {"name": f"{NAME}-worker-{number}"},
        }  # fmt: skip
        rest = {"continue": f"after {number}"} if number < 3 else {}
        other = {**event, "involvedObject": {"name": "other"}}
        return {"kind": "EventList", "metadata": rest, "items": [event, other]}

    cluster.api[kmock.action.LIST, EVENTS] << page

    found = cluster.connect().warnings(NAME)

    assert [event.message for event in found] == ["page 1", "page 2", "page 3"]
    assert [query.get("continue") for query in asked] == [None, "after 1", "after 2"]
    assert {query["fieldSelector"] for query in asked} == {"type=Warning"}


def test_outside_a_cluster_the_kubeconfig_says_where_to_go(cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = str(cluster.kubeconfig(tmp_path / "config"))
    # The client reads the variable once, when it is imported.
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)

    found = clusters.connect()
    assert found.namespace == NAMESPACE
    assert found.job(PYTORCHJOB, NAME) is None


def test_without_any_cluster_there_is_one_error(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    path = str(tmp_path / "none")
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)

    with pytest.raises(ValueError, match="there is no cluster to train on"):
        clusters.connect()
