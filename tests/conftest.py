import shutil
import signal

import pytest
import torch

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")

# Who is started in the background, or by nohup, ignores these two, and so would all that tests
# start in order to interrupt it. What is handled is not handed on.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def _seed():
    """Makes every test's random weights the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def browser(request):
    """Headless Chromium; ``make test-pages`` installs it, and then no test of a page is skipped."""
    asked_for = request.config.option.markexpr == "pages"
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        reason = "NOT TESTED IN A BROWSER: there is none; make test-pages installs it"
        pytest.fail(reason) if asked_for else pytest.skip(reason)
    with sync_playwright() as playwright:
        # As root there is no sandbox; the pages are our own.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
