import json
import os
import subprocess
import sys

import pytest
import torch

from tests.tzrec_core import clicks


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_the_model_that_a_cpu_trains(tmp_path):
    """NCCL, FBGEMM's CUDA kernels and the overlapping pipeline against gloo and the plain loop."""
    text = clicks.write(tmp_path, train_rows=64 * 12)
    (tmp_path / "my.config").write_text(text)
    results = {}
    for device, visible in (("cpu", ""), ("cuda", "0")):
        model_dir = tmp_path / device
        subprocess.run(
            [
                sys.executable, "-m", "tzrec_core.train_eval",
                f"--pipeline_config_path={tmp_path / 'my.config'}", f"--model_dir={model_dir}",
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
            check=True,
        )  # fmt: skip
        lines = (model_dir / "train_eval_result.txt").read_text().splitlines()
        results[device] = json.loads(lines[-1])

    assert results["cuda"] == pytest.approx(results["cpu"], abs=1e-3)
