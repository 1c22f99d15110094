import json
import subprocess
import sys

import pytest

from components import cli, steps

CLI = [sys.executable, "-m", "components.cli"]


def run(*arguments, cwd):
    return subprocess.run([*CLI, *arguments], text=True, capture_output=True, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["train"], "required: --run_dir"),
        (["train", "--run_dir", "x", "--num_proc", "2"], "unrecognized arguments: --num_proc 2"),
        (["train", "--run_dir", "x", "--num_processes", "two"], "invalid int value: 'two'"),
        (["train", "--run_dir", ""], "error: run_dir is empty"),
        (["train", "--run_dir", "x", "--num_processes", "0"], "at least 1, got 0"),
        (["train", "--run_dir", "x"], "run prepare_data on this run_dir first"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing_behind(
    arguments, message, tmp_path
):
    ended = run(*arguments, cwd=tmp_path)

    assert ended.returncode == 2
    errors = [line for line in ended.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["train"])
def test_help_describes_the_flags(step, tmp_path):
    shown = run(step, "--help", cwd=tmp_path)

    assert shown.returncode == 0
    assert "--num_processes" in shown.stdout
    assert "Ranks on this machine." in shown.stdout


def test_help_names_the_steps(tmp_path):
    shown = run("--help", cwd=tmp_path)

    assert ",".join(steps.STEPS) in shown.stdout


def test_a_result_is_printed_as_json_without_long_lists(monkeypatch, capsys):
    def double(*, count: int = 1):
        return {"count": 2 * count, "roc": {"points": [1] * 1000, "area": 0.5}}

    monkeypatch.setattr(steps, "load", lambda name: double)
    cli.main(["train", "--count=3"])

    assert json.loads(capsys.readouterr().out) == {"count": 6, "roc": {"area": 0.5}}


def test_a_list_is_given_as_json(capsys):
    def step(*, parts: list = [0]):  # noqa: B006
        """Has a list."""

    assert cli.flags(step).parse_args(["--parts=[0, 2]"]).parts == [0, 2]
    assert cli.flags(step).parse_args([]).parts == [0]
    for wrong in ("0,1", "1", '{"a": 1}'):
        with pytest.raises(SystemExit):
            cli.flags(step).parse_args([f"--parts={wrong}"])
        assert (
            f"must be a list in JSON, as [0, 1], got '{wrong}'"
            in capsys.readouterr().err.replace("\n", "")
        )
