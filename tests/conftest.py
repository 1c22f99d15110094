import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Makes every test's random weights the same in every run."""
    torch.manual_seed(0)
