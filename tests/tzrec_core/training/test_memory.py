import psutil
import pytest
import torch

from tzrec_core.training.memory import memory_in_use

CPU = torch.device("cpu")


def test_memory_that_was_in_use_stays_in_the_peak():
    before = memory_in_use(CPU)
    assert before["host_gib"] == pytest.approx(psutil.Process().memory_info().rss / 2**30, rel=0.05)

    taken = bytearray(b"x" * 2**28)
    during = memory_in_use(CPU)
    del taken
    after = memory_in_use(CPU)

    assert during["host_gib"] - before["host_gib"] > 0.2
    assert during["host_gib"] - after["host_gib"] > 0.2
    assert after["host_peak_gib"] >= during["host_gib"] - 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_counts_what_tensors_take():
    device = torch.device("cuda", torch.cuda.current_device())
    before = memory_in_use(device)

    taken = torch.empty(2**28, dtype=torch.uint8, device=device)
    during = memory_in_use(device)
    del taken

    assert during["device_gib"] - before["device_gib"] == pytest.approx(0.25)
    assert memory_in_use(device)["device_gib"] == before["device_gib"]
    assert memory_in_use(device)["device_peak_gib"] >= during["device_gib"]
