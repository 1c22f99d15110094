import subprocess
import sys

import pytest

PIPELINES = [sys.executable, "-m", "pipelines"]


def run(*arguments, cwd):
    return subprocess.run([*PIPELINES, *arguments], text=True, capture_output=True, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "pipeline_config"], "form name=value, got 'pipeline_config'"),
        (["run", "seed=1", "seed=2"], "parameter seed is given twice"),
        (["run", "--yaml=none.yaml"], "none.yaml cannot be read"),
        (["run", "--run", "subprocess"], "unrecognized arguments: --run"),
        (["run", "--runner=podman"], "invalid choice: 'podman'"),
        (["run", "--mount=x", "pipeline_config=x"], "needs --runner docker"),
        (["run", "pipeline_config=x", "num_workers=2"], "no effect with launcher=local"),
        (["run", "pipeline_config=x", "launcher=mpijob"], "got 'mpijob'"),
        (["demo", "--rows=many"], "invalid int value: 'many'"),
        (["demo", "--min_share=85"], "--min_share must be from 0 to 1, got 85"),
        (["train"], "invalid choice: 'train'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    ended = run(*arguments, cwd=tmp_path)

    assert ended.returncode == 2
    (error,) = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert message in error
    assert "Traceback" not in ended.stderr


def test_a_step_that_fails_fails_the_command_with_the_steps_own_error(tmp_path):
    (tmp_path / "bad.config").write_text("train_config {\n  num_stepz: 1\n}\n")
    ended = run("run", "pipeline_config=bad.config", "train_input_path=x", cwd=tmp_path)

    assert ended.returncode == 1
    (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: prepare-data failed: bad.config:2: ")
    assert "num_stepz" in error
    assert not (tmp_path / "mlflow.db").exists()  # nothing was done that could be tracked
