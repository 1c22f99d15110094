"""The benchmark of training runs, and its control trains the same model."""

import re

import torch

from benchmarks.train.__main__ import main
from benchmarks.train.control import Control, alone
from benchmarks.train.workers import Product, control_batch, dataset
from benchmarks.train.workload import NUM_SPARSE, make_config, write_rows
from tzrec_core.distributed.ranks import process_group

TABLES = [100] * NUM_SPARSE
UNITS = [16, 8]


def test_control_computes_the_losses_that_the_library_does(tmp_path):
    config = make_config(tmp_path / "rows", TABLES, UNITS)
    write_rows(config, tmp_path / "rows", 256)
    batches = list(dataset(config, 64, None).batches(0))

    with process_group() as ranks:
        job = Product(config, ranks).job
        start = {name: weight.detach().clone() for name, weight in weights(job.model)}
        ours = []
        for batch in batches:
            job.stepper.schedule(step=0, epoch=0)
            job.stepper.zero_grad()
            loss, _ = job.model(next(job.stepper.expected(iter([batch]))))
            loss.backward()
            job.stepper.step()
            ours.append(loss.item())
    with alone():
        control = Control(TABLES, 13, UNITS, 64)
        theirs = weights(control.sharded)
        assert [weight.shape for _, weight in theirs] == [weight.shape for weight in start.values()]
        with torch.no_grad():
            for (_, weight), first in zip(theirs, start.values(), strict=True):
                weight.copy_(first)
        losses = [control.step(control_batch(batch)).item() for batch in batches]

    assert len(set(losses)) == len(batches) == 4
    torch.testing.assert_close(losses, ours)


def weights(model):
    """Tables and layers in the order of the network, which both models have in common."""
    return list(model.named_parameters())


def test_benchmark_prints_numbers_of_everything_it_compares(capsys):
    flags = "--rows 512 --rounds 1 --batch_sizes 128 --precisions fp32 bf16 --table_rows 100"
    flags += " --hidden_units 8 --growth_rows 256 --growth_tables 100"
    main(flags.split())
    output = capsys.readouterr().out

    for line in (
        "model alone, batches in memory",
        "loader alone, from Parquet",
        "training from Parquet",
        "control by hand, in memory",
        "training from Parquet, 2 ranks",
    ):
        assert re.search(rf"^{line} +[\d,]+ +[\d.]+ +[\d.]+ +[\d.]+$", output, re.MULTILINE), line
    assert not re.search(r"\b(nan|inf)\b", output)
    assert re.search(r"^ +256 +[\d,]+ +[\d.]+ +[\d.]+$", output, re.MULTILINE), "rows"
    assert re.search(r"^ +100 +[\d,]+ +[\d.]+ +[\d.]+ +[\d.]+$", output, re.MULTILINE), "tables"
    assert re.search(
        r"^batch 128, bf16: loader / model alone +>= 10 +[\d.]+ ", output, re.MULTILINE
    )
