"""Opens the pages of a real MLflow server on a finished run; ``make test-pages`` only."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow.pyfunc
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from tests.components.test_steps import Run
from tests.tzrec_core.test_tracking import healthy, server

pytestmark = [pytest.mark.pages, pytest.mark.timeout(900)]

ML = "workflowType=machine_learning"


class Site:
    """A server with a finished run, and how to open its pages."""

    def __init__(self, address, context, experiment, parent, folder):
        self._address = address
        self.context = context
        self._folder = folder
        self.experiment = experiment
        self.parent = parent

    def open(self, path, *, until):
        """Returns the page when ``until`` is to be read on it."""
        page = self.context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{self._address}/{path}")
        page.get_by_text(until).first.wait_for()
        return page

    def of_run(self, page="", query=""):
        return f"#/experiments/{self.experiment}/runs/{self.parent}{page}?{ML}{query}"

    def keep(self, page, name):
        page.screenshot(path=self._folder / f"{name}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """A finished run that a server tracks as long as the tests run, and the server's address."""
    if request.config.option.markexpr != "pages":
        pytest.skip("starts an MLflow server; make test-pages")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        with server(f"sqlite:///{folder / 'mlflow.db'}", port, folder):
            run = Run(folder)
            slices = {"eval_config.slices": [{"column": "age", "max_parts": 2}]}
            run.prepare(edit_config_json=json.dumps(slices))
            run.step("train")
            run.step("evaluate")
            chosen = run.step("select_best")
            run.step("export", checkpoint=chosen["checkpoint"])
            yield run, address


@pytest.fixture
def site(run, browser, tmp_path):
    _, address = run
    client = MlflowClient()
    experiment = client.get_experiment_by_name("steps").experiment_id
    (parent,) = client.search_runs([experiment], "tags.stage = 'pipeline'")
    with browser.new_context(viewport={"width": 1600, "height": 1100}) as context:
        yield Site(address, context, experiment, parent.info.run_id, tmp_path)


def test_the_list_of_experiments_says_what_is_in_ours(site):
    page = site.open("#/experiments", until="Recommender models trained by TZRec Pipelines")
    site.keep(page, "experiments")

    assert page.get_by_role("link", name="steps").count()


def test_the_table_of_runs_has_one_row_with_its_data_and_its_checkpoints(site, run):
    fingerprint = run[0].place.prepared_data().name
    page = site.open(f"#/experiments/{site.experiment}/runs?{ML}", until="multi_tower · 1 epoch")
    page.get_by_text("model-ckpt-").first.wait_for()
    site.keep(page, "runs")
    text = page.inner_text("body")

    assert text.count("multi_tower · 1 epoch") == 1  # steps are folded below it
    assert f"train ({fingerprint})" in text


@pytest.mark.parametrize(
    ("metric", "drawn"), [("train/loss_total", ".js-line"), ("best/auc", ".barlayer path")]
)
def test_charts_draw_curves_and_compare_the_chosen_checkpoints(site, metric, drawn):
    page = site.open(
        f"#/experiments/{site.experiment}/runs?{ML}&compareRunsMode=CHART", until="best/auc"
    )
    page.get_by_placeholder("Search metric charts").fill(metric)
    page.locator(drawn).first.wait_for(state="attached")
    site.keep(page, metric.replace("/", " "))
    path = page.locator(drawn).first.get_attribute("d")

    assert len(re.findall(r"[MLHV]", path)) > 3  # more than a point
    assert metric in page.inner_text("body")


def test_the_page_of_the_run_says_what_was_chosen_and_links_to_the_report(site, run):
    step = json.loads(run[0].place.best.read_text())["global_step"]
    page = site.open(site.of_run(), until=f"step {step}, the ")
    page.get_by_text(f"step {step}, the ").first.scroll_into_view_if_needed()
    site.keep(page, "run")
    text = page.inner_text("body")

    for words in ("95% interval", "Gate: pass", "steps version 1 (champion)", "model-ckpt-"):
        assert words in text
    with site.context.expect_page() as opened:
        page.get_by_role("link", name="report", exact=True).click()
    page = opened.value
    page.get_by_text("report/index.html").first.wait_for()
    report = page.frame_locator("iframe")
    report.get_by_text("Calibration").first.wait_for()
    site.keep(page, "report")
    assert report.locator("svg").count() > 5
    assert "grouped_auc" in report.locator("body").inner_text()


def test_speed_and_memory_have_their_own_page(site):
    page = site.open(site.of_run("/system-metrics"), until="samples_per_second")
    page.locator(".js-line").first.wait_for(state="attached")
    site.keep(page, "system")

    assert page.locator(".js-line").count() >= 4


def test_the_registry_shows_the_version_its_alias_and_its_card(site, run):
    page = site.open("#/models/steps", until="champion")
    assert "Version 1" in page.inner_text("body")
    page = site.open("#/models/steps/versions/1", until="Served model")
    site.keep(page, "version")
    text = page.inner_text("body")

    for title in ("Data", "Metrics", "Slices", "Training", "Features", "95% interval"):
        assert title in text
    card = text[text.index("A multi_tower with") : text.index("SHA-256")]
    assert re.search(r"\d\.\d{5}", card.replace("< -", "").partition("Slices")[0]) is None
    assert run[0].place.prepared_data().name in card


def test_the_champion_is_served_over_http_and_scores_raw_rows(run, tmp_path):
    """As docs/serving.md has it, with the code that the version carries."""
    rows = pq.read_table(run[0].data).slice(0, 40).to_pandas().drop(columns="click")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = str(Path(sys.executable).parent)
    command = [
        f"{programs}/mlflow", "models", "serve", "--model-uri", "models:/steps@champion",
        "--env-manager", "local", "--port", str(port),
    ]  # fmt: skip
    env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "serving.log").open("w") as log:
        serving = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        while not healthy(port):
            assert serving.poll() is None, (tmp_path / "serving.log").read_text()
            time.sleep(0.5)
        sent = json.dumps({"dataframe_records": rows.to_dict("records")}, default=float)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            sent.encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)["predictions"]
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait()

    model = mlflow.pyfunc.load_model("models:/steps@champion")
    pd.testing.assert_frame_equal(pd.DataFrame(answer), model.predict(rows), check_dtype=False)
