"""A job from its making to its end, and what the launcher says and does on the way."""

import signal

import kmock
import pytest

from components.launch_train import life_cycle, replicas
from components.launch_train.job import Job
from components.launch_train.life_cycle import JobRun
from components.steps import StepFailedError
from tests.components.launch_train.fake_cluster import EVENTS, NAMESPACE, TIME, stamped

NAME = "tzrec-a"
RUNNING = {"state": {"running": {"startedAt": TIME}}}


def manifest(cluster, **changes):
    job = Job(
        **{
            "name": NAME, "run_id": "mine", "namespace": NAMESPACE, "image": "img",
            "command": ["train"], "num_workers": 2, "num_processes": 1, "volume": "runs",
            **changes,
        },
    )  # fmt: skip
    return cluster.kind.manifest(job)


def run(cluster, *, is_done=True, timeout=None, **changes):
    """Runs the job; returns how often one was prepared."""
    prepared = []
    JobRun(
        cluster.connect(),
        cluster.kind,
        manifest(cluster, **changes),
        timeout=timeout,
        interval=0.05,
    ).run(is_done=lambda: is_done, prepare=lambda: prepared.append(True))
    return len(prepared)


def ended(exit_code, reason="Error"):
    return {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": TIME}}


def begin(cluster, lines=("Training Epoch 0",)):
    def step(name):
        cluster.holds(name, "Running")
        for index in range(2):
            cluster.set_pod(name, index, lines=[f"{index}: {line}" for line in lines], **RUNNING)

    return step


def succeed(cluster):
    return lambda name: cluster.holds(name, cluster.kind.succeeded)


def fail(cluster, message="it has reached the specified backoff limit"):
    return lambda name: cluster.holds(name, "Failed", message)


def told(caplog):
    return [told.message for told in caplog.records if told.name.startswith("components")]


def test_a_job_is_made_and_followed_to_its_success(either, capsys, caplog):
    either.script.extend([begin(either, ["first", "second"]), succeed(either)])

    assert run(either) == 1

    assert capsys.readouterr().out == "0: first\n0: second\n"
    title = f"{either.kind.name} {NAME}"
    assert told(caplog) == [
        f"Made {title} in namespace {NAMESPACE}",
        f"{title}: Running: as it is",
        f"{title}: 2 of 2 pods run",
        f"{title}: {either.kind.succeeded}: as it is",
    ]
    assert either.job(NAME) is not None
    assert not either.requests("DELETE")


def test_a_failed_job_is_an_error_with_the_last_words_of_each_replica(either, caplog):
    def crash(name):
        traceback = ["Traceback (most recent call last):", "  File x", "ValueError: no such column"]
        either.set_pod(name, 0, phase="Failed", lines=traceback, state=ended(1))
        either.set_pod(name, 1, phase="Failed", lines=["step 7"], state=ended(137, "OOMKilled"))

    either.script.extend([begin(either), crash, fail(either)])

    with pytest.raises(StepFailedError) as raised:
        run(either)

    assert str(raised.value).splitlines() == [
        f"{either.kind.name} {NAME} failed: it has reached the specified backoff limit",
        f"{NAME}-worker-0: exit code 1, Error: ValueError: no such column",
        "    Traceback (most recent call last):",
        "      File x",
        "    ValueError: no such column",
        f"{NAME}-worker-1: exit code 137, OOMKilled: step 7",
        "    step 7",
    ]
    assert f"{NAME}-worker-1: exit code 137, OOMKilled: step 7" in told(caplog)


def test_what_a_replica_said_is_known_even_if_it_is_gone_when_the_job_fails(cluster):
    def crash(name):
        cluster.logs[f"{name}-worker-1", "previous"] = stamped(["RuntimeError: lost"])
        cluster.set_pod(name, 1, restarts=1, lastState=ended(1), **RUNNING)

    def clean_up(name):
        cluster.pods.clear()
        cluster.logs.clear()
        fail(cluster)(name)

    cluster.script.extend([begin(cluster), crash, clean_up])

    with pytest.raises(StepFailedError, match=r"worker-1: exit code 1, Error: RuntimeError: lost"):
        run(cluster)


def test_of_torchruns_log_the_error_of_the_rank_is_told(cluster):
    lines = [
        "error: part-0.parquet: not a readable Parquet file",
        "E1121 17:54:20 9 torch/distributed/elastic/api.py:1] failed (exitcode: 2) local_rank: 0",
        "Traceback (most recent call last):",
        '  File "run.py", line 1, in main',
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "====" * 10,
        *["Root Cause (first observed failure):"] * 40,
    ]

    def crash(name):
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        cluster.logs[f"{name}-worker-0", "previous"] = stamped(lines)
        cluster.set_pod(name, 0, state=waiting, lastState=ended(1))

    cluster.script.extend([begin(cluster), crash, fail(cluster)])

    with pytest.raises(StepFailedError) as raised:
        run(cluster)
    assert str(raised.value).splitlines()[1:] == [
        f"{NAME}-worker-0: exit code 1, Error: part-0.parquet: not a readable Parquet file",
        f"    {lines[0]}",
        f"    {lines[1]}",
    ]


def test_an_evicted_pod_is_named_with_its_reason(cluster):
    def evict(name):
        cluster.set_pod(name, 1, phase="Failed")
        cluster.pods[f"{name}-worker-1"]["status"] |= {
            "reason": "Evicted",
            "message": "disk is full",
        }

    cluster.script.extend([begin(cluster), evict, fail(cluster)])

    with pytest.raises(StepFailedError, match=r"worker-1: Evicted: disk is full"):
        run(cluster)


def test_a_running_job_of_an_earlier_attempt_is_followed_and_taken_over(either):
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "second", "uid": "2"}
    first = {**owner, "name": "first", "uid": "1"}
    either.add_job(manifest(either, owner=first))
    either.script.extend([begin(either), succeed(either)])

    assert run(either, owner=owner) == 0

    assert not either.requests("POST")
    assert either.job(NAME)["metadata"]["ownerReferences"] == [owner]


def test_a_finished_job_of_an_earlier_attempt_is_believed_if_its_work_is_there(either):
    either.add_job(manifest(either))
    either.holds(NAME, either.kind.succeeded)

    assert run(either, is_done=True) == 0

    assert not either.requests("POST")


@pytest.mark.parametrize("condition", ["Failed", "Succeeded"])
def test_a_job_of_an_earlier_attempt_without_its_work_is_made_anew(cluster, condition):
    cluster.add_job(manifest(cluster))
    cluster.holds(NAME, condition)
    cluster.script.extend([lambda name: None, begin(cluster), succeed(cluster)])

    assert run(cluster, is_done=False) == 1

    (deleted,) = cluster.requests("DELETE", NAME)
    assert deleted.params["propagationPolicy"] == "Foreground"
    assert len(cluster.requests("POST")) == 1


def test_a_job_that_is_being_deleted_is_waited_for(cluster):
    cluster.add_job(manifest(cluster))
    cluster.change_job(NAME, metadata={"deletionTimestamp": TIME})
    cluster.script.extend([lambda _: None, cluster.delete_job, begin(cluster), succeed(cluster)])

    assert run(cluster) == 1


def owner_of(cluster, name, phase):
    """Makes a pod and returns the reference to it."""
    cluster.pods[name] = {
        "metadata": {"name": name, "uid": "7", "labels": {}, "creationTimestamp": TIME},
        "status": {"phase": phase},
    }
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "7"}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", None])
def test_a_job_that_an_earlier_run_has_left_behind_is_stopped_and_made_anew(either, caplog, phase):
    owner = owner_of(either, "theirs", phase)
    if phase is None:  # another pod has the name now
        owner_of(either, "theirs", "Running")
        owner["uid"] = "6"
    either.add_job(manifest(either, owner=owner, run_id="theirs"))
    either.script.extend([begin(either), lambda _: None, begin(either), succeed(either)])

    assert run(either) == 1

    assert len(either.requests("DELETE", NAME)) == 1
    annotations = either.job(NAME)["metadata"]["annotations"]
    assert annotations == {"tzrec.pipelines/run": "mine"}
    assert any("is of pipeline run theirs, whose launcher is gone" in line for line in told(caplog))


def test_a_job_that_another_run_watches_is_left_alone(either):
    owner = owner_of(either, "theirs", "Running")
    either.add_job(manifest(either, owner=owner, run_id="theirs"))
    either.script.append(begin(either))

    with pytest.raises(StepFailedError, match="theirs, which watches it from pod theirs: one tr"):
        run(either)

    assert not either.requests("DELETE")
    assert not either.requests("POST")


def test_a_job_of_another_run_that_may_be_watched_from_anywhere_is_left_alone(either):
    either.add_job(manifest(either, run_id="theirs"))
    either.script.append(begin(either))

    with pytest.raises(StepFailedError, match="run theirs, which watches it from another machine"):
        run(either)

    assert not either.requests("DELETE")


def test_of_two_runs_that_make_a_job_at_once_one_is_refused(cluster):
    def overtake(request):
        if (
            cluster.job(NAME)["metadata"].get("annotations", {}).get("tzrec.pipelines/run")
            == "mine"
        ):
            owner = owner_of(cluster, "theirs", "Running")
            theirs = manifest(cluster, owner=owner, run_id="theirs")
            cluster.change_job(NAME, metadata=theirs["metadata"])
        raise kmock.KubernetesError(409, "AlreadyExists", "already exists")

    cluster.api[kmock.action.CREATE, cluster.resource] << overtake

    with pytest.raises(StepFailedError, match="watches it from pod theirs"):
        run(cluster, owner=owner_of(cluster, "mine", "Running"))

    (owner,) = cluster.job(NAME)["metadata"]["ownerReferences"]
    assert owner["name"] == "theirs"
    assert not cluster.requests("DELETE")


def test_a_job_that_somebody_deletes_is_an_error(cluster):
    cluster.script.extend([begin(cluster), cluster.delete_job])

    with pytest.raises(StepFailedError, match=f"{NAME} was deleted by somebody else"):
        run(cluster, is_done=False)


def test_a_job_that_is_deleted_as_soon_as_it_has_ended_is_a_success(cluster):
    cluster.script.extend([begin(cluster), cluster.delete_job])

    assert run(cluster, is_done=True) == 1


def test_another_job_of_the_same_name_is_not_taken_for_it(cluster):
    def replace(name):
        cluster.change_job(name, metadata={"uid": "another"})

    cluster.script.extend([begin(cluster), replace])

    with pytest.raises(StepFailedError, match="deleted by somebody else"):
        run(cluster, is_done=False)


def test_a_job_that_takes_too_long_is_deleted(either):
    either.script.append(begin(either))

    with pytest.raises(StepFailedError, match=r"not finished after 10 s, and is deleted"):
        run(either, timeout=10)  # it began when 2026 did

    assert either.job(NAME) is None


def test_time_in_a_queue_does_not_count(cluster):
    suspended = {"type": "Suspended", "status": "True", "lastTransitionTime": TIME}

    assert life_cycle.seconds_of({"metadata": {"creationTimestamp": TIME}}) > 10
    job = {"metadata": {"creationTimestamp": TIME}, "status": {"conditions": [suspended]}}
    assert life_cycle.seconds_of(job) == 0
    suspended["status"] = "False"
    assert life_cycle.seconds_of(job) > 10


@pytest.mark.parametrize("exception", [SystemExit(143), KeyboardInterrupt()], ids=repr)
def test_a_launcher_that_is_told_to_stop_deletes_its_job(cluster, exception):
    def stop(name):
        raise exception

    handler = signal.getsignal(signal.SIGTERM)
    job = JobRun(cluster.connect(), cluster.kind, manifest(cluster), timeout=None, interval=0.05)
    try:
        with pytest.raises(type(exception)):
            job.run(is_done=lambda: True, prepare=lambda: stop(NAME))
    finally:
        signal.signal(signal.SIGTERM, handler)

    assert len(cluster.requests("DELETE", NAME)) == 1


def test_pods_that_do_not_start_are_told_of_with_their_reasons(cluster, caplog, monkeypatch):
    monkeypatch.setattr(life_cycle, "_QUIET_SECONDS", 0.01)
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unscheduled = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
    }  # fmt: skip

    def pending(name):
        cluster.holds(name, "Created")
        cluster.set_pod(name, 0, phase="Pending")
        cluster.pods[f"{name}-worker-0"]["status"]["conditions"] = [unscheduled]
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        cluster.set_pod(name, 1, phase="Pending", state={"waiting": waiting})
        cluster.api.objects[EVENTS, NAMESPACE, "event"] = {
            "metadata": {"name": "event"}, "type": "Warning", "reason": "Failed",
            "message": "pull access denied", "lastTimestamp": TIME,
            "involvedObject": {"kind": "Pod", "name": f"{name}-worker-1"},
        }  # fmt: skip

    cluster.script.extend([pending, lambda _: None, lambda _: None, succeed(cluster)])
    run(cluster)

    assert f"{NAME}-worker-1 is Pending: ImagePullBackOff: no such image" in told(caplog)
    (quiet, *_) = [line for line in told(caplog) if "has waited for pods" in line]
    assert f"{NAME}-worker-0 is Pending: Unschedulable: {message}" in quiet
    assert f"Pod {NAME}-worker-1: Failed: pull access denied" in quiet


def test_a_job_that_nobody_looks_after_is_told_of(either, caplog, monkeypatch):
    monkeypatch.setattr(life_cycle, "_QUIET_SECONDS", 0.01)
    either.script.extend([lambda _: None] * 3 + [succeed(either)])
    run(either)

    (quiet, *_) = [line for line in told(caplog) if "has waited for pods" in line]
    assert f"nobody looks after it: is {either.kind.operator} running?" in quiet


def test_a_suspended_job_is_told_of_as_one_in_a_queue(cluster, caplog, monkeypatch):
    monkeypatch.setattr(life_cycle, "_QUIET_SECONDS", 0.01)
    wait = [lambda name: cluster.holds(name, "Suspended")] * 3
    cluster.script.extend([*wait, succeed(cluster)])
    run(cluster)

    assert any("a queue has not admitted it" in line for line in told(caplog))


def test_a_log_is_shown_once_over_a_restart_of_its_container(cluster, capsys):
    def restart(name):
        first = f"{name}-worker-0"
        cluster.logs[first, "previous"] = stamped(["0: one", "0: two", "0: last words"])
        cluster.set_pod(name, 0, restarts=1, lastState=ended(1), **RUNNING)
        cluster.logs[first, "current"] = stamped(["again"], start=3)

    pauses = [lambda _: None] * 4
    cluster.script.extend(
        [begin(cluster, ["one", "two"]), *pauses, restart, *pauses, succeed(cluster)]
    )
    run(cluster)

    assert capsys.readouterr().out == "0: one\n0: two\n0: last words\nagain\n"


def test_a_pod_that_no_node_has_room_for_is_told_of_though_others_run(cluster, caplog, monkeypatch):
    monkeypatch.setattr(life_cycle, "_QUIET_SECONDS", 0.01)

    def half(name):
        begin(cluster)(name)
        cluster.set_pod(name, 1, phase="Pending")

    cluster.script.extend([half, *[lambda _: None] * 3, begin(cluster), succeed(cluster)])
    run(cluster)

    (quiet, *_) = [line for line in told(caplog) if "has waited for pods" in line]
    assert f"{NAME}-worker-1 is Pending" in quiet
    assert f"{NAME}-worker-0" not in quiet


def test_nobody_asks_for_logs_of_pods_that_are_gone(cluster, monkeypatch, capsys):
    monkeypatch.setattr(replicas, "_MAX_LOGS", 2)

    def again(name):  # a Job gives restarted pods other names
        cluster.pods = {
            f"{old}-b": {**pod, "metadata": {**pod["metadata"], "name": f"{old}-b", "uid": old}}
            for old, pod in cluster.pods.items()
        }
        cluster.logs = {(f"{pod}-b", which): log for (pod, which), log in cluster.logs.items()}

    def lose(name):
        cluster.set_pod(name, 1, phase="Failed", state=ended(1))
        failed = cluster.pods.pop(f"{name}-worker-1")
        cluster.pods[f"{name}-worker-1-b"]["status"] = failed["status"]

    pauses = [lambda _: None] * 4
    cluster.script.extend([begin(cluster), *pauses, again, *pauses, lose, *pauses, fail(cluster)])

    with pytest.raises(StepFailedError, match=r"worker-1-b: exit code 1, Error: 1: Training Epoch"):
        run(cluster)

    asked = [request.name for request in cluster.log_requests if "tailLines" not in request.params]
    assert f"{NAME}-worker-1-b" in asked
    assert not [name for name in asked[asked.index(f"{NAME}-worker-1-b") + 4 :] if "-b" not in name]
