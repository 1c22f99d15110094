import shutil

import pytest
import torch

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


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
