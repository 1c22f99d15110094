import json
import os
import subprocess
import sys

import pytest
import torch

from tests.tzrec_core import clicks

STEPPING = {
    "train_config.gradient_accumulation_steps": 3,
    "train_config.grad_scaler": "growth_interval: 2",
    "train_config.grad_clipping": 'clipping_type: "norm" max_gradient: 0.5',
    "train_config.dense_optimizer.ema": "decay: 0.5",
    "train_config.dense_optimizer.exponential_decay_learning_rate": "decay_size: 2",
}
IN_BACKGROUND = {
    "train_config.save_checkpoints_async": True,
    "train_config.save_checkpoints_steps": 4,
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "edits", [{}, STEPPING, IN_BACKGROUND], ids=["plain", "stepping", "in background"]
)
def test_a_gpu_trains_the_model_that_a_cpu_trains(tmp_path, edits):
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
                f"--edit_config_json={json.dumps(edits)}",
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
            check=True,
        )  # fmt: skip
        lines = (model_dir / "train_eval_result.txt").read_text().splitlines()
        results[device] = json.loads(lines[-1])

    assert results["cuda"] == pytest.approx(results["cpu"], abs=1e-3)
