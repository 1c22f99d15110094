"""The table and the picture of a config's learning rates."""

import pytest

from tests.tzrec_core.config_sample import TEXT
from tzrec_core.optim.schedules.__main__ import main


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.config"
    text = TEXT.replace("num_epochs: 1", "num_epochs: 3").replace(
        "adam_optimizer { lr: 0.001 }\n        constant_learning_rate {}",
        """adam_optimizer { lr: 0.25 }
        exponential_decay_learning_rate { decay_size: 1 decay_factor: 0.5 by_epoch: true }
        part_optimizers { regex_pattern: ".*bias" sgd_optimizer { lr: 0.125 }
          manual_step_learning_rate { schedule_sizes: 4 learning_rates: 0.5 } }""",
    )
    path.write_text(text)
    return str(path)


def test_the_table_has_a_column_of_rates_for_each_optimizer(config, capsys):
    main([config, "--steps_per_epoch", "2"])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["step", "lr/g0", "sparse", "lr/g1", "dense", "lr/g2", ".*bias"],
        ["1", "0.01", "0.25", "0.125"],
        ["2", "0.01", "0.25", "0.125"],
        ["3", "0.01", "0.125", "0.125"],
        ["4", "0.01", "0.125", "0.125"],
        ["5", "0.01", "0.0625", "0.5"],
        ["6", "0.01", "0.0625", "0.5"],
        ["drawn", "in", "learning_rates.png"],
    ]


def test_the_picture_is_a_png(config, tmp_path):
    main([config, "--steps_per_epoch", "2", "--png", "rates.png"])

    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_training_has_a_short_table(config, capsys):
    main([config, "--steps", "100000", "--steps_per_epoch", "40000", "--png", ""])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 25
    assert lines[1].split()[0] == "1"
    assert lines[-1].split() == ["100000", "0.01", "0.0625", "0.5"]


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--steps", "5"], "--steps_per_epoch must be given"),
        ([], "give --steps or --steps_per_epoch"),
        (["--steps", "0"], "must be > 0"),
        (["--steps_per_epoch", "0"], "--steps_per_epoch must be > 0, got 0"),
    ],
)
def test_what_is_missing_is_an_error(config, flags, error):
    with pytest.raises(ValueError, match=error):
        main([config, *flags])
