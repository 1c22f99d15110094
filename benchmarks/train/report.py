"""What the rounds of a benchmark come to: medians, ratios within rounds, and targets."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.train.operators import Share
from benchmarks.train.processes import Outcome

MODEL = "model alone, batches in memory"
LOADER = "loader alone, from Parquet"
TRAINING = "training from Parquet"
CONTROL = "control by hand, in memory"
GEMM = "matrix product"
SIDES = (MODEL, LOADER, TRAINING, CONTROL)


@dataclass
class Rounds:
    """The outcomes of each side, round by round."""

    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def add(self, side: str, outcome: Outcome) -> None:
        """Adds a side's outcome of the latest round."""
        self.outcomes.setdefault(side, []).append(outcome)

    def rate(self, side: str) -> float:
        """Returns work per second."""
        return median(outcome.work / outcome.wall for outcome in self.outcomes[side])

    def cpu(self, side: str) -> float:
        """Returns CPU-seconds per million samples."""
        return median(outcome.cpu / outcome.work * 1e6 for outcome in self.outcomes[side])

    def peak_gib(self, side: str) -> float:
        """Returns the largest amount of memory."""
        return max(outcome.peak_gib for outcome in self.outcomes[side])

    def rate_ratio(self, side: str, base: str) -> float:
        """Returns how many times as fast as ``base`` a side is, in the same round."""
        return self._ratio(side, base, lambda outcome: outcome.work / outcome.wall)

    def cpu_ratio(self, side: str, base: str) -> float:
        """Returns how many times the CPU time of ``base`` a side takes for a sample."""
        return self._ratio(side, base, lambda outcome: outcome.cpu / outcome.work)

    def _ratio(self, side: str, base: str, value: Callable[[Outcome], float]) -> float:
        pairs = zip(self.outcomes[side], self.outcomes[base], strict=True)
        return median(value(one) / value(other) for one, other in pairs)


@dataclass(frozen=True)
class Setting:
    """What a table is about."""

    batch_size: int
    precision: str


@dataclass(frozen=True)
class Target:
    """A number that is to be reached."""

    name: str
    reached: float
    at_least: float = -math.inf
    at_most: float = math.inf


def print_rounds(title: str, rounds: Rounds, *, base: str) -> None:
    """Prints a line for each side, with its speed relative to ``base``."""
    print(f"\n{title:38}{'samples/s':>11}{'ratio':>8}{'CPU-s per M':>13}{'peak GiB':>10}")
    for side in rounds.outcomes:
        if side != GEMM:
            print(
                f"{side:38}{rounds.rate(side):11,.0f}{rounds.rate_ratio(side, base):8.2f}"
                f"{rounds.cpu(side):13.2f}{rounds.peak_gib(side):10.2f}"
            )


def print_gemm(rounds: Rounds, flops: int) -> None:
    """Prints what the matrix products of a sample would take at the speed of products alone."""
    peak = rounds.rate(GEMM)
    cpu = rounds.cpu(GEMM) * flops
    print(
        f"matrix products: {flops / 1e6:.2f} MFLOP a sample, at most {peak / flops:,.0f} samples/s "
        f"at the {peak / 1e9:,.0f} GFLOP/s measured;\nof that peak the model reaches "
        f"{rounds.rate(MODEL) * flops / peak:.0%}; of its CPU time they need {cpu:.1f} s per M, "
        f"{cpu / rounds.cpu(MODEL):.0%}"
    )


def print_shares(title: str, shares: Sequence[Share]) -> None:
    """Prints the ten most expensive operators."""
    print(f"\n{title:50}{'share':>8}{'calls':>8}")
    for name, share, calls in shares[:10]:
        print(f"{name[:48]:50}{share:8.1%}{calls:8}")


def targets(tables: Mapping[Setting, Rounds]) -> Iterator[Target]:
    """Yields what the numbers on a CPU are held to; CPU time is that of the largest batches."""
    largest = max(setting.batch_size for setting in tables)
    for setting, rounds in tables.items():
        where = f"batch {setting.batch_size}, {setting.precision}"
        yield Target(
            f"{where}: training / model alone",
            rounds.rate_ratio(TRAINING, MODEL),
            at_least=0.9,
        )
        yield Target(
            f"{where}: loader / model alone", rounds.rate_ratio(LOADER, MODEL), at_least=10
        )
        yield Target(
            f"{where}: CPU of model / control", rounds.cpu_ratio(MODEL, CONTROL), at_most=1.05
        )
        limit = {"fp32": 36.0, "bf16": 22.0}.get(setting.precision)
        if setting.batch_size == largest and limit is not None:
            yield Target(f"{where}: CPU-s per M of training", rounds.cpu(TRAINING), at_most=limit)


def print_targets(found: Iterator[Target]) -> None:
    """Prints which targets are met."""
    print(f"\n{'target':45}{'limit':>10}{'reached':>10}  ok")
    for target in found:
        is_met = target.at_least <= target.reached <= target.at_most
        at_least = math.isfinite(target.at_least)
        limit = f">= {target.at_least:g}" if at_least else f"<= {target.at_most:g}"
        print(f"{target.name:45}{limit:>10}{target.reached:10.2f}  {'yes' if is_met else 'NO'}")
