import json
import shutil
import socket
import socketserver
import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.programs import BEYOND_SERVING, run_without
from tests.tzrec_core import clicks
from tests.tzrec_core.exporting.test_exporter import export, train
from tests.tzrec_core.test_tracking import server
from tzrec_core.checkpoints import checkpoint
from tzrec_core.exporting import pyfunc_model
from tzrec_core.exporting.directory import resolve
from tzrec_core.exporting.registry import EXPORT_TAG, Registered, champion, register
from tzrec_core.exporting.scorer import Scorer
from tzrec_core.mlflow_run import model_name

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with ``eval.parquet`` and an export."""
    folder = tmp_path_factory.mktemp("registered")
    text = clicks.write(folder, train_rows=64 * 4)
    train(text)
    export(text, checkpoint.latest(folder / "model"), folder / "export")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient()


@pytest.fixture
def run_id(client, tmp_path):
    location = (tmp_path / "artifacts").as_uri()
    experiment_id = client.create_experiment(tmp_path.name, artifact_location=location)
    return client.create_run(experiment_id).info.run_id


def put(client, run_id, exported, *, name, export_id="1", alias="", limit=2**30):
    return register(
        client,
        run_id,
        name=name,
        export_dir=exported / "export",
        export_id=export_id,
        tags={"global_step": 8},
        alias=alias,
        max_copied_bytes=limit,
    )


def numbers_of(client, name):
    return sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))


def test_an_export_becomes_one_version_however_often_it_is_registered(client, run_id, exported):
    first, again = (put(client, run_id, exported, name="once") for _ in range(2))

    assert first == again == Registered("once", "1", "champion")
    assert numbers_of(client, "once") == [1]
    version = client.get_model_version("once", "1")
    assert version.run_id == run_id
    assert version.tags[EXPORT_TAG] == "1"
    assert version.tags["global_step"] == "8"
    assert version.tags["export.stored"] == "copied"
    assert version.description == (exported / "export" / "model_card.md").read_text()


def test_a_card_that_is_too_long_for_mlflow_says_where_it_goes_on(
    client, run_id, exported, tmp_path
):
    shutil.copytree(exported / "export", tmp_path / "export")
    card = "".join(f"line {number}\n" for number in range(1000))
    (tmp_path / "export" / "model_card.md").write_text(card)

    put(client, run_id, tmp_path, name="long")

    description = client.get_model_version("long", "1").description
    shown, _, rest = description.rpartition("\n\n")
    assert len(description) <= 5000
    assert rest == "… continued in model_card.md"
    assert card.startswith(shown + "\n")
    assert len(shown) > 4900


def test_the_first_version_is_champion_and_the_newest_other_one_challenger(
    client, run_id, exported
):
    aliases = [
        put(client, run_id, exported, name="many", export_id=export_id).alias
        for export_id in ("a", "b", "c", "b", "a")
    ]

    assert aliases == ["champion", "challenger", "challenger", "", "champion"]
    held = client.get_registered_model("many").aliases
    assert {alias: int(number) for alias, number in held.items()} == {
        "champion": 1, "challenger": 3,
    }  # fmt: skip


def test_a_version_gets_the_alias_that_is_asked_for_also_from_a_newer_one(client, run_id, exported):
    names = {"name": "promoted", "alias": "champion"}
    put(client, run_id, exported, export_id="a", name="promoted")
    put(client, run_id, exported, export_id="b", name="promoted")

    for export_id, number in (("b", 2), ("a", 1)):
        assert put(client, run_id, exported, export_id=export_id, **names).alias == "champion"
        held = client.get_model_version_by_alias("promoted", "champion")
        assert int(held.version) == number


def test_without_an_alias_a_version_older_than_the_champion_gets_none(client, run_id, exported):
    for export_id in ("a", "b"):
        put(client, run_id, exported, export_id=export_id, name="older")
    put(client, run_id, exported, export_id="b", name="older", alias="champion")
    client.delete_registered_model_alias("older", "challenger")

    assert put(client, run_id, exported, export_id="a", name="older").alias == ""
    held = client.get_registered_model("older").aliases
    assert {alias: int(number) for alias, number in held.items()} == {"champion": 2}


def test_a_registered_model_scores_raw_rows(client, run_id, exported):
    put(client, run_id, exported, name="scores")
    rows = pq.read_table(exported / "eval.parquet").slice(0, 50)
    frame = rows.to_pandas().set_index(np.arange(50) * 3)

    scores = mlflow.pyfunc.load_model("models:/scores@champion").predict(frame)

    expected = Scorer(exported / "export").score(rows)
    assert list(scores.columns) == ["logits", "probs"]
    assert scores.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(scores["probs"], expected["probs"].numpy())
    np.testing.assert_array_equal(scores["logits"], expected["logits"].squeeze(1).numpy())


def test_a_registered_model_brings_its_own_code_and_needs_no_torchrec(
    client, run_id, exported, tmp_path
):
    put(client, run_id, exported, name="alone")
    local = mlflow.artifacts.download_artifacts("models:/alone@champion", dst_path=str(tmp_path))
    program = f"""
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model({local!r})
print(len(model.predict(pd.read_parquet({str(exported / "eval.parquet")!r}))))
import tzrec_core
print(tzrec_core.__file__)
"""
    num_rows, module = run_without(BEYOND_SERVING, program, cwd=tmp_path).split()

    assert int(num_rows) == 150
    assert module == str(Path(local) / "code" / "tzrec_core" / "__init__.py")
    required = (Path(local) / "requirements.txt").read_text()
    assert "torch==" in required
    assert "+" not in required
    assert "torchrec" not in required


@pytest.mark.parametrize("has_uploaded", [False, True])
def test_a_registration_that_was_killed_is_finished_and_leaves_no_second_model(
    client, run_id, exported, has_uploaded
):
    experiment, name = client.get_run(run_id).info.experiment_id, f"killed {has_uploaded}"
    if has_uploaded:
        put(client, run_id, exported, name=name)
        client.delete_model_version(name, "1")
    else:
        client.create_logged_model(
            experiment, name=name, source_run_id=run_id,
            tags={EXPORT_TAG: "1", "export.stored": "copied"},
        )  # fmt: skip
    (left,) = client.search_logged_models([experiment])

    number = put(client, run_id, exported, name=name).version

    (model,) = client.search_logged_models([experiment])
    assert (model.model_id == left.model_id) is has_uploaded
    assert model.status.value == "READY"
    assert client.get_model_version(name, number).source == f"models:/{model.model_id}"
    assert mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    put(client, run_id, exported, name=f"{name} by reference", limit=1)
    assert len(client.search_logged_models([experiment])) == 2  # a copy is no reference


@pytest.mark.parametrize(("name", "limit"), [("copied", 2**30), ("referred to", 1)])
def test_the_export_of_the_champion_can_be_had_again(
    client, run_id, exported, tmp_path, name, limit
):
    (tmp_path / "copy").mkdir()
    assert champion(client, name, tmp_path / "copy") is None
    put(client, run_id, exported, name=name, limit=limit)

    version, files = champion(client, name, tmp_path / "copy")

    folder = resolve(files)
    assert version == "1"
    assert (folder == exported / "export") is (limit == 1)
    model = (exported / "export" / "scripted_model.pt").read_bytes()
    assert (folder / "scripted_model.pt").read_bytes() == model


def test_a_large_model_is_registered_by_reference(client, run_id, exported, tmp_path):
    put(client, run_id, exported, name="large", limit=1)
    rows = pq.read_table(exported / "eval.parquet").to_pandas()

    assert client.get_model_version("large", "1").tags["export.stored"] == "by reference"
    copied = {path.name for path in (tmp_path / "artifacts").rglob("*")}
    assert {"reference.json", "model_card.md", "features.json"} <= copied
    assert "scripted_model.pt" not in copied
    scores = mlflow.pyfunc.load_model("models:/large@champion").predict(rows)
    np.testing.assert_array_equal(
        scores["probs"], mlflow_of(exported / "export").predict(rows)["probs"]
    )


def test_a_reference_to_what_is_gone_or_has_changed_is_refused(exported, tmp_path):
    model = tmp_path / "scripted_model.pt"
    where = {"path": str(tmp_path), "sha256": "0" * 64}
    (tmp_path / "reference.json").write_text(json.dumps(where))

    with pytest.raises(ValueError, match=rf"model\.pt is not there; .*--mount {tmp_path}`"):
        mlflow_of(tmp_path)
    model.write_bytes((exported / "export" / "scripted_model.pt").read_bytes())
    with pytest.raises(ValueError, match=r"scripted_model\.pt is another one now"):
        mlflow_of(tmp_path)


def mlflow_of(folder):
    return pyfunc_model._load_pyfunc(str(folder))


def test_every_name_becomes_one_that_mlflow_accepts(client):
    for i, name in enumerate(["a/b:c", 'it\'s 100% "new"', "".join(map(chr, range(32, 127)))]):
        client.create_registered_model(f"{model_name(name)}{i}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class SlowWithModels(socketserver.BaseRequestHandler):
    """Hands bytes on to the server at ``behind``, a request for a model's file after 4 seconds."""

    behind = ("127.0.0.1", 0)

    def handle(self):
        with socket.create_connection(self.behind) as behind:
            threading.Thread(target=hand_on, args=(behind, self.request), daemon=True).start()
            while sent := self.request.recv(1 << 16):
                if b"scripted_model.pt HTTP/" in sent:
                    time.sleep(4)
                behind.sendall(sent)


def hand_on(source, target):
    with suppress(OSError):  # either end may close its side
        while received := source.recv(1 << 16):
            target.sendall(received)
        target.shutdown(socket.SHUT_RDWR)


def test_what_was_registered_on_a_slow_server_is_loaded_from_it(
    client, exported, store, tmp_path, monkeypatch
):
    port = free_port()
    monkeypatch.setattr(SlowWithModels, "behind", ("127.0.0.1", port))
    rows = pq.read_table(exported / "eval.parquet").slice(0, 3)
    slow = socketserver.ThreadingTCPServer(("127.0.0.1", 0), SlowWithModels)
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    with server(store, port, tmp_path):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{slow.server_address[1]}")
        remote = MlflowClient()
        run_id = remote.create_run(remote.create_experiment("remote")).info.run_id
        # Patience is for files only: a server that does not answer is noticed soon.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        put(remote, run_id, exported, name="remote")
        number, files = champion(remote, "remote", tmp_path)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        model = mlflow.pyfunc.load_model("models:/remote@champion")
    slow.shutdown()
    slow.server_close()

    expected = Scorer(exported / "export").score(rows)["probs"].tolist()
    assert model.predict(rows.to_pandas())["probs"].tolist() == expected
    assert number == "1"
    assert Scorer(files).score(rows)["probs"].tolist() == expected
